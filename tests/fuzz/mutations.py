"""Seeded damage to valid bytes: flips, cuts, splices, huge numbers, deep nesting, changes that keep the form."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

TOKENS = (
    b"NaN", b"Infinity", b"-1e999", b"1e400", b"9" * 30, b"9" * 5000, b"-1", b"0", b"null", b"true", b"[]", b"{}",
    b'""', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"'", b",", b";", b"\t", b"\\", b"\\ud800",
    b"../../x", b"/dev/zero", b"2001-99-99", b"1:99:99", b"!!python/object:os.system x", b"&a [*a]", b"<<: 3",
    b".nan", b".inf",
    b"? [a]", b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"(" * 300, b"- " * 2000, b"A" * 140_000,
    b"\xf0\x9f\xa9\xb8", b"\xe2\x80\xae", b"%s%n", b"=1+1", b"<script>", b"log(", b"choice()", b"e", b"0x", b"_",
)  # fmt: skip
"""What breaks readers of JSON, YAML, CSV, numbers or paths."""
_LINES = ("x0: &x0 [a]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 10)))
BOMB = "".join(f"{line}\n" for line in _LINES).encode()
"""Ten lines of YAML that unfold to a thousand million values."""
_LEAVES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**63, 2**70, 10**400, 1e308, -0.0, float("nan"), float("inf"), "", "\x00", "../x",
    "a" * 5000,
    "\ud800", [], {}, [[]], [None], {"": 0}, {"name": 3}, [1.5] * 3, "NaN", "1", "2001-99-99",
)  # fmt: skip


def bomb(data: bytes, draw: random.Random) -> bytes:
    return BOMB + data


def flip(data: bytes, draw: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        if out:
            out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def cut(data: bytes, draw: random.Random) -> bytes:
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:a], data[a:], data[:a] + data[b:], data[a:b]))


def splice(data: bytes, draw: random.Random) -> bytes:
    """A piece of the same bytes somewhere else, or twice."""
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[a : min(b, a + 4096)] + data[at:]


def token(data: bytes, draw: random.Random) -> bytes:
    """Something hostile in the middle, or in the place of a word."""
    at = draw.randrange(len(data) + 1)
    if draw.random() < 0.5:
        return data[:at] + draw.choice(TOKENS) + data[at:]
    end = next((i for i in range(at, len(data)) if data[i : i + 1] in b' ,:;"\n]})=('), len(data))
    return data[:at] + draw.choice(TOKENS) + data[end:]


BYTES: tuple[Mutation, ...] = (flip, cut, splice, token, token)
"""For anything."""
YAML: tuple[Mutation, ...] = (*BYTES, *BYTES, bomb)


def leaf(data: bytes, draw: random.Random) -> bytes:
    """A JSON document with another value, or another key, somewhere."""
    document = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(document)
    for _ in range(draw.choice((1, 1, 2))):
        if not places:
            break
        inside, key = draw.choice(places)
        try:
            old = inside[key]
        except (KeyError, IndexError):
            continue  # gone with an earlier change
        how = draw.random()
        if how < 0.6:
            inside[key] = draw.choice(_LEAVES)
        elif how < 0.75 and isinstance(inside, dict):
            del inside[key]
        elif how < 0.85 and isinstance(inside, dict):
            inside[draw.choice(("", "x", "name", "status", "a.b"))] = old
        elif isinstance(old, int | float) and not isinstance(old, bool):
            inside[key] = draw.choice((-old, old * 1e6, str(old), old + 1, float(old)))
        else:
            inside[key] = [old]
    return json.dumps(document).encode("utf-8", "surrogatepass")


JSON: tuple[Mutation, ...] = (*BYTES, leaf, leaf, leaf)


def member(data: bytes, draw: random.Random) -> bytes:
    """A zip whose archive is whole, but one file in it is not."""
    files = unzipped(data)
    if files:
        name = draw.choice(sorted(files))
        files[name] = draw.choice((*BYTES, header))(files[name], draw)
    return zipped(files)


def header(data: bytes, draw: random.Random) -> bytes:
    """An .npy array that says something else of its shape or type."""
    if not data.startswith(b"\x93NUMPY"):
        return flip(data, draw)
    told = draw.choice((
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000000), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3), }",
        "{'descr': '<i8', 'fortran_order': True, 'shape': (), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<U1000000', 'fortran_order': False, 'shape': (90000000,), }",
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (3,), }",
        "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (12,), }",
        "{'descr': '<c16', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (12,), }",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': 3, }", "(" * 900, "{'descr': " + "-" * 5000 + "1}", "'",
        "\x00",
        "{'descr': 'x', 'fortran_order': False, 'shape': (3,)}", "{}", "{'a': 1e999}", "\t\n  x\n y",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }",
    )).encode()  # fmt: skip
    size = int.from_bytes(data[8:10], "little")
    return data[:8] + (len(told) + 1).to_bytes(2, "little") + told + b"\n" + data[10 + size :]


ARCHIVE: tuple[Mutation, ...] = (*BYTES, member, member, member, member)


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
