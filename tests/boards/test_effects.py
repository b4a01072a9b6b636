"""Average effects against boards of one pair, against closed forms, and on records whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wbcbench.boards import Options, build
from wbcbench.boards.compare import explain
from wbcbench.boards.effects import Effects, effects
from wbcbench.errors import UsageError
from wbcbench.publishing.board_files import PublishOptions
from wbcbench.publishing.publish import publish
from wbcbench.records.store import Store
from wbcbench.spec import ComponentSpec
from wbcbench.testing.records import fake_predictions, fake_trial

FAST = Options(resamples=300, verify="files")
Invoke = Callable[..., tuple[int, str, str]]
SKILL = {"early": 1.0, "gated": 1.5, "late": 1.0, "mid": 1.2, "sum": 0.8}
SEEDS = (0, 1, 2)
GAIN = {None: 0.0, "logits": 0.5, "at": -0.5}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory, add: Callable[..., Any]) -> Store:
    """Five fusions x three distillers x three seeds, less `gated + at`; every seed has its own noise."""
    store = Store(tmp_path_factory.mktemp("matrix") / "store")
    teacher = fake_trial(0, fusion="single", backbone="big", modalities=("dapi",))
    add(store, teacher, skill=3.0)
    for i, (fusion, skill) in enumerate(SKILL.items()):
        for j, (kd, gain) in enumerate(GAIN.items()):
            for seed in () if (fusion, kd) == ("gated", "at") else SEEDS:
                trial = fake_trial(seed, fusion=fusion, kd=kd, teachers=(teacher,) if kd else ())
                noise = fake_predictions(100 * i + 10 * j + seed, skill=skill + gain, cells=90)
                add(store, trial, predictions=noise, cells=90, params=(i + 1) * 1000)
    return store


def means(store: Store) -> dict[tuple[str, str], float]:
    (board,) = build([store], FAST)
    return {(r.fusion, r.kd): r.metrics["macro_f1"].mean or 0.0 for r in board.rows if r.status == "ranked"}


def one(found: list[Effects]) -> dict[str, Any]:
    (board,) = found
    return {e.level: e for e in board.effects}


def test_a_lead_is_the_mean_over_blocks_that_both_have(matrix: Store) -> None:
    m = means(matrix)
    found = one(effects([matrix], "fusion", FAST))
    assert found.keys() == SKILL.keys() - {"early"}
    shared = {"gated": ("none", "logits"), "late": ("none", "logits", "at")}
    for level, kds in shared.items():
        leads = [m[level, k] - m["early", k] for k in kds]
        assert found[level].lead == pytest.approx(np.mean(leads))
        assert (found[level].blocks, found[level].ahead) == (len(kds), sum(x > 0 for x in leads))
    assert (found["gated"].macs, found["late"].macs) == (2, 3)
    distilled = one(effects([matrix], "kd", FAST))
    assert distilled["logits"].lead == pytest.approx(np.mean([m[f, "logits"] - m[f, "none"] for f in SKILL]))
    assert (distilled["at"].blocks, distilled["logits"].blocks) == (4, 5)


def test_against_another_level_it_is_turned_round(matrix: Store) -> None:
    there = one(effects([matrix], "fusion", FAST))["late"]
    back = one(effects([matrix], "fusion", FAST, "late"))["early"]
    assert (back.lead, back.low, back.high, back.p) == pytest.approx(
        (-there.lead, -there.high, -there.low, there.p)
    )


def test_one_block_is_one_pair(matrix: Store, add: Callable[..., Any], store: Store) -> None:
    for fusion in ("early", "gated"):
        for seed in (0, 1):
            add(store, fake_trial(seed, fusion=fusion), skill=SKILL[fusion], cells=90)
    pair = explain([store], "gated", "early", FAST)
    effect = one(effects([store], "fusion", FAST))["gated"]
    assert (effect.lead, effect.low, effect.high, effect.p) == pytest.approx(
        (pair.lead, pair.low, pair.high, pair.p), abs=1e-6
    )


def test_more_blocks_say_more(matrix: Store) -> None:
    """The same skill everywhere: three blocks together are surer than one is."""
    pooled = one(effects([matrix], "fusion", FAST))["late"]
    alone = [explain([matrix], f"late{kd}", f"early{kd}", FAST) for kd in ("", " + logits", " + at")]
    assert pooled.high - pooled.low < np.mean([a.high - a.low for a in alone])


def test_lower_is_better_for_losses(matrix: Store) -> None:
    nll = one(effects([matrix], "kd", Options(by="nll", resamples=300, verify="files")))
    assert nll["logits"].lead > 0 > nll["at"].lead


def test_methods_that_lack_a_seed_and_levels_that_share_no_block_stand_aside(
    store: Store, add: Callable[..., Any]
) -> None:
    for seed in (0, 1):
        add(store, fake_trial(seed, fusion="early"))
        add(store, fake_trial(seed, fusion="gated"))
        add(store, fake_trial(seed, fusion="late", backbone="other"))
    add(store, fake_trial(0, fusion="short"))
    (board,) = effects([store], "fusion", FAST)
    assert [e.level for e in board.effects] == ["gated"]
    assert board.alone == ("late",)


def test_levels_of_one_distiller_are_told_apart_by_who_teaches(store: Store, add: Callable[..., Any]) -> None:
    teachers = [
        fake_trial(s, fusion="single", backbone="big", modalities=(m,))
        for s, m in ((0, "dapi"), (0, "brightfield"), (1, "dapi"))
    ]
    for trial in teachers:
        add(store, trial)
    for seed in (0, 1):
        add(store, fake_trial(seed))
        for teacher in teachers:
            add(store, fake_trial(seed, kd="logits", teachers=(teacher,)))
    (board,) = effects([store], "kd", FAST)
    names = sorted(e.level for e in board.effects)
    assert len(names) == 3
    assert all(n.startswith("logits (") for n in names)
    assert [e.blocks for e in board.effects] == [1, 1, 1]


def test_a_bare_name_means_the_setting_that_most_blocks_have(store: Store, add: Callable[..., Any]) -> None:
    """A search's winner with a setting of its own does not take the name away."""

    def trial(seed: int, rho: float, kd: str | None = None) -> Any:
        fusion = ComponentSpec(name="gated", params={"rho": rho})
        plain = fake_trial(seed, fusion="gated", kd=kd)
        return plain.model_copy(update={"method": plain.method.model_copy(update={"fusion": fusion})})

    for seed in (0, 1):
        add(store, fake_trial(seed, fusion="early"))
        add(store, fake_trial(seed, fusion="early", kd="dkd"))
        add(store, trial(seed, 0.5))
        add(store, trial(seed, 0.5, "dkd"))
        add(store, trial(seed, 0.1234567))
    (board,) = effects([store], "fusion", FAST, "gated")
    assert board.against == "gated (rho=0.5)"
    assert {e.level: e.blocks for e in board.effects} == {"early": 2, "gated (rho=0.123)": 1}


def test_what_is_within_the_margin_is_level_and_one_seed_is_no_verdict(matrix: Store) -> None:
    found = one(effects([matrix], "kd", replace(FAST, margin=0.9)))
    assert all(e.level_within and e.p_level < 0.05 for e in found.values())
    assert not any(e.level_within for e in one(effects([matrix], "kd", replace(FAST, margin=1e-6))).values())
    alone = one(effects([matrix], "kd", replace(FAST, margin=0.9, seeds=(0,))))
    assert {(e.p, e.p_holm, e.p_level) for e in alone.values()} == {(None, None, None)}
    assert not any(e.beyond_noise or e.level_within for e in alone.values())


def test_words_and_errors(matrix: Store, invoke: Invoke) -> None:
    args = ("leaderboard", "effects", "--store", str(matrix.root), "--resamples", "300", "--verify", "files")
    code, out, err = invoke(*args, "--of", "kd")
    assert code == 0, err
    assert out.splitlines()[1] == "macro-F1 of each kd minus none, seeds 0, 1, 2; = is within 0.01"
    assert " of 4 " in out
    code, out, _ = invoke(*args, "--json")
    assert json.loads(out)["effects"][0]["against"] == "early"
    for more, says in (
        (("--against", "erly"), "Did you mean 'early'"),
        (("--of", "backbone"), r"--against one of the levels of backbone (tiny)"),
        (("--of", "backbone", "--against", "tiny"), "the only one"),
    ):
        code, _, err = invoke(*args, *more)
        assert (code, says in " ".join(err.split())) == (2, True), err
    with pytest.raises(UsageError, match="seed"):
        effects([matrix], "fusion", Options(seeds=(7,)))


def test_a_published_board_is_read_like_a_store(matrix: Store, tmp_path: Any, invoke: Invoke) -> None:
    publish(tmp_path / "board", [matrix.root], PublishOptions(title="Cells", resamples=100))
    args = ("--resamples", "300")
    for verb in (("effects",), ("compare", "gated", "early"), ()):
        found = [
            invoke("leaderboard", *verb, "--store", str(place), "--json", *args)
            for place in (tmp_path / "board", matrix.root)
        ]
        assert {code for code, *_ in found} == {0}, found
        published, own = (json.loads(out) for _, out, _ in found)
        if verb:
            assert published == own
        else:
            assert [r["name"] for r in published["boards"][0]["rows"]] == [
                r["name"] for r in own["boards"][0]["rows"]
            ]
    (tmp_path / "board" / "records.zip").write_bytes(b"no")
    code, _, err = invoke("leaderboard", "effects", "--store", str(tmp_path / "board"))
    assert (code, "records.zip" in err) == (3, True)
