"""Every code block of the guides runs, page by page, in the order in which a reader would type it.

`sh` blocks are commands (a trailing `# exit N` states the exit code), `python` blocks of a page share names, and a
block with `title="FILE"` is that file. Only `text` is not run: installing, and clusters of several machines.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "pages"
GUIDES = sorted(p.relative_to(PAGES).as_posix() for p in PAGES.rglob("*.md"))
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = {"sh", "python", "yaml", "csv"}
NOT_RUN = {"text"}

# Small enough that all guides take a minute; a reader's own commands are the same without them.
SMALL = {
    "DATASET": "synthetic:cells=160", "IMAGE_SIZE": "16", "EPOCHS": "1", "BACKBONE": "cellnet:width=4",
    "TEACHER": "cellnet:width=4", "DEVICE": "cpu", "EXECUTOR": "inline",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (PAGES / page).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match[2])
        found.append(Block(match[1], title[1] if title else "", match[3], text[: match.start()].count("\n") + 2))
    return found


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in SMALL.items():
        monkeypatch.setenv(f"WBCBENCH_{name}", value)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in GUIDES if any(b.language in RUN for b in blocks(p))])
def test_every_block_runs(page: str, invoke: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    for block in blocks(page):
        if block.title:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        elif block.language == "sh":
            for line in block.text.splitlines():
                command(page, line, invoke)


def command(page: str, line: str, invoke: Callable[..., tuple[int, str, str]]) -> None:
    text, _, comment = line.partition(" #")
    said = re.findall(r"\d", comment) if "exit" in comment else ["0"]
    if not text.strip():
        return
    expanded = re.sub(r"\$\(([^)]*)\)", _output, text)
    words = shlex.split(expanded)
    if words[0] == "wbcbench":
        code, out, err = invoke(*words[1:])
    else:
        if words[0] == "python":
            words[0] = sys.executable  # the environment need not be activated for tests
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        code, out, err = done.returncode, done.stdout, done.stderr
    assert str(code) in said, f"{page}: {text}\nexit {code}\n{out}\n{err}"


def _output(match: re.Match[str]) -> str:
    done = subprocess.run(shlex.split(match[1]), capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def test_blocks_are_of_kinds_that_are_run() -> None:
    kinds = {b.language for page in GUIDES for b in blocks(page)}
    assert kinds <= RUN | NOT_RUN
    unrun = [b for page in GUIDES for b in blocks(page) if b.language in NOT_RUN]
    assert len(unrun) <= 3, "text is for what cannot be run here"


def test_every_page_is_in_the_navigation_and_links_lead_somewhere() -> None:
    settings = (PAGES.parent / "mkdocs.yml").read_text()
    for page in GUIDES:
        assert f" {page}\n" in settings, f"{page} is not in mkdocs.yml"
        for target in re.findall(r"\]\(([^)#]+\.md)", (PAGES / page).read_text()):
            assert (PAGES / page).parent.joinpath(target).exists() or "components/" in target, f"{page}: {target}"
