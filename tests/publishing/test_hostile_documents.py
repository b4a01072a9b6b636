"""Documents of a stranger's record: what readers would understand differently, and claims that are not so.

A forger knows the code: where a test is not about digests, SHA-256, digest, checksum and manifest are all fixed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.verdict import Judge
from wbcbench.records.store import Record, Store, predictions_bytes
from wbcbench.testing.records import (
    blamed,
    fake_predictions,
    fake_record,
    fake_trial,
    forge,
    reforged,
    rezip,
    said,
    unzip,
    with_file,
)

Verify = Callable[..., Judge]

DOCUMENTS: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    "NaN": ("record.json", "result.json", lambda d: d.replace(b'"params": 1000', b'"params": NaN')),
    "infinite": ("record.json", "env.json", lambda d: b'{"python": -Infinity}'),
    "a key twice": ("record.json", "result.json", lambda d: d.replace(b"{", b'{"seed": 0,', 1)),
    "no object": ("record.json", "env.json", lambda d: b"[1, 2]"),
    "no JSON": ("record.json", "spec.json", lambda d: d[:-20]),
    "no text": ("record.json", "env.json", lambda d: b"\xff\xfe\xff"),
    "nested deeply": ("record.json", "env.json", lambda d: b'{"a":' * 60_000 + b"1" + b"}" * 60_000),
    "an enormous number": ("record.json", "env.json", lambda d: b'{"a": ' + b"9" * 100_000 + b"}"),
    "a large number": ("record.json", "env.json", lambda d: b'{"a": 18446744073709551616}'),
    "a number that overflows": ("record.json", "env.json", lambda d: b'{"a": 1e999}'),
    "lists nested 101 times": ("record.json", "env.json", lambda d: b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}"),
    "UTF-16": ("record.json", "env.json", lambda d: d.decode().encode("utf-16")),
    "UTF-32 without a mark": ("record.json", "env.json", lambda d: d.decode().encode("utf-32-le")),
    "a byte order mark": ("record.json", "env.json", lambda d: b"\xef\xbb\xbf" + d),
    "an unknown field": ("record.schema", "result.json", lambda d: d.replace(b"{", b'{"verified": true,', 1)),
    "text for a number": ("record.schema", "result.json", lambda d: d.replace(b'"seed": 0', b'"seed": "0"')),
    "another version": ("record.schema", "result.json", lambda d: d.replace(b'_version": 1', b'_version": 9')),
    "a trial with another field": ("record.schema", "spec.json", lambda d: d.replace(b"{", b'{"code": "x",', 1)),
    "environment of packages that are none": ("record.environment", "env.json", lambda d: b'{"packages": [1]}'),
    "history of NaN": ("record.history", "history.csv", lambda d: b"epoch,val_macro_f1\n0,nan\n"),
    "history of odd lengths": ("record.history", "history.csv", lambda d: b"epoch,a\n0,1,2\n"),
    "history that is no text": ("record.history", "history.csv", lambda d: b"\xff\xff"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents_that_are_none(pack: Path, student: Record, verify: Verify, case: str) -> None:
    check, name, change = DOCUMENTS[case]
    files = unzip(pack)
    at = f"records/{student.trial.id}/{name}"
    before = files[at]
    files[at] = change(before)
    assert files[at] != before
    if name not in ("result.json", "spec.json"):
        forge(files, student.trial.id)
    rezip(pack, files)
    judge = verify(pack)
    assert judge.verdict == "refuse"
    assert check in blamed(judge), [f.text for f in judge.findings]


def test_other_predictions_under_the_old_digest(pack: Path, student: Record, verify: Verify) -> None:
    files = unzip(pack)
    files[f"records/{student.trial.id}/predictions.npz"] = predictions_bytes(fake_predictions(9, skill=5))
    rezip(pack, files)
    judge = verify(pack)
    assert {"record.digests", "record.metrics"} & blamed(judge)
    assert "SHA-256 differs" in said(judge, "record.digests")


def test_a_digest_and_a_checksum_that_are_made_up(pack: Path, student: Record, verify: Verify) -> None:
    files = unzip(pack)
    at = f"records/{student.trial.id}/result.json"
    document = json.loads(files[at])
    honest = files[at]
    files[at] = json.dumps(document | {"digest": "0" * 64}).encode()
    rezip(pack, files)
    assert "checksum" in said(verify(pack), "record.schema")
    files[at] = honest
    manifest = json.loads(files["manifest.json"])
    manifest["records"][student.trial.id] = "f" * 64
    rezip(pack, files | {"manifest.json": json.dumps(manifest).encode()}, honest=False)
    assert "another digest" in said(verify(pack), "record.digests")


@pytest.mark.parametrize(
    ("field", "value", "check"),
    [
        ("metrics.test.macro_f1", 0.99, "record.metrics"),
        ("metrics.val.nll", 0.01, "record.metrics"),
        ("metrics.test.auroc", 0.999, "record.metrics"),
        ("metrics.test.accuracy", 0.9999, "record.values"),
        ("metrics.test.macro_f1", 1.7, "record.ranges"),
        ("metrics.test.ece", -0.1, "record.ranges"),
        ("per_class.basophil.f1", 1.0, "record.metrics"),
        ("confusion", [[10, 0, 0], [0, 10, 0], [0, 0, 10]], "record.values"),
        ("routes.dapi.macro_f1", 0.97, "record.metrics"),
        ("trial_id", "0" * 16, "record.identity"),
        ("seed", 5, "record.identity"),
        ("label", "better", "record.identity"),
        ("teachers", [], "record.identity"),
        ("key.image_size", 512, "record.identity"),
        ("key.budget.epochs", 1, "record.identity"),
        ("cost.latency_ms", -1.0, "record.cost"),
        ("cost.throughput", 0.0, "record.cost"),
        ("cost.params", -5, "record.cost"),
        ("cost.macs", 0, "record.cost"),
        ("cost.train_seconds", -3.0, "record.cost"),
        ("cost.epochs_run", 10_000, "record.cost"),
        ("cost.epochs_run", 0, "record.cost"),
        ("cost.threads", 0, "record.cost"),
        ("selected_epoch", 99, "record.cost"),
        ("ended", "2001-01-01T00:00:00+00:00", "record.cost"),
        ("started", "yesterday", "record.cost"),
    ],
)
def test_claims_that_are_not_so(
    pack: Path, student: Record, verify: Verify, field: str, value: Any, check: str
) -> None:
    reforged(pack, student, claims={field: value})
    judge = verify(pack)
    assert check in blamed(judge), [f.text for f in judge.findings]
    assert "failed with an error" not in said(judge, check)


def test_a_spec_of_another_trial(pack: Path, student: Record, verify: Verify) -> None:
    other = fake_trial(3).model_dump_json().encode()
    reforged(pack, student, with_file("spec.json", other))
    assert "record.identity" in blamed(verify(pack))


def test_weights_of_nan_and_of_nothing(store: Store, student: Record, tmp_path: Path, verify: Verify) -> None:
    import torch
    from safetensors.torch import save

    pack = tmp_path / "weights.zip"
    for data in (save({"w": torch.full((4,), float("nan"))}), b"no safetensors", b"\xff" * 8 + b"{"):
        write_pack([student], pack, weights=True)
        reforged(pack, student, with_file("model.safetensors", data))
        assert "record.weights" in blamed(verify(pack))


MARKUP = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "x</td></tr>", "<!-- x",
    "[a](javascript:alert(1))", "evil\x1b[2J", "a\u202eb", "line\nbreak", "n" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("name", MARKUP)
def test_markup_in_names_is_refused(store: Store, tmp_path: Path, verify: Verify, name: str) -> None:
    record = fake_record(store, fake_trial(fusion=name) if len(name) < 100 else None, provider=name)
    write_pack([record], tmp_path / "names.zip")
    judge = verify(tmp_path / "names.zip")
    assert blamed(judge) == {"record.names"}, [f.text for f in judge.findings]
    assert all(f.text.isprintable() for f in judge.findings)


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "+1", "-2+3", "a & b", "a|b", "100$", "p < 0.05"])
def test_what_is_markup_somewhere_is_pointed_out(store: Store, tmp_path: Path, verify: Verify, name: str) -> None:
    record = fake_record(store, fake_trial(), provider=name)
    write_pack([record], tmp_path / "names.zip")
    judge = verify(tmp_path / "names.zip")
    assert blamed(judge) == set()
    assert "record.names" in blamed(judge, "look")


@pytest.mark.parametrize("seed", range(24))
def test_any_changed_document_ends_in_a_verdict(
    store: Store, student: Record, pack: Path, verify: Verify, seed: int
) -> None:
    """One leaf of one document becomes something else, and every digest that can be fixed is."""
    rng = np.random.default_rng(seed)
    files = unzip(pack)
    name = ("result.json", "spec.json", "env.json")[seed % 3]
    at = f"records/{student.trial.id}/{name}"
    document = json.loads(files[at])
    node: Any = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[rng.integers(len(keys))]
        if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.1:
            break
        node = node[key]
    junk = [None, -1, 0, 1e308, "", "x", "\0", [], {}, [[]], True, 2**70, "../..", {"a": {"b": []}}]
    before, node[key] = node[key], junk[rng.integers(len(junk))]
    files[at] = json.dumps(document).encode()
    with contextlib.suppress(ValueError):  # it may follow no schema any more, and so have no digest to fix
        forge(files, student.trial.id)
    rezip(pack, files)
    judge = verify(pack, store)
    assert judge.verdict == "refuse" or key in UNKNOWABLE or before == node[key], (key, before, node[key])


UNKNOWABLE = (
    "device", "threads", "latency_ms", "throughput", "train_seconds", "teacher_seconds", "macs", "params",
    "python", "train_images_per_second", "teacher_replayed", "pseudo_multimodal", "started", "ended", "notes",
    "components", "version", "sha256", "provider", "name", "kind", "checksum", "digest", "predictions.npz",
    "spec.json", "env.json", "history.csv", 0,
)  # fmt: skip
"""What only the machine knew, so that nobody can recompute it; and what `forge` mends."""
