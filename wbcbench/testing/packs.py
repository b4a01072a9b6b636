"""Packs of records that were never trained, and ways to tamper with them: for tests of `leaderboard verify`."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wbcbench.publishing.verdict import Judge
from wbcbench.records.schema import FILES, Result, content_digest
from wbcbench.records.store import Record, Store
from wbcbench.testing.records import fake_record, fake_trial

Files = dict[str, bytes]


def taught(store: Store, seed: int = 0, **kwargs: Any) -> Record:
    """A student, and its teacher in the same store."""
    teacher = fake_trial(7, fusion="single", backbone="large", modalities=("dapi",))
    if not store.has(teacher.id):
        fake_record(store, teacher, 70 + seed)
    return fake_record(store, fake_trial(seed, teachers=(teacher,), kd="logits"), seed, **kwargs)


def unzip(pack: Path) -> Files:
    with zipfile.ZipFile(pack) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(pack: Path, files: Files, *, honest: bool = True, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write the files again; `honest`: with a manifest that has their SHA-256 and digests, as a forger would."""
    if honest:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {n: hashlib.sha256(d).hexdigest() for n, d in files.items() if n != "manifest.json"}
        for trial_id in manifest["records"]:
            result = json.loads(files[f"records/{trial_id}/result.json"])
            manifest["records"][trial_id] = result.get("digest", "")
        files = {**files, "manifest.json": json.dumps(manifest).encode()}
    with zipfile.ZipFile(pack, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return pack


def forge(files: Files, trial_id: str, changes: dict[str, Any] | None = None) -> None:
    """Change fields of a result (`cost.macs` goes inside) and mend every digest, as who read the code would."""
    at = f"records/{trial_id}/"
    document = json.loads(files[at + "result.json"])
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        inner = document
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    for name in FILES:
        if name != "result.json" and at + name in files:
            document["files"][name] = hashlib.sha256(files[at + name]).hexdigest()
    document["digest"] = content_digest(document["trial_id"], document["files"])
    document["checksum"] = ""
    document["checksum"] = Result.model_validate_json(json.dumps(document)).own_checksum()
    files[at + "result.json"] = json.dumps(document).encode()


def blamed(judge: Judge, level: str = "refuse") -> set[str]:
    """Names of the checks that found something of this level."""
    return {f.check for f in judge.findings if f.level == level}


def said(judge: Judge, check: str) -> str:
    """What one check refused."""
    return " ".join(f.text for f in judge.findings if f.check == check and f.level == "refuse")


def with_file(name: str, data: bytes) -> Callable[[Files, str], None]:
    """A change for `reforged`: another content of one file of the record."""
    return lambda files, at: files.update({at + name: data})


def reforged(
    pack: Path,
    record: Record,
    change: Callable[[Files, str], None] | None = None,
    claims: dict[str, Any] | None = None,
) -> Path:
    """Let `change` have the pack's files and the beginning of the record's names, then mend every digest."""
    files = unzip(pack)
    if change is not None:
        change(files, f"records/{record.trial.id}/")
    forge(files, record.trial.id, claims)
    return rezip(pack, files)


__all__ = ["Files", "blamed", "forge", "reforged", "rezip", "said", "taught", "unzip", "with_file"]
