"""Local weights of timm models: loaded where they fit, refused before training where they do not."""

from __future__ import annotations

import logging
import pickle
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from wbcbench_plugins.backbones._timm_weights import adapt_stem, load_weights
from wbcbench_plugins.backbones.timm import Timm

from wbcbench.errors import IncompatibleError, UsageError

Weights = dict[str, Tensor]
Train = Callable[..., dict[str, Any]]

MODEL, STEM = "test_resnet", "conv1.0.weight"


def weights(model: str = MODEL, **kwargs: Any) -> Weights:
    """Weights that no fresh network has."""
    state = timm.create_model(model, **({"num_classes": 0} | kwargs)).state_dict()
    return {k: torch.full_like(v, 0.5) if v.is_floating_point() else v for k, v in state.items()}


def load(path: Path, document: Any, in_chans: int = 3, model: str = MODEL) -> Weights:
    """What a network has that was started from a file with this content."""
    if path.suffix == ".safetensors":
        save_file(document, str(path))
    else:
        torch.save(document, path)
    found: Weights = Timm(in_chans, 32, Timm.Params(model=model, checkpoint=str(path))).net.state_dict()
    return found


def floats(state: Weights) -> Weights:
    return {k: v for k, v in state.items() if v.is_floating_point()}


def check_loaded(found: Weights, but: tuple[str, ...] = ()) -> None:
    assert all((v == 0.5).all() for k, v in floats(found).items() if k not in but)


@pytest.mark.parametrize(
    ("suffix", "model"), [(".pth", MODEL), (".safetensors", MODEL), (".safetensors", "test_efficientnet")]
)
def test_a_file_of_the_network_is_loaded_without_a_word(
    suffix: str, model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks of EfficientNet have two numbers, as those of DINOv2 in chunks."""
    check_loaded(load(tmp_path / f"w{suffix}", weights(model), model=model))
    assert not caplog.records


@pytest.mark.parametrize("classes", [2, 1000])
def test_a_classifier_of_any_number_of_classes_is_left_out(
    classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_loaded(load(tmp_path / "w.pth", weights(num_classes=classes)))
    assert not caplog.records


def test_counters_may_be_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(floats(weights())) < 0.9 * len(weights())
    check_loaded(load(tmp_path / "w.pth", floats(weights())))
    assert not caplog.records


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"stem.0.weight": torch.ones(8, 3, 3, 3), "b.c": torch.ones(1)},
            "The file has stem.0.weight, b.c; 2 of its 2 tensors are not used",
        ),
        ({"bn.weight": torch.ones(3)}, "The file has bn.weight; 1 of its 1 tensors are not used"),
        ({}, "The file has none; 0 of its 0 tensors are not used"),
        ({"state_dict": {}}, "The file has none; 0 of its 0 tensors are not used"),
        ({"epoch": 3, "loss": 0.1}, "The file has none; 0 of its 0 tensors are not used"),
    ],
)
def test_a_file_of_which_nothing_fits_is_refused(document: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError) as refused:
        load(tmp_path / "w.pth", document)
    text, total = str(refused.value), len(floats(weights()))
    assert f"of the network's {total} tensors it has 0, and 0 in another shape." in text
    assert said in text
    assert f"The network expects {STEM}, conv1.1.weight and {total - 2} more." in text
    assert "leave backbone.checkpoint out" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_one_tensor_of_many_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError) as refused:
        load(tmp_path / "w.safetensors", {f"{prefix}{STEM}": weights()[STEM]})
    assert f"it has 1, and 0 in another shape. The file has {prefix}{STEM}; 0 of its 1" in str(refused.value)
    assert ("The prefix 'backbone.' was removed" in str(refused.value)) == bool(prefix)


@pytest.mark.parametrize("lacking", [4, 7])
def test_nine_tenths_are_enough_and_the_rest_is_named(
    lacking: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = weights()
    names = list(floats(whole))
    assert len(names) == 75
    absent = tuple(names[-lacking:])
    check_loaded(load(tmp_path / "w.pth", {k: v for k, v in whole.items() if k not in absent}), but=absent)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        f"{lacking} of 75 tensors are not in it and start untrained ({absent[0]}, {absent[1]} and"
        in record.msg % record.args
    )


def test_fewer_than_nine_tenths_are_refused(tmp_path: Path) -> None:
    whole = weights()
    for name in list(floats(whole))[-8:]:
        del whole[name]
    with pytest.raises(IncompatibleError, match="of the network's 75 tensors it has 67, and 0 in another shape"):
        load(tmp_path / "w.pth", whole)


def test_a_tensor_in_another_shape_is_refused_and_shown(tmp_path: Path) -> None:
    """It is another network's, as torch too would say: the names of all others are the same by chance."""
    given = weights() | {"bn1.weight": torch.ones(7)}
    with pytest.raises(IncompatibleError) as refused:
        load(tmp_path / "w.pth", given)
    assert "it has 74, and 1 in another shape (bn1.weight 7 instead of 32)" in str(refused.value)


@pytest.mark.parametrize("size", [48, 160])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_positional_embeddings_are_resampled(
    size: int, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {prefix + k: v for k, v in weights("test_vit", img_size=size).items()}
    found = load(tmp_path / "vit.pth", given, model="test_vit")
    check_loaded(found, but=("pos_embed",))
    torch.testing.assert_close(found["pos_embed"], torch.full((1, 5, 64), 0.5))
    places = (size // 16) ** 2 + 1
    assert f"pos_embed 1x{places}x64 was resampled to 1x5x64 for this image size" in caplog.text


def test_only_positional_embeddings_are_resampled(tmp_path: Path) -> None:
    """A patch of another size is another network's, though timm could resample its filters."""
    given = weights("test_vit", patch_size=32, img_size=64)
    with pytest.raises(IncompatibleError, match=r"patch_embed\.proj\.weight 64x3x32x32 instead of 64x3x16x16"):
        load(tmp_path / "vit.pth", given, model="test_vit")


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "encoder.", "module.model.backbone.net.", "x."]
)
@pytest.mark.parametrize("outer", [(), ("state_dict",), ("model",), ("net",), ("teacher", "weights")])
def test_one_prefix_is_removed_and_told(
    prefix: str, outer: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document: Any = {prefix + k: v for k, v in weights(num_classes=5).items()}
    for name in outer:
        document = {name: document, "epoch": 3}
    check_loaded(load(tmp_path / "w.pth", document))
    told = prefix
    if outer in ((), ("state_dict",), ("model",)):  # timm removes these without a word
        told = prefix.removeprefix("module.").removeprefix("_orig_mod.")
    said = [r.message for r in caplog.records]
    assert ["was removed from its keys" in text for text in said] == [True] * bool(told)
    assert all(f"{told}' was removed from its keys." in text for text in said)


def test_what_else_is_in_the_file_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {f"backbone.{k}": v for k, v in weights().items()} | {"head.weight": torch.ones(3, 3)}
    check_loaded(load(tmp_path / "w.pth", given))
    (record,) = caplog.records
    assert f"1 of its {len(given)} tensors are not used (head.weight)" in record.message


def test_the_averaged_weights_are_taken_where_there_are_both(tmp_path: Path) -> None:
    """As timm does."""
    plain = {k: torch.zeros_like(v) for k, v in weights().items()}
    check_loaded(load(tmp_path / "w.pth", {"state_dict": plain, "state_dict_ema": weights()}))


def test_of_two_networks_none_is_guessed(tmp_path: Path) -> None:
    both = {f"{name}.{k}": v for k, v in weights().items() for name in ("student", "teacher")}
    with pytest.raises(UsageError, match=r"holds several, under student\., teacher\.\. Save the one"):
        load(tmp_path / "w.pth", both)


@pytest.mark.parametrize(("have", "want"), [(3, 1), (3, 2), (3, 4), (3, 6), (2, 3), (1, 3)])
def test_the_stem_is_adapted_to_the_channels(
    have: int, want: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = weights(in_chans=have)
    given[STEM] = torch.rand_like(given[STEM])
    found = load(tmp_path / "w.pth", {f"net.{k}": v for k, v in given.items()}, in_chans=want)
    check_loaded(found, but=(STEM,))
    assert found[STEM].shape[1] == want
    by_timm = have == 3
    expected = (
        timm.models.adapt_input_conv(want, given[STEM]) if by_timm else given[STEM][:, [0, have - 1, 0]] * have / 3
    )
    torch.testing.assert_close(found[STEM], expected)
    (record,) = caplog.records
    assert f"{STEM} 16x{have}x3x3, was adapted to other channels" in record.message


def test_only_channels_of_a_stem_are_adapted() -> None:
    for shape in ((24, 3, 5, 5), (16, 3, 3, 3), (24, 0, 3, 3), (24, 27)):
        weight = torch.rand(shape)
        assert adapt_stem(weight, torch.Size((24, 1, 3, 3))) is weight


TINY_VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "init_values": 1e-5}
"""Of a vision transformer as small as a test wants."""


def vit(size: int, **more: Any) -> Any:
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, **TINY_VIT, **more)


def released(state: Weights, registers: bool = False) -> Weights:
    """A DINOv2 release: blocks in chunks of two, a mask token, registers beside a class token with a place."""

    def chunked(name: str) -> str:
        return re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", name)

    out = {chunked(name): tensor for name, tensor in state.items()}
    out["mask_token"] = torch.zeros(1, 16)
    if registers:
        out["register_tokens"] = out.pop("reg_token")
        out["pos_embed"] = torch.cat([torch.full((1, 1, 16), 0.25), out["pos_embed"]], 1)
    return out


def random(net: Any) -> Weights:
    return {k: torch.randn_like(v) for k, v in net.state_dict().items()}


RELEASES: dict[str, Callable[[Weights], Any]] = {
    "DINOv2": released,
    "DinoBloom": lambda state: {
        "teacher": {f"backbone.{k}": v for k, v in released(state).items()}
        | {"dino_head.mlp.0.weight": torch.ones(4, 16), "ibot_head.last_layer.weight_v": torch.ones(4, 4)}
    },
    "MAE": lambda state: {
        "model": state | {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 17, 8)},
        "args": Namespace(lr=1e-3),
        "epoch": 3,
    },
    "Lightning": lambda state: {
        "state_dict": {f"encoder.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 1e-3},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    },
    "DDP": lambda state: {f"module.{k}": v for k, v in state.items()},
    "average beside": lambda state: {
        f"{name}.{k}": v if name == "ema_model" else torch.zeros_like(v)
        for k, v in state.items()
        for name in ("model", "ema_model")
    },
}


@pytest.mark.parametrize("release", RELEASES)
def test_releases_are_recognised_and_their_places_resampled(release: str, tmp_path: Path) -> None:
    given, net = random(vit(64)), vit(32)
    torch.save(RELEASES[release](dict(given)), tmp_path / "w.pth")
    load_weights(net, tmp_path / "w.pth", "a vit", 3)
    found = net.state_dict()
    for name, tensor in given.items():
        if name != "pos_embed":
            torch.testing.assert_close(found[name], tensor)
    expected = timm.layers.resample_abs_pos_embed(given["pos_embed"], [2, 2], num_prefix_tokens=1)
    torch.testing.assert_close(found["pos_embed"], expected)


def test_registers_of_dinov2_get_timms_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net, given = (vit(32, reg_tokens=2, no_embed_class=True) for _ in range(2))
    state = random(given)
    save_file(released(state, registers=True), str(tmp_path / "w.safetensors"))
    load_weights(net, tmp_path / "w.safetensors", "a vit", 3)
    expected = state | {"cls_token": state["cls_token"] + 0.25}  # its place is added, since timm's has none
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    (record,) = caplog.records
    assert "43 of its tensors have other names in timm (" in record.message
    assert "are not used (mask_token)" in record.message


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    for suffix, save in ((".pth", torch.save), (".safetensors", lambda d, p: save_file(d, str(p)))):
        path = tmp_path / f"w{suffix}"
        save(weights(), path)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(UsageError, match="cannot be read"):
            Timm(3, 32, Timm.Params(model=MODEL, checkpoint=str(path)))


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1}, protocol=2), b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_weights_file_is_refused_in_one_line(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        Timm(3, 32, Timm.Params(model=MODEL, checkpoint=str(path)))
    assert f"but {path} cannot be read: " in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_no_code_of_the_file_runs(tmp_path: Path) -> None:
    for name, document in {
        "trap": {"state_dict": weights(), "trap": Trap(tmp_path / "sprung")},
        "whole": timm.create_model(MODEL),
    }.items():
        with pytest.raises(UsageError, match="holds Python objects, and loading them would run code"):
            load(tmp_path / f"{name}.pth", document)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("role", ["backbone", "teacher"])
def test_it_is_refused_before_anything_is_trained(role: str, train: Train, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"stem.weight": torch.ones(3)}, str(path))
    choice = ("--fusion", "early", "--kd", "logits", f"--{role}", f"timm:model={MODEL}:checkpoint={path}")
    err = train(*choice, "--image-size", "32", code=2)["stderr"]
    assert f"Expected the weights of '{MODEL}' in {path}" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "store").glob("records/*"))


def test_a_prefix_and_other_channels_train(train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "w.safetensors"
    save_file({f"model.{k}": v for k, v in timm.create_model(MODEL).state_dict().items()}, str(path))
    train("--fusion", "independent", "--kd", "none", "--backbone", f"timm:model={MODEL}:checkpoint={path}",
          "--image-size", "32", "--epochs", "1")  # fmt: skip
    said = [r.message for r in caplog.records if "Weights of" in r.message]
    assert len(said) == 1, "once, though the network is built more often"


@pytest.mark.parametrize(("model", "size"), [("test_resnet", 32), ("test_vit", 32), ("test_convnext", 32)])
def test_dropout_before_the_classifier_is_there(model: str, size: int) -> None:
    Timm(3, size, Timm.Params(model=model, drop_rate=0.35))


def test_dropout_of_a_model_that_has_none_is_refused() -> None:
    with pytest.raises(IncompatibleError, match=r"drop_rate = 0\.35 has no effect\. Leave it out"):
        Timm(3, 32, Timm.Params(model="levit_128s", drop_rate=0.35))
