"""Weights of other programs are loaded where they fit, and named where not; costs never lose a trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wbcbench.evaluation.cost import macs, macs_or_why
from wbcbench.testing.components import component_class
from wbcbench.testing.toys import build_toy, toy_batch, toy_task

Invoke = Callable[..., tuple[int, str, str]]
MODEL = "test_resnet"


@pytest.fixture
def run(invoke: Invoke, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any], str]]:
    def call(*args: str) -> tuple[int, dict[str, Any], str]:
        code, out, err = invoke(
            "run", "--fusion", "early", "--kd", "none", "--epochs", "1", "--device", "cpu", "--json",
            "--store", str(tmp_path / "store"), *args,
        )  # fmt: skip
        return code, json.loads(out) if out else {}, err

    return call


Run = Callable[..., tuple[int, dict[str, Any], str]]
SYNTHETIC = ("--dataset", "synthetic", "--set", "dataset.cells=60", "--set", "dataset.image_size=32")


def state(**kwargs: Any) -> dict[str, Tensor]:
    return timm.create_model(MODEL, **kwargs).state_dict()


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        ({f"backbone.{k}": v for k, v in state(in_chans=5).items()}, 0, "the prefix 'backbone.' was removed"),
        ({f"module.student.{k}": v for k, v in state(in_chans=5).items()}, 0, "'student.' was removed"),
        ({f"_orig_mod.net.{k}": v for k, v in state(in_chans=5).items()}, 0, "'net.' was removed"),
        ({"model_ema": state(in_chans=5), "model": state(in_chans=5)}, 0, ""),
        ({"optimizer": {"lr": 0.1}, "epoch": 3, "encoder": state(in_chans=5)}, 0, "'encoder.' was removed"),
        (state(in_chans=5) | {"proj.weight": torch.ones(3), "proj.bias": torch.ones(3)}, 0,
         "2 of its 94 tensors are not used (proj.weight, proj.bias)"),
        (state(in_chans=3), 0, "its first convolution, conv1.0.weight 16x3x3x3, was adapted to other channels"),
        ({"stem.weight": torch.ones(3, 3), "b": torch.ones(1)}, 2, "tensors it has 0, and 0 in another shape"),
        ({}, 2, "The file has none"),
        ({"conv1.0.weight": state(in_chans=5)["conv1.0.weight"]}, 2, "tensors it has 1"),
        ({f"{n}.{k}": v for k, v in state(in_chans=5).items() for n in ("a", "b")}, 2, "holds several"),
        (timm.create_model("test_vit").state_dict(), 2, "The network expects conv1.0.weight"),
        ({"model": nn.Linear(2, 2), **state()}, 2, "holds Python objects, and loading them would run code"),
    ],
)  # fmt: skip
def test_a_weights_file_is_loaded_or_refused_in_one_line(
    document: Any, code: int, says: str, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from wbcbench_plugins.backbones._timm_weights import say_once

    say_once.cache_clear()
    torch.save(document, tmp_path / "w.pth")
    got, done, err = run(*SYNTHETIC, "--backbone", f"timm:model={MODEL}:checkpoint={tmp_path / 'w.pth'}")
    assert got == code, err
    assert says in err + caplog.text
    assert "Traceback" not in err
    assert bool(done.get("records")) == (code == 0)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_stem_of_colour_weights_is_adapted(channels: int, run: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    shape = (60, 32, 32) if channels == 1 else (60, channels, 32, 32)
    np.savez(
        tmp_path / "grey.npz", image=random.integers(0, 255, shape, dtype=np.uint8), label=labels,
        allow_pickle=False,
    )  # fmt: skip
    save_file(state(), str(tmp_path / "rgb.safetensors"))
    layout = () if channels == 1 else ("--set", "dataset.layout=channels_first")
    code, _, err = run(
        "--dataset", "npz", "--set", f"dataset.path={tmp_path / 'grey.npz'}", *layout,
        "--backbone", f"timm:model={MODEL}:checkpoint={tmp_path / 'rgb.safetensors'}",
    )  # fmt: skip
    assert code == 0, err


class Queries(nn.Module):
    """Learned queries, expanded to the batch, in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.z = nn.Parameter(torch.zeros(4, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        x = images["a"]
        found: Tensor = self.attention(self.norm(self.z.expand(len(x), -1, -1)), x, x)[0]
        return found


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("trainable", [True, False])
def test_macs_of_an_expanded_parameter_are_counted(mode: Callable[[], Any], trainable: bool) -> None:
    net = Queries().requires_grad_(trainable)
    with mode():
        counted = macs(net, {"a": torch.randn(1, 3, 8)})
    # projections of 4 queries, 3 keys and 3 values, scores and their use, projection of 4 results
    assert counted == 8 * 8 * (4 + 3 + 3) + 2 * (4 * 3 * 8) + 8 * 8 * 4


@pytest.mark.parametrize("name", ["mbt", "token_transformer", "cross_attention", "token_fusion"])
def test_macs_of_fusions_by_attention_are_counted_after_training(name: str) -> None:
    fusion = build_toy(component_class("fusion", name), toy_task(2))
    images = {m: x[:1] for m, x in toy_batch(fusion.task).images.items()}
    count, why = macs_or_why(fusion.deploy(), images)
    assert (bool(count), why) == (True, "")


UNCOUNTED = '''
"""A fusion with an operation that counters do not support."""
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode
from wbcbench.contracts import Fusion, Output


class Odd(Fusion):
    """One network."""

    name = "odd"

    def __init__(self, task, backbone, params):
        super().__init__(task, backbone, params)
        self.backbone = backbone(sum(task.channels.values()))
        self.head = torch.nn.Linear(self.backbone.dim, task.n_classes)

    def forward(self, images, present=None, maps=False):
        if _get_current_dispatch_mode() is not None:
            raise NotImplementedError("no counter here")
        h = self.backbone(torch.cat(list(images.values()), 1)).embedding
        return {"joint": Output(self.head(h), h, reads=frozenset(images), head=self.head)}
'''


def test_a_cost_that_cannot_be_counted_is_blank_with_a_reason(
    run: Run, invoke: Invoke, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "odd.py").write_text(UNCOUNTED)
    code, document, err = run(
        *SYNTHETIC, "--fusion", "odd", "--plugins-dir", str(tmp_path / "plugins"), "--backbone", "cellnet:width=4"
    )
    assert code == 0, err
    why = "multiply-accumulates cannot be counted (NotImplementedError: no counter here)"
    assert f"odd: {why}. It is trained, and its MACs stay blank." in caplog.text
    (record,) = document["records"]
    assert record["cost"]["macs"] is None
    result = json.loads((Path(record["path"]) / "result.json").read_text())
    assert f"Cost: {why}." in result["notes"]
    code, _, err = invoke("leaderboard", "--store", str(tmp_path / "store"), "--json")
    assert code == 0, err


def test_a_model_that_cannot_read_a_size_is_refused_before_training(run: Run, tmp_path: Path) -> None:
    code, _, err = run(*SYNTHETIC, "--backbone", "efficientformer_l1")
    assert code == 2, err
    assert "timm model 'efficientformer_l1' cannot read" in err
