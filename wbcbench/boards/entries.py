"""One record as an entry of the index: what tables need, without its predictions and weights."""

from __future__ import annotations

import functools
import hashlib
import json
import marshal
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbcbench.boards.options import Checked
from wbcbench.errors import RecordError
from wbcbench.evaluation.levelling import Curve
from wbcbench.evaluation.metrics import METRICS
from wbcbench.files import DOCUMENTS
from wbcbench.records import verify as checks
from wbcbench.records.frames import validation
from wbcbench.records.schema import FILES, ComparisonKey, Result, Used
from wbcbench.records.store import Store
from wbcbench.spec import digest

WEIGHTS = "model.safetensors"
METRIC_ORDER = tuple(METRICS)
"""Order of the metrics in the tuples of `Entry`."""


@dataclass(frozen=True, slots=True)
class OutsideEntry:
    """A teacher from outside."""

    name: str
    digest: str
    seen: int | None
    """Test cells that it was trained or selected on; None: its file does not say."""
    test: tuple[float | None, ...]
    """In `METRIC_ORDER`; empty: it does not answer for all test cells."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that was checked. Keys and components, which many records share, are referenced by digest."""

    trial_id: str
    stamp: str
    """Of the files on this machine, see `stamp`."""
    checked: Checked
    digest: str
    key: str
    components: str
    method_id: str
    twin: str
    """Equal for methods that differ only in distillation."""
    loose_twin: str
    """The same, ignoring the recipe."""
    backbone_id: str
    """With parameters."""
    label: str
    fusion: str
    kd: str
    backbone: str
    routing: str | None
    policies: tuple[str, ...]
    seed: int
    fold: int | None
    teachers: tuple[str, ...]
    """Trial ids."""
    test: tuple[float | None, ...]
    val: tuple[float | None, ...]
    """In `METRIC_ORDER`."""
    params: int
    macs: int | None
    latency_ms: float | None
    throughput: float | None
    train_seconds: float | None
    device: str
    threads: int | None
    pseudo_multimodal: bool
    curve: Curve | None
    """The validation history; None if it is too short to judge."""
    pulls: tuple[tuple[str, float, float], ...] = ()
    """Of each distiller that was measured: name, first and last gradient ratio; see `records.schema.Pull`."""
    outside: tuple[OutsideEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and the store that contains it."""

    entry: Entry
    root: Path
    folds: tuple[Found, ...] = ()
    """The records that the entry was pooled from, see `boards.folds`; empty: it is one record."""

    @property
    def path(self) -> Path:
        """The record's folder; of several folds, the first one's."""
        return Path(f"{self.root}/records/{self.entry.trial_id}")  # takes a third of the time of two joins

    @property
    def records(self) -> tuple[Found, ...]:
        """The records, one by one."""
        return self.folds or (self,)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A record of a search's trial, without test predictions: never on a board."""

    stamp: str


@dataclass(frozen=True, slots=True)
class Read:
    """An entry with the documents that it references by digest."""

    entry: Entry
    key: ComparisonKey
    components: tuple[Used, ...]


def stamp(folder: Path, packed: bool = False) -> str:
    """Changes when any file of the record is written, replaced or copied.

    It includes the inode change times, which no archive restores, so an index from another machine is never
    trusted here. Raises `RecordError` if a file is missing; a pack may lack weights.
    """
    parts = []
    for name in FILES:
        if packed and name == WEIGHTS:
            continue
        try:
            s = os.stat(f"{folder}{os.sep}{name}")
        except OSError:
            raise checks.refuse(folder, name, "is missing") from None
        parts.append(f"{s.st_mtime_ns}.{s.st_ctime_ns}.{s.st_size}")
    return hashlib.blake2b(";".join(parts).encode(), digest_size=12).hexdigest()


def read(folder: Path, checked: Checked, packed: bool = False) -> Read | Sealed:
    """Read and check one record. A record of a pack, which was checked as a whole, is only read.

    Raises:
        RecordError: the record is damaged or was changed.
    """
    mark = stamp(folder, packed)
    result, document = checks.read_document(folder)
    if result.status == "sealed":
        return Sealed(mark)
    if checked == "quick" or packed:
        if folder.name != result.trial_id:
            raise checks.refuse(folder, "result.json", f"is that of trial {result.trial_id}")
        checks.check_ranges(folder, result)
    else:
        Store(folder.parent.parent).load(folder.name, verify="full" if checked == "full" else True)
    spec = _spec(folder, result)
    history = _verified(folder, result, "history.csv").decode(errors="replace")
    curve = validation(history, result.key.judged_by)
    name, key = _key(document["key"])
    components = _digest(document.get("components", []))
    return Read(_entry(mark, checked, result, name, components, spec, curve), key, tuple(result.components))


def _spec(folder: Path, result: Result) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = json.loads(_verified(folder, result, "spec.json"))
        if not isinstance(spec["method"], dict) or not isinstance(spec["protocol"], dict):
            raise ValueError("no method or protocol")
    except (*DOCUMENTS, KeyError, TypeError) as error:
        raise checks.refuse(folder, "spec.json", f"is not a trial ({error})") from error
    return spec


def _verified(folder: Path, result: Result, name: str) -> bytes:
    data = checks.read_bytes(folder, name)
    if hashlib.sha256(data).hexdigest() != result.files.get(name):
        raise checks.refuse(folder, name, "is damaged or was changed (its SHA-256 differs)")
    return data


def _entry(
    mark: str,
    checked: Checked,
    result: Result,
    key: str,
    components: str,
    spec: dict[str, Any],
    curve: Curve | None,
) -> Entry:
    method, cost = spec["method"], result.cost
    student = {name: method.get(name) for name in ("fusion", "backbone", "policies")}
    return Entry(
        trial_id=result.trial_id,
        stamp=mark,
        checked=checked,
        digest=result.digest,
        key=key,
        components=components,
        method_id=result.method_id,
        twin=_digest({**student, "recipe": method.get("recipe")}),
        loose_twin=_digest(student),
        backbone_id=_digest(method.get("backbone")),
        label=result.label,
        fusion=result.fusion,
        kd=result.kd,
        backbone=result.backbone,
        routing=result.routing,
        policies=result.policies,
        seed=result.seed,
        fold=spec.get("fold"),
        teachers=tuple(result.teachers),
        test=tuple(result.metrics["test"][m] for m in METRIC_ORDER),
        val=tuple(result.metrics["val"][m] for m in METRIC_ORDER),
        params=cost.params,
        macs=cost.macs,
        latency_ms=cost.latency_ms,
        throughput=cost.throughput,
        train_seconds=cost.train_seconds,
        device=cost.device,
        threads=cost.threads,
        pseudo_multimodal=result.pseudo_multimodal,
        curve=curve,
        pulls=tuple(
            (name, pull.ratios[min(pull.ratios)], pull.ratios[max(pull.ratios)])
            for name, pull in sorted(result.pulls.items())
            if pull.ratios
        ),
        outside=tuple(
            OutsideEntry(
                name=t.name,
                digest=t.digest,
                seen=None if t.trained_on is None else t.trained_on["test"],
                test=tuple(t.metrics["test"][m] for m in METRIC_ORDER) if "test" in t.metrics else (),
            )
            for t in result.outside
        ),
    )


# Most records share most documents with others. As keys of a cache they are marshalled, which takes a tenth of the
# time of their canonical form; version 2 gives equal bytes for equal documents, and the bytes are not stored.


def _digest(document: Any) -> str:
    return _digest_of(marshal.dumps(document, 2))


@functools.lru_cache(maxsize=10_000)
def _digest_of(document: bytes) -> str:
    return digest(marshal.loads(document))


def _key(document: Any) -> tuple[str, ComparisonKey]:
    return _key_of(marshal.dumps(document, 2))


@functools.lru_cache(maxsize=10_000)
def _key_of(document: bytes) -> tuple[str, ComparisonKey]:
    key = ComparisonKey.model_validate_json(json.dumps(marshal.loads(document)))
    return key.digest, key


__all__ = ["METRIC_ORDER", "Entry", "Found", "Read", "RecordError", "Sealed", "read", "stamp"]
