"""Zip files that mean harm. Each is really made, byte by byte where zipfile would not make it."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from wbcbench.publishing.archive import Limits
from wbcbench.testing.records import blamed, rezip, unzip


def refused_by(judge, check):
    """The pack was refused by this check alone, and nothing was read of its records."""
    assert judge.verdict == "refuse"
    assert judge.exit_code == 3
    assert blamed(judge) == {check}, [f.text for f in judge.findings]
    assert "record.json" not in judge.made
    return " ".join(f.text for f in judge.findings)


def inside(pack, name, wanted="result.json"):
    return next(n for n in unzip(pack) if n.endswith(wanted)) if name is None else name


@pytest.mark.parametrize(
    "name",
    [
        "../../evil", "/etc/passwd", "records/../../x", "C:\\evil", "records\\..\\..\\x", "records/x/result.json",
        "evil.py", "records/0123456789abcdef/model.pkl", "records/0123456789ABCDEF/result.json", "setup.cfg",
        "records/0123456789abcdef/result.json/x", "records//0123456789abcdef/result.json", "manifest.json ",
    ],
)  # fmt: skip
def test_names_that_lead_out_or_do_not_belong(pack, verify, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    rezip(pack, {**unzip(pack), name: b"x"}, honest=False)
    refused_by(verify(pack), "archive.names")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_ends_for_some_readers_only(pack, verify):
    """zipfile cuts names at a NUL; others do not."""
    long = "manifest.json\0.py"
    rezip(pack, {**unzip(pack), long.replace("\0", "@"): b"{}"}, honest=False)
    pack.write_bytes(pack.read_bytes().replace(b"manifest.json@.py", long.encode()))
    refused_by(verify(pack), "archive.names")


def test_the_same_name_twice(pack, verify):
    with zipfile.ZipFile(pack, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("manifest.json", b"{}")
    assert "2 times" in refused_by(verify(pack), "archive.names")


def test_names_that_are_one_on_some_systems(pack, verify):
    rezip(pack, {**unzip(pack), "MANIFEST.json": b"{}"}, honest=False)
    assert "upper and lower case" in refused_by(verify(pack), "archive.names")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR])
def test_links_and_devices(pack, verify, kind):
    files = unzip(pack)
    name = inside(pack, None, "env.json")
    with zipfile.ZipFile(pack, "w") as archive:
        for n, data in files.items():
            info = zipfile.ZipInfo(n)
            info.external_attr = ((kind if n == name else stat.S_IFREG) | 0o777) << 16
            archive.writestr(info, "/etc/passwd" if n == name else data)
    refused_by(verify(pack), "archive.kinds")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compression(pack, verify, compression):
    rezip(pack, unzip(pack), honest=False, compression=compression)
    refused_by(verify(pack), "archive.kinds")


def test_encrypted(pack, verify):
    data = bytearray(pack.read_bytes())
    with zipfile.ZipFile(pack) as archive:
        at = archive.start_dir  # a stored .npz has directory entries of its own before it
    data[at + 8] |= 1
    pack.write_bytes(data)
    refused_by(verify(pack), "archive.kinds")


def test_a_bomb(pack, verify):
    """A gigabyte of zeros in one megabyte, under a name that may be large."""
    name = inside(pack, None, "predictions.npz")
    files = {n: d for n, d in unzip(pack).items() if n != name}
    rezip(pack, files, honest=False)
    zeros = bytes(1 << 20)
    with (
        zipfile.ZipFile(pack, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as member,
    ):
        for _ in range(200):
            member.write(zeros)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "times its size" in refused_by(verify(pack), "archive.sizes")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB: it was not unpacked


def test_a_file_too_large_for_its_name(pack, verify):
    name = inside(pack, None, "env.json")
    rezip(pack, {**unzip(pack), name: b" " * ((1 << 20) + 1)}, honest=False)
    assert "are allowed" in refused_by(verify(pack), "archive.sizes")


def test_many_files_that_are_large_together(pack, verify):
    assert "in all" in refused_by(verify(pack, None, Limits(total=1000)), "archive.sizes")


def test_a_pack_too_large(pack, verify):
    refused_by(verify(pack, None, Limits(pack=1000)), "archive.directory")


def test_too_many_files(pack, verify):
    files = {f"records/{i:016x}/env.json": b"" for i in range(2500)}
    rezip(pack, {**unzip(pack), **files}, honest=False)
    assert "2000 files are allowed" in refused_by(verify(pack, None, Limits(entries=2000)), "archive.directory")


@pytest.mark.parametrize(
    ("name", "count"), [("records/{:016x}/env.json", 50_000), ("searches/s{}/winner.json", 5_000)]
)
def test_many_files_are_refused_before_any_is_unpacked(pack, verify, monkeypatch, name, count):
    rezip(pack, {**unzip(pack), **{name.format(i): b"" for i in range(count)}}, honest=False)
    written = []
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: written.append(path))
    assert verify(pack).verdict == "refuse"
    assert len(written) <= 1  # the manifest's folder


def test_a_size_that_is_a_lie(pack, verify):
    """The directory says ten bytes; what unpacks is a hundred megabytes. Ten bytes are read, and do not fit."""
    files = unzip(pack)
    name = inside(pack, None, "env.json")
    rezip(pack, {**{n: d for n, d in files.items() if n != name}, name: bytes(100 << 20)},
          honest=False, compression=zipfile.ZIP_DEFLATED)  # fmt: skip
    data = bytearray(pack.read_bytes())
    at = data.rindex(name.encode()) - 46  # its entry in the directory, which is last
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 24 : at + 28] = struct.pack("<L", 10)
    pack.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused_by(verify(pack), "archive.content")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_files_that_share_their_bytes(pack, verify):
    """A second entry of the directory points at the first file: many files, one content."""
    names = [f"records/{i:016x}/result.json" for i in range(2)]
    rezip(pack, {names[0]: b"a" * 1000, names[1]: b"a"}, honest=False)
    data = bytearray(pack.read_bytes())
    at = data.rindex(names[1].encode()) - 46
    data[at + 20 : at + 28] = struct.pack("<2L", 1000, 1000)
    data[at + 42 : at + 46] = struct.pack("<L", 0)
    pack.write_bytes(data)
    assert "overlaps" in refused_by(verify(pack), "archive.directory")


@pytest.mark.parametrize(("before", "after"), [(b"#!/bin/sh\n", b""), (b"", b"x"), (b"MZ", b"y")])
def test_two_files_in_one(pack, verify, before, after):
    pack.write_bytes(before + pack.read_bytes() + after)
    refused_by(verify(pack), "archive.directory")


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"not a zip at all, but long enough to hold the end of one", b"PK\5\6" + bytes(18)]
)
def test_no_zip(pack, verify, data):
    pack.write_bytes(data)
    assert verify(pack).verdict == "refuse"


def test_truncated_and_flipped(pack, verify):
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2])
    refused_by(verify(pack), "archive.directory")
    data = bytearray(whole)
    data[whole.index(b"test_probabilities.npy") + 200] ^= 1
    pack.write_bytes(data)
    refused_by(verify(pack), "archive.content")


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_byte_ends_in_a_verdict(pack, store, verify, seed):
    """Not in a traceback, and never in acceptance unless nothing that is read has changed."""
    import random

    data = bytearray(pack.read_bytes())
    rng = random.Random(seed)
    where = len(data) - 1 - rng.randrange(2500) if seed % 2 else rng.randrange(len(data))
    files = unzip(pack)
    data[where] ^= 1 << rng.randrange(8)
    pack.write_bytes(data)
    judge = verify(pack, store)
    assert judge.verdict == "refuse" or unzip(pack) == files


def _manifest(archive, **changes):
    files = dict(archive)
    return {**files, "manifest.json": json.dumps(json.loads(files["manifest.json"]) | changes).encode()}


MANIFESTS = {
    "none": lambda f: {n: d for n, d in f.items() if n != "manifest.json"},
    "not json": lambda f: {**f, "manifest.json": b"{"},
    "a list": lambda f: {**f, "manifest.json": b"[]"},
    "version": lambda f: _manifest(f, schema_version=2),
    "unknown key": lambda f: _manifest(f, code="print(1)"),
    "nothing submitted": lambda f: _manifest(f, submitted=[]),
    "another submitted": lambda f: _manifest(f, submitted=["0" * 16]),
    "files missing": lambda f: _manifest(f, files={}),
    "records missing": lambda f: _manifest(f, records={}),
    "a key twice": lambda f: {
        **f, "manifest.json": f["manifest.json"].replace(b'{', b'{"schema_version": 1,', 1),
    },
    "too deep": lambda f: {**f, "manifest.json": b"[" * 200_000},
    "file not there": lambda f: {n: d for n, d in f.items() if not n.endswith("history.csv")},
}  # fmt: skip


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests(pack, verify, case):
    rezip(pack, MANIFESTS[case](unzip(pack)), honest=False)
    refused_by(verify(pack), "manifest.schema")


def test_forged_digest_in_the_manifest(pack, verify):
    files = unzip(pack)
    manifest = json.loads(files["manifest.json"])
    name = inside(pack, None, "env.json")
    manifest["files"][name] = hashlib.sha256(b"other").hexdigest()
    rezip(pack, _manifest(files, files=manifest["files"]), honest=False)
    judge = verify(pack)
    assert blamed(judge) >= {"manifest.digests"}


def test_an_archive_that_unpacks_slowly_is_limited_too():
    """`Limits` are of files, never of what a file says of itself."""
    from wbcbench.publishing.archive import pieces

    with pytest.raises(ValueError, match="more than"):
        list(pieces(io.BytesIO(bytes(11)), 10))
