"""Pretrained timm models: what is frozen, how fast layers learn, and how their images are normalised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.optim
import torch
from safetensors.torch import load_file, save_file
from wbcbench_plugins.backbones.timm import Timm

from wbcbench.contracts import Cells, Task
from wbcbench.data.views import ResidentCells
from wbcbench.errors import IncompatibleError
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec, Method, Protocol, Recipe, Trial
from wbcbench.testing.components import registry
from wbcbench.training.build import build_fusion, measure_inputs
from wbcbench.training.loop import make_optimiser, set_learning_rate

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[str], str]:
    def make(model: str) -> str:
        path = tmp_path / f"{model}.safetensors"
        torch.manual_seed(0)
        save_file(timm.create_model(model, num_classes=0).state_dict(), str(path))
        return str(path)

    return make


@pytest.mark.parametrize(
    ("model", "frozen", "trained"),
    [
        (
            "test_resnet",
            "conv1.0.weight bn1.weight layer1.0.conv1.weight layer2.0.bn1.bias",
            "layer3.0.conv1.weight",
        ),
        ("test_vit", "pos_embed cls_token blocks.0.norm1.weight blocks.1.mlp.fc2.bias", "blocks.2.norm1.weight"),
        ("test_convnext", "stem.0.weight stages.1.downsample.0.weight", "stages.2.blocks.0.norm.weight"),
    ],
)
def test_stages_are_frozen_from_the_stem_on(
    model: str, frozen: str, trained: str, checkpoint: Callable[[str], str]
) -> None:
    net = Timm(
        3, 32, Timm.Params(model=model, checkpoint=checkpoint(model), freeze="stages:2", drop_path_rate=0.2)
    )
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(4, 3, 32, 32)).embedding.square().sum().backward()
    grads = {name: p.grad is not None for name, p in net.net.named_parameters()}
    assert not any(grads[name] for name in frozen.split())
    assert grads[trained]
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    modules = tuple(f"net.{name.rpartition('.')[0]}." for name in frozen.split() if "." in name)
    assert not [k for k in changed if k.startswith(modules)], "statistics are kept"
    assert bool(changed) == (model == "test_resnet"), "those of trained norms are not"


def test_all_is_frozen_and_evaluated(checkpoint: Callable[[str], str]) -> None:
    net = Timm(3, 32, Timm.Params(model="test_resnet", checkpoint=checkpoint("test_resnet"), freeze="all")).train()
    x = torch.randn(4, 3, 32, 32)
    embedding = net(x).embedding
    assert not embedding.requires_grad
    torch.testing.assert_close(embedding, net.eval()(x).embedding)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"freeze": "all"}, "would keep random weights with freeze=all"),
        ({"freeze": "some"}, "Expected freeze of none, all or stages:N"),
        ({"freeze": "stages:4", "checkpoint": "there"}, "has 4 stages after its stem, but freeze=stages:4"),
    ],
)
def test_what_cannot_be_frozen_is_refused(
    given: dict[str, Any], said: str, checkpoint: Callable[[str], str]
) -> None:
    if "checkpoint" in given:
        given = given | {"checkpoint": checkpoint("test_resnet")}
    with pytest.raises(IncompatibleError, match=said):
        Timm(3, 32, Timm.Params(model="test_resnet", **given))


def test_rates_fall_from_layer_to_layer_as_in_timm() -> None:
    net = Timm(3, 32, Timm.Params(model="test_vit", lr_decay=0.5))
    head = torch.nn.Linear(net.dim, 3)
    optimiser = make_optimiser(torch.nn.ModuleList([net, head]), Recipe(weight_decay=0.1))
    set_learning_rate(optimiser, 1.0)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    expected = timm.optim.param_groups_layer_decay(net.net, weight_decay=0.1, layer_decay=0.5)
    rates = {id(p): g["lr_scale"] for g in expected for p in g["params"]}
    assert {i: rate for i, (rate, _) in found.items() if i in rates} == rates
    assert len(set(rates.values())) == 7
    assert found[id(head.weight)] == (1.0, 0.1)
    assert found[id(head.bias)] == (1.0, 0.0)


def raw(dtype: Any = np.uint8) -> Cells:
    random = np.random.default_rng(0)
    images = {"u": random.integers(0, 200, (8, 3, 32, 32)), "v": random.integers(50, 90, (8, 1, 32, 32))}
    images = {m: x.astype(dtype) for m, x in images.items()}
    return Cells(images=images, labels=np.arange(8) % 2, classes=("x", "y"), fingerprint="f")


def built(fusion: str, cells: Cells, **backbone: Any) -> Any:
    task = Task({m: x.shape[1] for m, x in cells.images.items()}, cells.classes, 32)
    if fusion == "single":
        task = Task({"v": 1}, cells.classes, 32)
    params = {"model": "test_resnet", "normalise": "pretrained"} | backbone
    method = Method(
        fusion=ComponentSpec(name=fusion), backbone=ComponentSpec(name="timm", params=params), recipe=Recipe()
    )
    protocol = Protocol(
        dataset=ComponentSpec(name="any"), modalities=task.modalities, image_size=32, fingerprint="f"
    )
    return build_fusion(Trial(protocol=protocol, method=method), task, registry())


@pytest.mark.parametrize("fusion", ["single", "early", "concat", "independent"])
def test_a_network_sees_pixels_as_its_pretraining_did(fusion: str) -> None:
    """Whatever channels a fusion gives to it; a grey image is shown three times."""
    cells = raw()
    resident = ResidentCells(cells, ("u", "v"), np.arange(6), torch.device("cpu"))
    network = built(fusion, cells)
    measure_inputs(network, resident)
    config = timm.get_pretrained_cfg("test_resnet")
    seen = []
    for module in network.modules():
        if isinstance(module, Timm):
            module.renormalise.register_forward_hook(lambda _module, _x, y: seen.append(y))
    ids = torch.arange(8)
    network.eval()({m: resident.images(ids, m) for m in network.task.modalities})
    u, v = (torch.from_numpy(x).float() / 255 for x in (cells.images["u"], cells.images["v"]))
    grey = v.repeat(1, 3, 1, 1)
    wanted = {"single": [grey], "concat": [u, grey]}.get(fusion, [torch.cat([u, v], 1)])
    for found, image in zip(seen, wanted, strict=True):
        places = [i % 3 for i in range(image.shape[1])]
        mean, sd = (torch.tensor([c[i] for i in places])[:, None, None] for c in (config.mean, config.std))
        torch.testing.assert_close(found, (image - mean) / sd, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fusion", ["late_prob", "mid_concat", "mmtm", "mbt", "cross_attention"])
def test_fusions_train_around_a_frozen_network(fusion: str, checkpoint: Callable[[str], str]) -> None:
    """Those that exchange maps take out what the frozen network does not need, and nothing else."""
    given = {"checkpoint": checkpoint("test_resnet"), "normalise": "standard"}
    usual, frozen = (built(fusion, raw(), freeze=how, **given).train() for how in ("none", "all"))
    assert usual.state_dict().keys() == frozen.state_dict().keys()
    images = {"u": torch.randn(4, 3, 32, 32), "v": torch.randn(4, 1, 32, 32)}
    sum(out.logits.square().sum() for out in frozen(images).values()).backward()
    learning = {name for name, p in frozen.named_parameters() if p.grad is not None}
    fixed = {name for name, p in frozen.named_parameters() if not p.requires_grad}
    assert learning
    assert not learning & fixed
    assert fixed >= {f"{n}.{p}" for n, m in frozen.named_modules() if isinstance(m, Timm)
                     for p, _ in m.named_parameters()}  # fmt: skip


@pytest.mark.parametrize(
    ("fusion", "dtype", "said"),
    [
        ("early", np.uint16, "'u' has 16, of which no value is white"),
        ("shared_trunk", np.uint8, "shows it others"),
    ],
)
def test_other_images_are_refused(fusion: str, dtype: Any, said: str) -> None:
    cells = raw(dtype)
    if fusion == "shared_trunk":
        cells.images["v"] = cells.images["v"].repeat(3, 1)
    with pytest.raises(IncompatibleError, match=said):
        measure_inputs(built(fusion, cells), ResidentCells(cells, ("u", "v"), np.arange(6), torch.device("cpu")))


@pytest.mark.parametrize(("fusion", "stored"), [("single:hidden=8", True), ("concat", True), ("early", False)])
def test_heads_are_trained_on_stored_embeddings(
    fusion: str, stored: bool, train: Train, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """They are computed once per view, of as many views as asked for, and give the network that images give."""
    backbone = f"test_resnet:checkpoint={checkpoint('test_resnet')}:freeze=all:views=2"
    args = ("--fusion", fusion, "--backbone", backbone, "--image-size", "32", "--epochs", "3")
    count = 1 if fusion.startswith("single") else 2
    args = (*args, "--modalities", ("u", "u,v")[count - 1])
    quick, slow = train(*args, store="quick"), train(*args, "--set", "replay=never", store="slow")
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.glob("quick/replay/*/*.npy"))
    assert len(files) == (stored and count * 3), "two views of training cells, one of validation cells"
    a, b = (d["records"][0] for d in (quick, slow))
    p, q = (np.load(Path(r["path"]) / "predictions.npz")["test_probabilities"] for r in (a, b))
    np.testing.assert_allclose(p, q, atol=2e-3)
    assert a["cost"]["params"] == b["cost"]["params"]
    if stored:
        stamps = [(tmp_path / f).stat().st_mtime_ns for f in files]
        train(*args, "--set", "training.lr=0.001", store="quick")
        assert [(tmp_path / f).stat().st_mtime_ns for f in files] == stamps, "another head reads them back"
        assert len(list(tmp_path.glob("quick/replay/*/*.npy"))) == len(files)


def test_all_heads_of_a_frozen_teacher_answer_from_the_same_embeddings(
    train: Train, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """The student's first views are those that its teacher was trained on; k-NN adds the unaugmented image."""
    teacher = f"test_resnet:checkpoint={checkpoint('test_resnet')}:freeze=all:views=2"
    args = ("--fusion", "single", "--modalities", "u", "--image-size", "32", "--epochs", "4", "--kd", "logits",
            "--teacher", teacher, "--set", "augmentation.views=3")  # fmt: skip
    quick, slow = train(*args, store="quick"), train(*args, "--set", "replay=never", store="slow")
    assert any("embeds 3 views of about 51 training cells at 32 px" in n for n in quick["notes"])
    p, q = (
        np.load(Path(d["records"][1]["path"]) / "predictions.npz")["test_probabilities"] for d in (quick, slow)
    )
    np.testing.assert_allclose(p, q, atol=2e-3)

    def stored(kind: str) -> dict[Path, int]:
        return {f: f.stat().st_mtime_ns for f in tmp_path.glob(f"quick/replay/*/{kind}_*.npy")}

    first = stored("embedding")
    assert len(first) == 3 + 1, "views of training cells, and validation cells once"
    assert len(stored("logits")) == 3
    train(*args, "--set", "teacher.fusion=single:hidden=4", store="quick")
    assert stored("embedding") == first
    train(*args, "--set", "teacher.fusion=knn:k=3", store="quick")
    assert len(stored("embedding")) == len(first) + 1
    assert stored("embedding").items() >= first.items()
    assert len(stored("logits")) == 9


def test_a_setting_of_frozen_networks_has_no_effect_on_others(
    train: Train, checkpoint: Callable[[str], str]
) -> None:
    """Alone it is refused; where another backbone uses it, it is left out of the trial."""
    args = ("--fusion", "single", "--modalities", "u", "--image-size", "32", "--dry-run")
    alone = train(*args, "--backbone", "test_resnet:views=3", code=2)["stderr"]
    assert "backbone.views = 3 of backbone 'timm' has no effect: it has one only where freeze = all" in alone
    frozen = f"test_resnet:checkpoint={checkpoint('test_resnet')}:freeze=all"
    plain = train(*args, "--backbone", "test_resnet")["trials"]
    both = train(*args, "--backbone", f"test_resnet,{frozen}", "--set", "backbone.views=3")
    assert [r["freeze"] for r in both["trials"]] == ["none", "all"]
    assert both["trials"][0]["trial_id"] == plain[0]["trial_id"]
    assert any(
        "each embeds 2 views of about 51 training cells at 32 px once (102 images)" in n for n in both["notes"]
    )


def test_a_frozen_teacher_of_another_side_teaches(
    train: Train, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    teacher = f"test_vit:checkpoint={checkpoint('test_vit')}:normalise=pretrained:freeze=stages:2:lr_decay=0.75"
    document = train("--kd", "logits", "--fusion", "independent", "--teacher", teacher, "--epochs", "1",
                     "--set", "teacher.image_size=32")  # fmt: skip
    taught = [r for r in document["records"] if r["role"] == "teacher"]
    assert len(taught) == 2
    for row in taught:
        record = Store(tmp_path / "store").load(row["trial_id"])
        assert record.trial.method.backbone.params["freeze"] == "stages:2"
        weights = record.weights()
        assert weights["backbone.renormalise.scale"].shape == (3, 1, 1)
        start = load_file(checkpoint("test_vit"))
        same = {n for n, p in start.items() if torch.equal(p, weights[f"backbone.net.{n}"])}
        assert {"blocks.1.mlp.fc1.weight", "patch_embed.proj.weight"} <= same
        assert "blocks.2.mlp.fc1.weight" not in same
