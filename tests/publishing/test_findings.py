"""Every number in a FINDINGS.md comes out of a command that stands beside it, and comes out again.

A `console` block holds commands, each after `$`, and what they print. They run where the repository lies; a figure
is drawn anew under another name. What is written between the blocks may only use decimals that a block, or the
board's own tables, have.

    python tests/publishing/test_findings.py leaderboards/NAME/FINDINGS.md     # puts in what is printed now
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from wbcbench.publishing import sources

ROOT = Path(__file__).parents[2]
FINDINGS = sorted((ROOT / "leaderboards").glob("*/FINDINGS.md"))
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DECIMAL = re.compile(r"(?<![\w.])[+-]?\d*\.\d+")


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Each command of a page, and what it is said to print."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, said = part.partition("\n")
            yield line, said


@pytest.fixture(scope="module", autouse=True)
def _unpacked_once() -> Iterator[None]:
    """Each board, for all commands, which then share its statistics; `test_board_as_store` checks the records."""
    real, known = sources.unpacked, {}
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

        @contextmanager
        def once(path: Path) -> Iterator[Any]:
            if path not in known:
                known[path] = stack.enter_context(real(path))
            yield known[path]

        patch.setattr(sources, "check_record", lambda *_: None)
        patch.setattr(sources, "unpacked", once)
        yield


CASES = [(page, line, said) for page in FINDINGS for line, said in commands(page)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line", "said"), CASES, ids=[f"{p.parent.name}: {line}" for p, line, _ in CASES])
def test_a_command_prints_what_the_page_says(
    page: Path, line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    invoke: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    assert words[0] == "wbcbench", line
    if "--save" in words:
        at = words.index("--save") + 1
        figure, words[at] = words[at], str(tmp_path / Path(words[at]).name)
        code, _, err = invoke(*words[1:])
        assert (code, Path(words[at]).is_file()) == (0, True), err
        assert (ROOT / figure).is_file()
        assert Path(figure).name in page.read_text(encoding="utf-8")
        return
    code, out, err = invoke(*words[1:])
    assert code == 0, err
    assert [x.rstrip() for x in out.rstrip().splitlines()] == [x.rstrip() for x in said.rstrip().splitlines()]


@pytest.mark.parametrize("page", FINDINGS, ids=[p.parent.name for p in FINDINGS])
def test_prose_has_no_number_of_its_own(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = {float(x) for said in _BLOCK.findall(text) for x in _DECIMAL.findall(said)}
    shown |= {float(x) for x in _DECIMAL.findall((page.parent / "README.md").read_text(encoding="utf-8"))}
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|arXiv \S+", "", _BLOCK.sub("", text))
    alien = [x for x in _DECIMAL.findall(prose) if abs(float(x)) not in {abs(s) for s in shown}]
    assert not alien, "Give the command that prints these numbers"


def test_the_boards_of_the_pages_are_there() -> None:
    for page in FINDINGS:
        assert json.loads((page.parent / "protocol.json").read_text())["boards"]


def refreshed(text: str) -> str:
    """The page with what its commands print now."""

    def block(match: re.Match[str]) -> str:
        lines = [part.partition("\n")[0] for part in re.split(r"^\$ ", match[1], flags=re.MULTILINE)[1:]]
        return "```console\n" + "".join(f"$ {line}\n{printed(line)}" for line in lines) + "```"

    return _BLOCK.sub(block, text)


def printed(line: str) -> str:
    done = subprocess.run(shlex.split(line), cwd=ROOT, capture_output=True, text=True, check=True)
    return "" if "--save" in line else "".join(x.rstrip() + "\n" for x in done.stdout.rstrip().splitlines())


if __name__ == "__main__":
    for name in map(Path, sys.argv[1:]):
        name.write_text(refreshed(name.read_text(encoding="utf-8")), encoding="utf-8")
