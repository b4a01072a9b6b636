"""Every built-in corruption against its contract; a corruption of a user's is applied by `--evaluate full`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wbcbench.api.requests import check_evaluate
from wbcbench.contracts import CellDraws, Corruption
from wbcbench.errors import PluginError, UsageError
from wbcbench.evaluation.corrupters import STANDARD, Corrupter, standard
from wbcbench.records.evaluations import read_checksummed
from wbcbench.testing import CorruptionContract
from wbcbench.testing.components import registry
from wbcbench.testing.promise import BrokenPromise

BUILTIN = [c.name for c in registry().components("corruption") if c.builtin]
PLUGIN = """
from wbcbench.contracts import Corruption, Parameters, param


class Dim(Corruption):
    '''The microscope's lamp is dimmer.'''
    name = "dim"
    reads = "both"

    class Params(Parameters):
        factor: float = param(1.0, "Of the loss of light.")

    def corrupt(self, x, strength, draws):
        return x - strength * self.params.factor * (1 + draws.uniform("lamp").view(-1, *[1] * (x.ndim - 1)))
"""


@pytest.mark.parametrize("name", BUILTIN, scope="class")
class TestCorruptions(CorruptionContract):
    @pytest.fixture(autouse=True)
    def _choose(self, name: str) -> None:
        type(self).corruption = name


GOLDEN = {
    "noise": 0.9329841968, "blur": 0.5937508579, "defocus": 0.5940306010, "illumination": 0.6003006514,
    "stain_shift": 0.4855638903, "misregistration": 0.5931030657,
}  # fmt: skip
"""Mean square of two cells at severity 3, from before corruptions were plugins."""


@pytest.mark.parametrize("name", GOLDEN)
def test_results_of_earlier_evaluations_stay_comparable(name: str) -> None:
    x = torch.linspace(-2, 2, 2 * 2 * 16 * 16).view(2, 2, 16, 16).sin()
    corrupt = next(c for c in standard() if c.name == name)
    found = corrupt(x, torch.tensor([3, 8]), corrupt.corruption.strengths[2], 0).double()
    assert float((found**2).mean()) == pytest.approx(GOLDEN[name], abs=1e-6)


def test_every_full_evaluation_has_the_built_in_ones() -> None:
    assert set(STANDARD) == set(BUILTIN)


class Unseeded(Corruption):
    """Damages a cell differently every time."""

    name = "unseeded"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return x + strength * torch.rand_like(x)


class OfTheBatch(Corruption):
    """What happens to a cell depends on the others of its batch."""

    name = "of_the_batch"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return x + strength * x.flip(0)


class Constant(Corruption):
    """The same damage at every severity."""

    name = "constant"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return x + 1


class NotFinite(Corruption):
    """Divides by zero where an image is flat."""

    name = "not_finite"

    def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
        return x * (1 + strength / x.flatten(1).std(1).view(-1, 1, 1, 1))


@pytest.mark.parametrize(
    ("cls", "test", "says"),
    [
        (Unseeded, "test_seeded_by_cell", "Draw from `draws`"),
        (OfTheBatch, "test_seeded_by_cell", "alone is damaged otherwise"),
        (Constant, "test_severities_differ_and_grow", "Let the damage grow"),
        (Constant, "test_strength_zero_changes_nothing_or_little", "At strength 0"),
        (NotFinite, "test_values_stay_finite", "NaN or infinite"),
    ],
)
def test_defects_are_found(cls: type[Corruption], test: str, says: str) -> None:
    contract = type("Contract", (CorruptionContract,), {"corruption": cls})()
    with pytest.raises(BrokenPromise, match=says):
        getattr(contract, test)()


def test_a_wrong_shape_is_named() -> None:
    class Cropped(Corruption):
        name = "cropped"

        def corrupt(self, x: Tensor, strength: float, draws: CellDraws) -> Tensor:
            return x[..., 1:]

    with pytest.raises(PluginError, match=r"Expected \[2, 1, 8, 8\] .* of corruption 'cropped'"):
        Corrupter("cropped", Cropped(), "")(torch.zeros(2, 1, 8, 8), torch.arange(2), 0.2, 0)


@pytest.mark.parametrize(
    ("evaluate", "corruption", "says"),
    [
        ("standard", "blur:x=1", "Add --evaluate full"),
        ("full", "blurr", "Did you mean 'blur'"),
        ("full", "noise", "part of every full evaluation"),
        ("full", "noise:sd=2", "'sd' is not a known key"),
        ("whole", (), "'standard' or 'full'"),
    ],
)
def test_what_would_not_be_applied_is_refused(evaluate: str, corruption: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_evaluate(evaluate, corruption, registry())


def test_a_users_corruption_is_applied_and_added_to_what_was_evaluated_before(
    train: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dim.py").write_text(PLUGIN)
    plugins = ("--plugins-dir", str(tmp_path / "mine"))
    method = ("--fusion", "early", "--kd", "none", "--backbone", "cellnet:width=4")
    (first,) = train(*method, "--evaluate", "full")["evaluations"]
    full = (*method, *plugins, "--evaluate", "full", "--corruption", "dim", "--corruption", "dim:factor=3")
    (second,) = train(*full)["evaluations"]
    for m, kinds in second["result"]["corruptions"].items():
        assert list(kinds) == [*first["result"]["corruptions"][m], "local.dim/dim", "local.dim/dim:factor=3.0"]
        assert {k: v for k, v in kinds.items() if "dim" not in k} == first["result"]["corruptions"][m]
        assert all(len(curve) == 5 for curve in kinds.values())
    (path,) = (tmp_path / "store" / "evaluations").iterdir()
    assert read_checksummed(path).checked
    before = path.read_bytes()
    train(*full)
    assert path.read_bytes() == before, "nothing is evaluated twice"
    (tmp_path / "mine" / "dim.py").write_text(PLUGIN.replace("x - strength", "x + strength"))
    (third,) = train(*full)["evaluations"]
    assert third["further_corruptions"] != second["further_corruptions"], "code that changed is run again"
    assert json.loads(path.read_bytes())["further_corruptions"] == third["further_corruptions"]
