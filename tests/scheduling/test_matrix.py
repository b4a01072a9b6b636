"""The table of what goes together, from declarations; each no has its reason."""

from __future__ import annotations

import json
from collections.abc import Callable

from wbcbench.scheduling.matrix import compatibility
from wbcbench.testing.components import registry

Invoke = Callable[..., tuple[int, str, str]]


def reasons(modalities: int = 2, classes: int = 5) -> dict[tuple[str, str], str]:
    rows = compatibility(registry(), modalities, classes)
    return {(r["first"], r["second"]): r["reason"] for r in rows}


def test_every_pair_is_judged_once() -> None:
    found = compatibility(registry())
    counts = {kind: len(registry().components(kind)) for kind in ("fusion", "distiller", "policy")}
    expected = (
        counts["fusion"] * counts["distiller"]
        + counts["fusion"] * counts["policy"]
        + counts["distiller"] * counts["policy"]
    )
    assert len(found) == len({(r["first"], r["second"]) for r in found}) == expected


def test_known_answers() -> None:
    found = reasons()
    assert found["fusion:independent", "distiller:dml"] == ""
    assert "single route" in found["fusion:early", "distiller:dml"]
    assert found["fusion:independent", "distiller:none"] == ""
    assert found["fusion:film", "distiller:logits"] == ""
    assert found["fusion:independent", "distiller:dot"] == ""
    assert "at least 3 classes" in reasons(classes=2)["fusion:early", "distiller:dkd"]
    three = reasons(modalities=3)
    assert "takes 2 modalities" in three["fusion:film", "distiller:logits"]
    assert three["fusion:single", "distiller:logits"] == ""


def test_policies_need_what_fusions_offer() -> None:
    two, five = reasons(), reasons(modalities=5)
    assert "no other shares" in two["fusion:independent", "policy:contrastive"]
    assert "meet in some parameters" in two["fusion:late_prob", "policy:mmpareto"]
    assert "belong to one modality" in two["fusion:early", "policy:agm"]
    assert "takes 2 or more modalities" in two["fusion:single", "policy:cml"]
    assert two["fusion:concat", "policy:ogm_ge"] == ""
    assert "every subset of at most 4" in five["fusion:gmu", "policy:agm"]
    assert five["fusion:late_prob", "policy:agm"] == ""
    assert "teacher's classifier" in two["distiller:simkd", "policy:tmc"]


def test_on_the_command_line(invoke: Invoke) -> None:
    code, out, _ = invoke("list", "--matrix", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["modalities"] == 2
    code, out, _ = invoke("list", "--matrix")
    assert code == 0
    assert "pairs go together" in out
    assert "single route" in out
