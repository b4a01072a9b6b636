"""Every code block of README and of the guides runs, page by page, in the order in which a reader would type it.

`sh` blocks are commands (a trailing `# exit N` states the exit code), `python` blocks of a page share names, and a
block with `title="FILE"` is that file. In `bash` blocks training is only planned (`--dry-run`). `text` is not run:
installing, clusters of several machines, files that only the reader has. All commands and options exist.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
GUIDES = sorted(p.relative_to(ROOT).as_posix() for p in PAGES.rglob("*.md"))
OTHERS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
RUN = {"sh", "bash", "python", "yaml", "csv"}
NOT_RUN = {"text"}
PLANNED = {"run", "study"}  # what `bash` blocks do with --dry-run
CELLS = "docs/pages/guides/own-cells.md"  # has the script that makes the images which README's reader has

# Small enough that all guides take a minute; a reader's own commands are the same without them.
SMALL = {
    "DATASET": "synthetic:cells=160", "IMAGE_SIZE": "16", "EPOCHS": "1", "BACKBONE": "cellnet:width=4",
    "TEACHER": "cellnet:width=4", "DEVICE": "cpu", "EXECUTOR": "inline",
}  # fmt: skip


Invoke = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
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
@pytest.mark.parametrize("page", ["README.md", *(p for p in GUIDES if any(b.language in RUN for b in blocks(p)))])
def test_every_block_runs(page: str, invoke: Invoke, tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # a reader is in the repository's folder
    (tmp_path / "leaderboards").symlink_to(ROOT / "leaderboards")
    if page == "README.md":
        exec(next(b.text for b in blocks(CELLS) if b.title == "make_cells.py"), {})
        shutil.copytree("my_images", "more_images")
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
        elif block.language == "bash":
            for words in commands(block):
                if words[0] in PLANNED:
                    code, out, err = invoke(*words, "--dry-run")
                    assert code == 0, f"{page}: {' '.join(words)}\nexit {code}\n{out}\n{err}"


def commands(block: Block) -> list[list[str]]:
    """The words of every `wbcbench ...` of a block, without comments and what is before the program's name."""
    found = re.findall(r"(?:^|[\s/])wbcbench ([a-z].*)$", block.text, re.MULTILINE)
    return [shlex.split(line.split(" #")[0]) for line in found]


@pytest.mark.parametrize("page", [*OTHERS, *GUIDES])
def test_every_command_and_option_exists(page: str, invoke: Invoke) -> None:
    shell = [b for b in blocks(page) if b.language in {"sh", "bash", "text"}]
    for verb, *rest in (words for block in shell for words in commands(block)):
        code, out, _ = invoke(verb, "--help")
        assert code == 0, f"{page}: {verb}"
        if rest and re.search(rf"^  {re.escape(rest[0])}  ", out, re.MULTILINE):  # `leaderboard publish ...`
            out += invoke(verb, rest[0], "--help")[1]
        for flag in (word.split("=")[0] for word in rest if word.startswith("--")):
            assert re.search(rf"{flag}\b", out), f"{page}: {verb} has no {flag}"


def command(page: str, line: str, invoke: Invoke) -> None:
    text, _, comment = line.partition(" #")
    said = re.findall(r"\d", comment) if "exit" in comment else ["0"]
    if not text.strip():
        return
    expanded = re.sub(r"\$\(([^)]*)\)", _output, text)
    words = shlex.split(expanded)
    if words[0] == "wbcbench":
        with pytest.MonkeyPatch.context() as patch:
            if "--config" in words and "dataset" in yaml.safe_load(
                Path(words[words.index("--config") + 1]).read_text()
            ):
                patch.delenv("WBCBENCH_DATASET")  # a variable has precedence over a file
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
    kinds = {b.language for page in [*OTHERS, *GUIDES] for b in blocks(page)}
    assert kinds <= RUN | NOT_RUN
    unrun = [b for page in GUIDES for b in blocks(page) if b.language in NOT_RUN]
    assert len(unrun) <= 9, "text is for what cannot be run here"


def test_every_page_is_in_the_navigation() -> None:
    settings = (PAGES.parent / "mkdocs.yml").read_text()
    for page in GUIDES:
        assert f" {(ROOT / page).relative_to(PAGES).as_posix()}\n" in settings, f"{page} is not in mkdocs.yml"


@pytest.mark.parametrize("page", [*OTHERS, *GUIDES])
def test_links_lead_somewhere(page: str) -> None:
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists() or "components/" in target, f"{page}: {target}"
