"""The attributes of a plainly written class, from its top alone: parsing whole files is what costs time.

`wbcbench list` reads a hundred files. Wherever the text leaves a doubt, the answer is None and the
whole file is parsed (see `wbcbench.static_class`).
"""

from __future__ import annotations

import ast
import re
from typing import Any

from wbcbench.scan import HEAD_ENDS, kind_of_base

_ODD = re.compile(r"^    (?!def |async def |@|class |#|\)|\"\"\"|''')\S", re.MULTILINE)
_NEEDS = re.compile(
    r"^from wbcbench\.contracts(?:\.needs)? import (?:\([^)]*?\bNeeds,?\s|.*\bNeeds\b(?! as))", re.MULTILINE
)


def quick_attributes(text: str, class_name: str, names: tuple[str, ...]) -> tuple[str, dict[str, Any]] | None:
    """(docstring, values of those names that the class states), or None where that is in doubt."""
    node = _plain_head(text, class_name)
    if node is None:
        return None
    found: dict[str, Any] = {}
    for statement in node.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        if isinstance(statement, ast.AnnAssign):
            target: ast.expr = statement.target
        elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        else:
            return None
        if not isinstance(target, ast.Name) or target.id in found:
            return None
        if target.id in names and statement.value is not None:
            try:
                found[target.id] = _value(statement.value, text)
            except (ValueError, TypeError):
                return None
    return ast.get_docstring(node) or "", found


def _value(node: ast.expr, text: str) -> Any:
    """A literal, or `Needs(...)` of literals. Raises `ValueError` or `TypeError` for anything else."""
    call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Needs"
    if not call or not _imports_needs(text):
        return ast.literal_eval(node)
    assert isinstance(node, ast.Call)
    from wbcbench.contracts.needs import Needs

    if node.args or any(k.arg is None for k in node.keywords):
        raise ValueError("arguments without a name")
    return Needs(**{str(k.arg): ast.literal_eval(k.value) for k in node.keywords})


def _plain_head(text: str, class_name: str) -> ast.ClassDef | None:
    """The top of a class, if all its attributes stand there; None wherever that is in doubt.

    In doubt means: several bases, a decorator, statements between or after the methods, or the
    class's name at the start of any other line of the file.
    """
    match = re.search(rf"^class\s+{class_name}\s*\([\w.]+\):", text, re.MULTILINE)
    if match is None or text.count('"""', 0, match.start()) % 2 or text.count("'''", 0, match.start()) % 2:
        return None
    if re.search(r"^@.*\n(?:.*\n)?\Z", text[: match.start()], re.MULTILINE):
        return None
    end = HEAD_ENDS.search(text, match.end())
    rest = text[end.start() :] if end else ""
    after = re.search(r"^[^\s#)]", rest, re.MULTILINE)
    body = rest[: after.start()] if after else rest
    if _ODD.search(body) or body.count('"""') % 2 or body.count("'''") % 2:
        return None
    others = text[: match.start()] + rest
    if re.search(rf"^(?!\s).*\b{class_name}\b", others, re.MULTILINE) or "setattr" in others:
        return None
    try:
        nodes = ast.parse(text[match.start() : end.start() if end else len(text)]).body
    except (SyntaxError, ValueError):
        return None
    node = nodes[0] if len(nodes) == 1 else None
    return node if isinstance(node, ast.ClassDef) and kind_of_base(node.bases[0]) else None


def _imports_needs(text: str) -> bool:
    """Whether `Needs` certainly is the contracts' own."""
    return _NEEDS.search(text) is not None and not re.search(r"(?:class|def)\s+Needs\b|\bNeeds\s*=", text)
