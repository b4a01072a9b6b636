"""Which components a source file declares, read from its text: nothing is imported.

A top-level class whose direct base is a contract (`class Gated(Fusion)`) and whose body says
`name = "..."` is a component. So a file describes itself, and adding a method means adding a file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTRACTS = {
    "Dataset": "dataset",
    "Backbone": "backbone",
    "Fusion": "fusion",
    "Policy": "policy",
    "Distiller": "distiller",
    "Routing": "routing",
}

_HEAD = re.compile(rf"^class\s+\w+\s*\([^)]*\b(?:{'|'.join(CONTRACTS)})\b", re.MULTILINE)
HEAD_ENDS = re.compile(r"^(?:    (?:def |async def |@|class )|[^\s)#\"'\]}])", re.MULTILINE)
_LATE = re.compile(r"^    (?:name|aliases)\s*[:=](?!=)", re.MULTILINE)
_REGISTER = re.compile(r"\bregister\(\s*[\"']([^\"']+)[\"']")
_HOOK = re.compile(r"^def wbcbench_register_(\w+)", re.MULTILINE)
_PLURALS = {"policies": "policy"} | {f"{kind}s": kind for kind in CONTRACTS.values() if kind != "policy"}


@dataclass(frozen=True)
class Found:
    """One component declared in a file."""

    kind: str
    class_name: str
    name: str
    aliases: tuple[str, ...]
    summary: str
    line: int


def scan_file(path: Path) -> list[tuple[str, str, str]]:
    """(kind, class name, declared name) of every component in the file. Raises `SyntaxError`."""
    return [(f.kind, f.class_name, f.name) for f in scan(path)]


def scan(path: Path) -> list[Found]:
    """Every component in the file, in order. Raises `SyntaxError`, `OSError`, `UnicodeError`."""
    return scan_text(path.read_text(encoding="utf-8"), str(path))


def scan_text(text: str, filename: str = "<text>") -> list[Found]:
    """As `scan`, for text already read."""
    if not _HEAD.search(text):
        return []
    quick = _scan_heads(text)
    if quick is not None:
        return quick
    return [found for node in ast.parse(text, filename).body if (found := _component(node, 0)) is not None]


def kind_of_base(base: ast.expr) -> str | None:
    """The kind of a contract named as `Fusion` or `contracts.Fusion`, else None."""
    name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
    return CONTRACTS.get(name)


def guess_names(text: str) -> set[tuple[str | None, str]]:
    """(kind or None, name) of what a broken plugin's source would have offered, as far as can be seen."""
    names: set[tuple[str | None, str]] = set()
    hooks = [(m.start(), _PLURALS.get(m.group(1))) for m in _HOOK.finditer(text)]
    for match in _REGISTER.finditer(text):
        kind = next((k for start, k in reversed(hooks) if start < match.start()), None)
        names.add((kind, match.group(1)))
    try:
        for found in scan_text(text):
            names.update((found.kind, name) for name in (found.name, *found.aliases))
    except (SyntaxError, ValueError):
        names.update((None, name) for name in re.findall(r"^    name\s*=\s*[\"'](.+?)[\"']", text, re.M))
    return names


def _scan_heads(text: str) -> list[Found] | None:
    """Parse only the top of each candidate class: ten times faster than the file. None: not that simple."""
    found = []
    for match in _HEAD.finditer(text):
        start = match.start()
        if text.count('"""', 0, start) % 2 or text.count("'''", 0, start) % 2:
            return None
        end = HEAD_ENDS.search(text, match.end())
        head = text[start : end.start() if end else len(text)]
        following = _HEAD.search(text, match.end())
        if end and _LATE.search(text, end.start(), following.start() if following else len(text)):
            return None
        try:
            nodes = ast.parse(head).body
        except (SyntaxError, ValueError):
            return None
        component = _component(nodes[0], text.count("\n", 0, start)) if len(nodes) == 1 else None
        if component is None:
            return None
        found.append(component)
    return found


def _component(node: ast.stmt, offset: int) -> Found | None:
    if not isinstance(node, ast.ClassDef):
        return None
    kind = next((k for base in node.bases if (k := kind_of_base(base))), None)
    values = dict(_literals(node))
    name = values.get("name")
    if kind is None or not isinstance(name, str):
        return None
    aliases = values.get("aliases", ())
    return Found(
        kind=kind,
        class_name=node.name,
        name=name,
        aliases=tuple(map(str, aliases)) if isinstance(aliases, (tuple, list)) else (),
        summary=first_line(ast.get_docstring(node)),
        line=node.lineno + offset,
    )


def _literals(node: ast.ClassDef) -> Iterator[tuple[str, object]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name) and target.id in ("name", "aliases"):
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:
                continue


def first_line(doc: str | None) -> str:
    """A docstring's first line."""
    return (doc or "").strip().partition("\n")[0].strip()
