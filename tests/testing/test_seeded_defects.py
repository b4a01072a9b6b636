"""Sound plugins pass `wbcbench check`; each of them with one mistake put in is caught, by name, with what to do.

The sound ones are what `wbcbench new` writes, so every defect is a small change to a file that a user starts from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wbcbench.registry import KINDS
from wbcbench.scaffold import write_file

Invoke = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Defect:
    """Changes to the template of a kind, and what `check` must say."""

    kind: str
    changes: tuple[tuple[str, str], ...]
    test: str
    """Part of the name of the contract's test that names it."""
    says: str
    """Regular expression that what is found, and how to fix it, must match."""


FUSION_END = "    # Further methods to override"
FORWARD = 'return {"joint": Output(self.head(h), h,'
ASSEMBLE = """
    def assemble(self, batch, draw):
        rows = {{m: draw.permutation(len(batch), {salt}) for m in self.task.modalities}}
        batch.rows = rows
        return batch

"""
TERMS = "        return {"
POLICY_TERMS = "        return {name: v *"
POLICY_END = "    # Further hooks"
SETUP = """
    def setup(self, {argument}):
        {body}

"""

DEFECTS = {
    "fusion, unregistered parameter in a dict": Defect(
        "fusion",
        (
            ("self.scores = nn.Parameter(torch.zeros(len(trunks)))",
             'self.weights = {"scores": nn.Parameter(torch.zeros(len(trunks)))}'),
            ("(self.scores /", '(self.weights["scores"] /'),
        ),
        "every_parameter", r"`self\.weights\['scores'\]`.*not registered.*nn\.ParameterDict",
    ),
    "fusion, unregistered modules in a list": Defect(
        "fusion",
        (
            ("self.project = nn.ModuleDict({m: nn.Linear(trunk.dim, width) for m, trunk in trunks.items()})",
             "self.project = [nn.Linear(trunk.dim, width) for m, trunk in trunks.items()]"),
            ("self.project[m](", "self.project[self.task.modalities.index(m)]("),
        ),
        "every_parameter", r"`self\.project\[0\]\.weight`.*nn\.ModuleList",
    ),
    "fusion, backbones without their modality": Defect(
        "fusion", (("backbone(channels, modality=m)", "backbone(channels)"),),
        "backbone_per_modality", r"modality=None.*modality=name",
    ),
    "fusion, output that detaches": Defect(
        "fusion", ((FORWARD, FORWARD.replace("(h)", "(h.detach())")),),
        "every_parameter", r"No gradient reaches .*trunks.*\.detach\(\)",
    ),
    "fusion, loss that detaches": Defect(
        "fusion",
        ((FUSION_END, "    def task_terms(self, *given):\n"
          "        return {k: v.detach() for k, v in super().task_terms(*given).items()}\n\n" + FUSION_END),),
        "every_parameter", r"no gradient at all.*\.detach\(\)",
    ),
    "fusion, randomness in evaluation": Defect(
        "fusion", ((FORWARD, f"h = h + 0.1 * torch.rand_like(h)\n        {FORWARD}"),),
        "eval_is_deterministic", r"different logits.*in training only",
    ),
    "fusion, .item() in each step": Defect(
        "fusion", ((FORWARD, f"h = h * weights.sum().item()\n        {FORWARD}"),),
        "read_back", r"\(\.item\(\)\).*Keep it a tensor",
    ),
    "fusion, .cpu() in each step": Defect(
        "fusion", ((FORWARD, f"self.log = weights.detach().cpu()\n        {FORWARD}"),),
        "read_back", r"\(\.cpu\(\)\)",
    ),
    "fusion, rows chosen by a mask": Defect(
        "fusion", ((FORWARD, f"h = h + h[h[:, 0] > 0].sum(0) * 0\n        {FORWARD}"),),
        "read_back", r"x\[mask\].*masks instead of selecting rows",
    ),
    "fusion, wrong shape": Defect(
        "fusion", ((FORWARD, FORWARD.replace("self.head(h)", "self.head(h)[:, None]")),),
        "types", r"logits \[8, 1, 3\] for 8 cells and 3 classes.*\[B, K\]",
    ),
    "fusion, modalities of different cells under one label": Defect(
        "fusion", ((FUSION_END, ASSEMBLE.format(salt="m") + FUSION_END),),
        "labels_and_ids_follow", r"image of another cell.*Output\(rows=",
    ),
    "fusion, cells permuted in forward": Defect(
        "fusion", ((FORWARD, f"h = h[torch.arange(len(h)) - 1] if self.training else h\n        {FORWARD}"),),
        "labels_and_ids_follow", r"image of another cell.*Mix cells in `assemble`",
    ),
    "fusion, labels of the batch instead of the route's": Defect(
        "fusion",
        ((FUSION_END, ASSEMBLE.format(salt='"all"') + "    def task_terms(self, outputs, batch, progress):\n"
          "        return {k: nn.functional.cross_entropy(o.logits, batch.labels, reduction='none')\n"
          f"                for k, o in outputs.items()}}\n\n{FUSION_END}"),),
        "labels_and_ids_follow", r"do not show cell.*never with `batch\.labels`",
    ),
    "fusion, state in an attribute": Defect(
        "fusion",
        (("self.head = ", "self.steps = 0\n        self.head = "),
         (FORWARD, f"self.steps += self.training\n        h = h * (1 + 0.1 * self.steps)\n        {FORWARD}")),
        "state_survives", r"saved and loaded.*register_buffer",
    ),
    "fusion, deployed only for all modalities": Defect(
        "fusion",
        ((FUSION_END, "    def deploy(self, present=None):\n        from wbcbench.contracts import Deployed\n\n"
          f"        return Deployed(self)\n\n{FUSION_END}"),),
        "deployed_for_some", r"requires '\w'.*`Deployed\(fusion, present\)`",
    ),
    "distiller, unregistered parameter in a list": Defect(
        "distiller",
        (("    def terms", SETUP.format(argument="pair", body="self.scale = [nn.Parameter(torch.ones(1))]")
          + "    def terms"),
         ("import torch.nn", "import torch\nfrom torch import nn\nimport torch.nn"),
         ("student.logits, teacher", "student.logits * self.scale[0], teacher")),
        "registered", r"`self\.scale\[0\]`.*nn\.ParameterList",
    ),
    "distiller, loss that detaches": Defect(
        "distiller", (("student.logits, teacher", "student.logits.detach(), teacher"),),
        "has_a_gradient", r"cut from the graph.*\.detach\(\)",
    ),
    "distiller, loss that only trains its adapter": Defect(
        "distiller",
        (("    def terms", SETUP.format(argument="pair", body="self.layer = nn.Linear(*[pair.n_classes] * 2)")
          + "    def terms"),
         ("import torch.nn.functional as F", "import torch.nn.functional as F\nfrom torch import nn"),
         ("import Distiller", "import Needs, Distiller"),
         ("    class Params", "    needs = Needs(trainable=True)\n\n    class Params"),
         ("student.logits, teacher", "self.layer(student.logits.detach()), teacher")),
        "has_a_gradient", r"learns nothing from it",
    ),
    "distiller, randomness of its own": Defect(
        "distiller",
        (("student.logits, teacher", "student.logits + F.dropout(student.logits), teacher"),),
        "random_numbers", r"different losses.*progress\.draw",
    ),
    "distiller, float() in each step": Defect(
        "distiller",
        (("self.params.temperature)}", "self.params.temperature * (1 + 0 * float(teacher.logits.std())))}"),),
        "read_back", r"\(float\(\)\)",
    ),
    "distiller, wrong shape": Defect(
        "distiller", ((".square().sum(1)", ".square()"),),
        "terms_are_named", r"shape \[6, 4\] for 6 cells.*\[B\]",
    ),
    "distiller, state in an attribute": Defect(
        "distiller",
        (("    def terms", SETUP.format(argument="pair", body="self.mean = None") + "    def terms"),
         (TERMS, "        now = teacher.logits.mean(0)\n        self.mean = now if self.mean is None else "
          "0.9 * self.mean + 0.1 * now * (1 + progress.epoch)\n" + TERMS),
         ("student.logits, teacher", "student.logits - self.mean, teacher")),
        "state_is_complete", r"saved and loaded.*register_buffer",
    ),
    "backbone, unregistered modules in a list": Defect(
        "backbone", (("nn.ModuleList(", "list("),),
        "every_parameter", r"`self\.stages\[0\]\.0\.weight`.*nn\.ModuleList",
    ),
    "backbone, embedding that detaches": Defect(
        "backbone", (("x.mean((2, 3))", "x.mean((2, 3)).detach()"),),
        "every_parameter", r"no gradient at all.*\.detach\(\)",
    ),
    "backbone, dropout in evaluation": Defect(
        "backbone", (("x.mean((2, 3))", "nn.functional.dropout(x.mean((2, 3)))"),),
        "eval_is_deterministic", r"different embeddings.*in training only",
    ),
    "backbone, a branch on a value": Defect(
        "backbone", (("        kept: list", "        x = x if x.sum() > -1e9 else -x\n        kept: list"),),
        "read_back", r"bool\(\) or `if`.*torch\.where",
    ),
    "backbone, wrong shape": Defect(
        "backbone", (("x.mean((2, 3))", "x.mean(3)"),),
        "embedding_and_maps", r"gave the embedding.*Pool to \[B, D\]",
    ),
    "backbone, state in an attribute": Defect(
        "backbone",
        (("        self.dim =", "        self.shift = 0.0\n        self.dim ="),
         ("        kept: list", "        self.shift = self.shift + 0.1 if self.training else self.shift\n"
          "        x = x + self.shift\n        kept: list"),
         ('maps=tuple(kept) if maps else ()', 'maps=tuple(kept) if maps else ()')),
        "state_survives", r"saved and loaded.*register_buffer",
    ),
    "policy, unregistered parameter in a list": Defect(
        "policy",
        (("    def images", SETUP.format(argument="fusion", body="super().setup(fusion)\n"
          "        self.factor = [nn.Parameter(torch.ones(()))]") + "    def images"),
         ("from torch import Tensor", "import torch\nfrom torch import Tensor, nn"),
         (POLICY_TERMS, POLICY_TERMS + " self.factor[0] *")),
        "registered", r"`self\.factor\[0\]`.*nn\.ParameterList",
    ),
    "policy, one loss that detaches": Defect(
        "policy", ((POLICY_TERMS, "        return {name: (v.detach() if i else v) *"),),
        "keep_shape_and_gradient", r"cut from the graph.*never detach",
    ),
    "policy, all losses detached": Defect(
        "policy", ((POLICY_TERMS, "        return {name: v.detach() *"),),
        "keep_shape_and_gradient", r"no gradient at all.*never detach",
    ),
    "policy, randomness of its own": Defect(
        "policy",
        (("draw.uniform(len(x), f\"contrast:{m}\")", "torch.rand(len(x))"),
         ("from torch import Tensor", "import torch\nfrom torch import Tensor")),
        "function_of_the_draw", r"different images.*from `draw`",
    ),
    "policy, .item() in each step": Defect(
        "policy", ((POLICY_TERMS, POLICY_TERMS + " (1 + 0 * v.mean().item()) *"),),
        "back_from_the_device", r"\(\.item\(\)\)",
    ),
    "policy, wrong shape": Defect(
        "policy", ((POLICY_TERMS, POLICY_TERMS.replace("v *", "v[:, None] / v.detach() *")),),
        "keep_shape_and_gradient", r"has shape \[8, 8\]|has shape \[8, 1\]",
    ),
    "policy, state in an attribute": Defect(
        "policy",
        (("    def images", SETUP.format(argument="fusion", body="super().setup(fusion)\n        self.steps = 0")
          + "    def images"),
         (POLICY_TERMS, f"        self.steps += 1\n{POLICY_TERMS} self.steps *")),
        "resumes_exactly", r"saved and loaded.*register_buffer",
    ),
    "routing, unregistered parameter in a list": Defect(
        "routing",
        (("    def teach", SETUP.format(argument="pairs", body="self.gate = [torch.nn.Parameter(torch.ones(1))]")
          + "    def teach"),
         ("(logits, self.params.sharpness)", "(logits, self.params.sharpness) * self.gate[0]")),
        "registered", r"`self\.gate\[0\]`.*nn\.ParameterList",
    ),
    "routing, losses that detach": Defect(
        "routing",
        (("return weighted(each,", "return weighted([{k: v.detach() for k, v in e.items()} for e in each],"),),
        "one_and_for_several", r"cut from the graph.*never the student",
    ),
    "routing, .tolist() in each step": Defect(
        "routing", (("        return weighted(", "        self.log = logits.tolist()\n        return weighted("),),
        "read_back", r"\(\.tolist\(\)\)",
    ),
    "routing, wrong shape": Defect(
        "routing",
        (("return weighted(each,", "return {k: torch.stack([e[k] for e in each]) for k in each[0]}  # "),),
        "one_and_for_several", r"shape \[1, 5\] for 5 cells.*Reduce over the teachers",
    ),
    "routing, state in an attribute": Defect(
        "routing",
        (("    def teach", SETUP.format(argument="pairs", body="self.steps = 0") + "    def teach"),
         ("        return weighted(", "        self.steps += 1\n        return weighted("),
         ("self.params.sharpness))", "self.params.sharpness) * self.steps)")),
        "state_is_complete", r"saved and loaded.*register_buffer",
    ),
    "dataset, randomness without a seed": Defect(
        "dataset", (("default_rng(self.params.seed)", "default_rng()"),),
        "loading_twice", r"Two loads.*seed random numbers",
    ),
    "dataset, wrong shape": Defect(
        "dataset", ((".astype(np.uint8)\n", ".astype(np.uint8).transpose(0, 2, 3, 1)\n"),),
        "types", r"\[N=300, C, S, S\]",
    ),
    "dataset, new cells become other modalities than training's": Defect(
        "dataset",
        (("    def _fingerprint(self)", "    def preparation(self, modalities):\n"
          "        from wbcbench.contracts import Preparation\n\n"
          "        made_of = {m: ('photo',) for m in modalities}\n"
          "        derive = lambda raw: {m: raw['photo'] for m in modalities}\n"
          "        return Preparation({'photo': 3}, derive=derive, made_of=made_of)\n\n"
          "    def _fingerprint(self)"),),
        "new_cells", r"`preparation` turns new cells into .*nucleus.*`load` gives .*one function",
    ),
    "dataset, a fingerprint that changes": Defect(
        "dataset", (('content_digest(self.name, 1,', 'content_digest(np.random.default_rng().random(),'),),
        "loading_twice", r"Two loads.*addresses",
    ),
}  # fmt: skip

FUSION_RETURN = FORWARD + " reads=frozenset(self.task.modalities), head=self.head)}"
TERMS_RETURN = 'return {"distance": softened_distance(student.logits, teacher.logits, self.params.temperature)}'
SUPER = "super().__init__(task, backbone, params)"


@dataclass(frozen=True)
class Slip:
    """A mistake that leaves nothing to test: one promise must tell it, and no other repeat it."""

    kind: str
    old: str
    new: str
    says: str
    """Regular expression that what is found, and how to fix it, must match."""
    line: str
    """What the line that it points at must contain."""


SLIPS = {
    "fusion, a bare tensor": Slip(
        "fusion", FUSION_RETURN, "return self.head(h)",
        r"`forward` returned a tensor of shape \[8, 3\].*dict of route -> Output.*Return a dict with one Output\(",
        "return self.head(h)",
    ),
    "fusion, a tensor as the route": Slip(
        "fusion", FUSION_RETURN, 'return {"joint": self.head(h)}',
        r"Route 'joint' is a tensor of shape .* where an Output was expected.*Wrap it: Output\(",
        'return {"joint"',
    ),
    "fusion, no return": Slip(
        "fusion", FUSION_RETURN, FUSION_RETURN.removeprefix("return "),
        r"`forward` returned None.*Add the `return` that is missing", "def forward",
    ),
    "fusion, the loss by .item()": Slip(
        "fusion", FUSION_END, "    def task_terms(self, *given):\n"
        "        return {k: v.mean().item() for k, v in super().task_terms(*given).items()}\n\n" + FUSION_END,
        r"Loss 'joint' is a float where a tensor was expected.*without \.item\(\)", "return {k: v.mean().item()",
    ),
    "fusion, no super().__init__": Slip(
        "fusion", SUPER, "self.task, self.params = task, params",
        r"`__init__` does not reach `super\(\).__init__\(task, backbone, params\)`.*its first line",
        "def __init__",
    ),
    "fusion, super().__init__ without arguments": Slip(
        "fusion", SUPER, "super().__init__()", r"does not reach.*Write `super\(\)", "def __init__",
    ),
    "fusion, no forward": Slip(
        "fusion", "    def forward(", "    def predict_all(", r"`MyMethod`|`Mine` lacks `forward`", "class Mine",
    ),
    "fusion, reads as a list": Slip(
        "fusion", "reads=frozenset(self.task.modalities)", "reads=list(self.task.modalities)",
        r"`reads` of route 'joint' is a list.*reads=frozenset", 'return {"joint"',
    ),
    "distiller, a bare tensor": Slip(
        "distiller", TERMS_RETURN, TERMS_RETURN.replace('{"distance": ', "").replace("}", ""),
        r"`terms` returned a tensor of shape \[6\] where a dict of name -> loss.*\{\"distance\": loss\}",
        "return softened",
    ),
    "distiller, no return": Slip(
        "distiller", TERMS_RETURN, TERMS_RETURN.removeprefix("return "),
        r"`terms` returned None.*`return` that is missing", "def terms",
    ),
    "distiller, the loss by .item()": Slip(
        "distiller", "temperature)}", "temperature).mean().item()}",
        r"Loss 'distance' is a float where a tensor was expected.*without \.item\(\)", ".item()",
    ),
    "distiller, no super().__init__": Slip(
        "distiller", "    def terms",
        "    def __init__(self, params):\n        self.layer = F.softmax\n\n    def terms",
        r"does not reach `super\(\).__init__\(params\)`", "def __init__",
    ),
    "distiller, outputs for logits": Slip(
        "distiller", "student.logits, teacher.logits", "student, teacher",
        r"TypeError.*are Outputs: read student\.logits", "softmax",
    ),
    "backbone, a bare tensor": Slip(
        "backbone", "return Features(embedding=x.mean((2, 3)), maps=tuple(kept) if maps else ())",
        "return x.mean((2, 3))", r"`forward` returned a tensor .* a Features", "return x.mean",
    ),
    "backbone, no dim": Slip(
        "backbone", "        self.dim =", "        self.width =",
        r"`self\.dim` is None.*Set `self\.dim`", "def __init__",
    ),
    "backbone, no super().__init__": Slip(
        "backbone", "super().__init__(in_chans, image_size, params, width)", "self.params = params",
        r"does not reach `super\(\).__init__\(in_chans, image_size, params, width\)`", "def __init__",
    ),
    "policy, a batch that is not returned": Slip(
        "policy", "        return batch\n", "", r"`images` returned None.*`return` that is missing", "def images",
    ),
    "policy, losses that are not returned": Slip(
        "policy", POLICY_TERMS, POLICY_TERMS.replace("return ", ""),
        r"`task_terms` returned None", "def task_terms",
    ),
    "policy, no super().setup": Slip(
        "policy", "    def images", SETUP.format(argument="fusion", body="self.count = len(self.fusion.routes)")
        + "    def images", r"does not call `super\(\)\.setup\(fusion\)`", "def setup",
    ),
    "routing, a bare tensor": Slip(
        "routing", "        return weighted(", "        return sum(each[0].values())  # ",
        r"`teach` returned a tensor .* dict of name -> loss", "return sum",
    ),
    "routing, no return": Slip(
        "routing", "        return weighted(", "        weighted(", r"`teach` returned None", "def teach",
    ),
    "dataset, no return": Slip(
        "dataset", "        return Cells(", "        Cells(", r"`load` returned None", "def load",
    ),
    "dataset, labels in a list": Slip(
        "dataset", "return images, labels, donors", "return images, labels.tolist(), donors",
        r"Expected labels as a numpy array, but got a list", "return Cells",
    ),
}  # fmt: skip


def check(invoke: Invoke, file: Path, code: int, *more: str) -> dict[str, Any]:
    got, out, err = invoke("check", str(file), "--json", *more)
    assert got == code, out + err
    (document,) = json.loads(out)["components"]
    return document  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_new_writes_is_sound(kind: str, tmp_path: Path, invoke: Invoke) -> None:
    plugin, _ = write_file(kind, "mine", tmp_path).files
    document = check(invoke, plugin, 0)
    assert len(document["promises"]) > 6
    assert all(p["ok"] and p["promise"].endswith(".") for p in document["promises"]), document


@pytest.mark.parametrize("name", DEFECTS)
def test_the_defect_is_caught_and_named(name: str, tmp_path: Path, invoke: Invoke) -> None:
    defect = DEFECTS[name]
    plugin, _ = write_file(defect.kind, "mine", tmp_path).files
    text = plugin.read_text()
    for old, new in defect.changes:
        assert old in text, f"the template has no {old!r} any more"
        text = text.replace(old, new)
    plugin.write_text(text)
    document = check(invoke, plugin, 1, "--only", defect.test)
    failed = [p for p in document["promises"] if not p["ok"]]
    named = [p for p in failed if defect.test in p["test"]]
    assert named, [(p["test"], p["found"]) for p in failed]
    said = f"{named[0]['found']} {named[0]['fix']}"
    assert re.search(defect.says, said, re.DOTALL), said
    where, _, line = named[0]["where"].rpartition(":")
    assert Path(where) == plugin
    shown = text.splitlines()[int(line) - 1]
    if "unregistered" in name and defect.kind in ("fusion", "backbone"):
        assert re.search(r"self\.\w+ = ", shown), shown
    assert shown.strip()


@pytest.mark.parametrize("name", SLIPS)
def test_a_beginner_s_slip_is_told_once_with_line_and_mend(name: str, tmp_path: Path, invoke: Invoke) -> None:
    slip = SLIPS[name]
    plugin, _ = write_file(slip.kind, "mine", tmp_path).files
    text = plugin.read_text()
    assert slip.old in text, f"the template has no {slip.old!r} any more"
    text = text.replace(slip.old, slip.new)
    plugin.write_text(text)
    document = check(invoke, plugin, 1)
    (told,) = [p for p in document["promises"] if not p["ok"]]
    assert told["test"] == "test_types"
    said = f"{told['found']} {told['fix']}"
    assert re.search(slip.says, said, re.DOTALL), said
    file, _, line = told["where"].rpartition(":")
    assert Path(file) == plugin
    assert slip.line in text.splitlines()[int(line) - 1]
    assert len(document["waiting"]) > 5
    _, out, _ = invoke("check", str(plugin), "--only", document["waiting"][0])  # the first is tried all the same
    assert f"mine.py:{line}: {told['found']}" in out
    assert "Not checked because of that: 1 more." in out
