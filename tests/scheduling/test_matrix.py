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
    assert "pairs are compatible" in out
    assert "single route" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100
    table = out.partition("policy (down)")[0]
    letter = next(line.split()[0] for line in table.splitlines() if "attention, concat" in line)
    head = next(line.split() for line in table.splitlines() if line.split()[:2] == ["A", "B"])
    row = next(line.split() for line in table.splitlines() if line.startswith("  dml "))
    number = row[1 + head.index(letter)]
    assert f"{number} The distiller lets the heads of one student teach each other, but" in " ".join(out.split())


def test_a_width_of_embeddings_is_no_factor_on_a_backbone(invoke: Invoke) -> None:
    """Every fusion goes with a backbone of one size, but those that scale theirs."""
    scaling = {n for n in registry().names("fusion") if declared_scale(n)}
    assert scaling == {"independent", "packed", "thin_ensemble"}
    pretrained = {"knn"}  # refuses random weights
    names = sorted({*registry().names("fusion"), "independent"} - (scaling - {"independent"}) - pretrained)
    code, out, err = invoke(
        "run", "--fusion", ",".join(names), "--backbone", "resnet18", "--modalities", "brightfield,nucleus",
        "--dry-run", "--json",
    )  # fmt: skip
    assert code == 0, err
    planned = {row["method"].split("[")[0].split(":")[0] for row in json.loads(out)["trials"]}
    assert planned == set(names)
    code, _, err = invoke("run", "--fusion", "thin_ensemble", "--backbone", "resnet18", "--dry-run")
    assert (code, "scales its backbone" in err) == (2, True)


def declared_scale(name: str) -> str:
    return registry().declaration(registry().resolve("fusion", name).component).fusion_traits.scales


def test_aliases_of_every_kind_are_announced(invoke: Invoke) -> None:
    code, _, err = invoke("run", "--fusion", "late", "--policy", "mixup", "--backbone", "tiny", "--dry-run")
    assert code == 0, err
    for told in ("'late' means the fusion 'late_prob'", "the policy '", "'tiny' means the backbone 'cellnet'"):
        assert told in err
