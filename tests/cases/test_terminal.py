"""Output is inert: nothing in a file can move the cursor, change the title or turn the direction of writing."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from wbcbench.cli.output import print_json, print_table
from wbcbench.terminal import drawn, inert, inert_streams, one_line

Invoke = Callable[..., tuple[int, str, str]]
ESCAPE = "\x1b]0;title\x07\x1b[2J\x1b[31m"
HOSTILE = f"x{ESCAPE}\u202e\u2066\u200f\u061c\x7f\x85\x9b2J\u2028\ry"
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize("text", [chr(n) for n in range(0x2100) if ACTIVE.match(chr(n))] + ["\udcff"])
def test_every_active_character_is_escaped(text: str) -> None:
    assert one_line(f"a{text}b") == f"a\\u{ord(text):04x}b"
    assert inert(f"a{text}b") == f"a\\u{ord(text):04x}b"
    assert json.loads(f'"{inert(text)}"') == text


@pytest.mark.parametrize("text", ["a\tb\n", "caf\u00e9 \u03bc\u5f20 \U0001f9eb", "e\u0301", "a\u200db", "\r\n"])
def test_text_stays_text(text: str) -> None:
    assert inert(text) == text


def cells(root: Path) -> Path:
    """A manifest with hostile labels, donors, ids, a column and a file name."""
    random = np.random.default_rng(0)
    lines = [f'label,"image{ESCAPE}",group,id,"mo\u202ere"']
    for i in range(24):
        name = f"{i}\u202e.png"
        Image.fromarray(random.integers(0, 255, (12, 12), np.uint8)).save(root / name)
        lines.append(f'"{"ab"[i % 2]}{HOSTILE}",{name},"d{i // 6}{ESCAPE}","{i}\n{HOSTILE}",1')
    (root / f"b{ESCAPE}\u202e.csv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return root / f"b{ESCAPE}\u202e.csv"


VERBS: dict[str, tuple[str, ...]] = {
    "inspect": ("data", "inspect", "{}", "--modality", "m=image" + ESCAPE),
    "inspect as json": ("data", "inspect", "{}", "--json", "--modality", "m=image" + ESCAPE),
    "audit": ("data", "audit", "{}", "--modality", "m=image" + ESCAPE),
    "import": ("data", "import", "{}", "-o", "{}-in", "--modality", "m=image" + ESCAPE),
    "no such column": ("data", "inspect", "{}", "--label", "none" + HOSTILE),
    "recognised columns": ("data", "inspect", "{}"),
    "dry run": ("run", "--dataset", "folder", "--set", "dataset.path={}", "--dry-run"),
    "no such file": ("data", "inspect", "none" + HOSTILE),
    "no such component": ("show", "fusion" + HOSTILE),
    "no such command": ("go" + HOSTILE,),
    "no such option": ("list", "--x" + HOSTILE),
    "no such plugin": ("run", "--fusion", "f" + HOSTILE, "--dry-run"),
    "board of nothing": ("leaderboard", "--store", "s" + ESCAPE + "\u202e"),
    "record of nothing": ("report", "r" + HOSTILE, "-o", "o.html"),
    "board file": ("leaderboard", "check", "{}"),
    "config": ("run", "--config", "{}"),
}


@pytest.mark.parametrize("name", VERBS)
def test_what_verbs_print_is_inert(
    name: str, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(cells(tmp_path))
    _, out, err = invoke(*(word.replace("{}", path) for word in VERBS[name]))
    assert out + err
    assert not ACTIVE.search((out + err).replace("\r\n", "\n")), ascii(out + err)
    if name == "inspect as json":
        assert json.loads(out)["classes"][0]["name"] == "a" + HOSTILE.strip()
    if name in ("inspect", "recognised columns", "no such file"):
        assert "\\u202e" in out + err


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_tables_keep_their_colours_and_nothing_else(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    with inert_streams():
        print_table(["a" + HOSTILE, "b"], [[HOSTILE, "two\nlines"]], title=HOSTILE)
        click.echo(HOSTILE, color=True)
        print_json({"note": HOSTILE})
        print("\x1b]0;title\x07\u202e\udcff", file=drawn(sys.stdout))  # no colour, no move of the cursor
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).replace("\r", "")
    assert not ACTIVE.search(text)
    assert "two\\u000alines" in text
    assert ("\x1b[1m" in out.getvalue()) is terminal
    assert json.loads(text[text.index("{") : text.index("}") + 1])["note"] == HOSTILE


def test_an_ascii_stream_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    with inert_streams():
        click.echo("caf\u00e9 \u202e")
    assert raw.getvalue() == b"caf\\xe9 \\u202e\n"
