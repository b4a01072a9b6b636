"""Evaluate a few class attributes from source, together with just the statements that they rest on.

From the file are taken: the wanted assignments of the class body, the module-level names they use,
and the light imports among those. Everything else (torch, methods, the contract as a base) is left
out. Whatever does not fit this picture raises `NotStaticError`.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from wbcbench.scan import kind_of_base

ATTRIBUTES = (
    "name", "aliases", "source", "emits", "arity", "missing", "solves", "stage_maps", "scales", "trained", "needs",
    "pairing", "family", "scalable",
    "matches", "role", "chain", "trainable",
    "acts_on", "needs_routes", "wants", "offers", "subsets", "waits",
    "blends_cells", "reads_labels", "reads_validation", "gradients",
)  # fmt: skip
_WANTED = (*ATTRIBUTES, "Params")
_LIGHT_PACKAGES = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions"}
_LIGHT_CONTRACTS = {"Needs", "Parameters", "DistillerParams", "param", "needs", "params"}
_LIGHT_MODULES = {"wbcbench.contracts", "wbcbench.contracts.needs", "wbcbench.contracts.params"}


class NotStaticError(Exception):
    """The source alone does not tell; import the class instead."""


@dataclass
class StaticClass:
    """One class of a parsed file."""

    path: Path
    node: ast.ClassDef
    future: list[ast.stmt]
    order: list[ast.stmt]
    bound: dict[str, ast.stmt] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    """Names that something other than one plain statement binds or may change."""

    @classmethod
    def read(cls, path: Path, class_name: str) -> StaticClass:
        """Parse the file. Raises `NotStaticError`."""
        try:
            body = _parse(path.read_text(encoding="utf-8"), str(path)).body
        except (OSError, SyntaxError, ValueError) as error:
            raise NotStaticError(str(error)) from error
        nodes = [n for n in body if isinstance(n, ast.ClassDef) and n.name == class_name]
        if len(nodes) != 1:
            raise NotStaticError(f"{len(nodes)} classes {class_name}")
        future = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
        self = cls(path, nodes[0], list(future), body)
        for statement in body:
            self._bind(statement)
        return self

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    def evaluate(self, names: Iterable[str]) -> dict[str, Any]:
        """Values of those of the names that the class, or a base in the same file, states."""
        names = tuple(names)
        literals = self._literals(names)
        if literals is not None:
            return literals
        keep: dict[int, ast.stmt] = {}
        self._trim(self.node, names, keep)
        body = self.future + [keep[id(s)] for s in self.order if id(s) in keep]
        found = _run(body, self.path, self.node.name, names)
        params = found.get("Params")
        if isinstance(params, type) and not getattr(params, "__pydantic_complete__", True):
            raise NotStaticError("Params with unresolved annotations")
        return found

    def _bind(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return
        names = _bindings(statement)
        if names is None:
            self.opaque |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
            for node in ast.walk(statement):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    self.opaque |= {a.asname or a.name.partition(".")[0] for a in node.names}
            return
        for name in names:
            if name in self.bound:
                self.opaque.add(name)
            self.bound[name] = statement

    def _literals(self, names: tuple[str, ...]) -> dict[str, Any] | None:
        """The common case, without running anything: one contract as base, and literals only."""
        if len(self.node.bases) != 1 or kind_of_base(self.node.bases[0]) is None:
            return None
        if self.node.name in self.opaque or self.node.decorator_list or self.node.keywords:
            return None
        found: dict[str, Any] = {}
        for statement in self.node.body:
            bound = _bindings(statement)
            if bound is None and not isinstance(statement, ast.Expr):
                return None
            for name in set(bound or ()) & set(names):
                value = getattr(statement, "value", None)
                if name in found or value is None or not isinstance(statement, (ast.Assign, ast.AnnAssign)):
                    return None
                try:
                    found[name] = ast.literal_eval(value)
                except ValueError:
                    return None
        return found

    def _trim(self, node: ast.ClassDef, names: tuple[str, ...], keep: dict[int, ast.stmt]) -> None:
        """Put the class, reduced to the wanted statements and what they use, into `keep`."""
        if node.decorator_list or node.keywords or node.name in self.opaque:
            raise NotStaticError(f"{node.name} is changed after its body")
        own: dict[str, ast.stmt] = {}
        for statement in node.body:
            bound = _bindings(statement)
            if bound is None:
                if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                    continue
                touched = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
                if touched & {*_WANTED, *own}:
                    raise NotStaticError(f"{node.name} computes {sorted(touched)}")
                continue
            for name in bound:
                if name in own and name in names:
                    raise NotStaticError(f"{node.name} states {name} twice")
                own[name] = statement
        chosen: set[int] = set()
        queue = [own[n] for n in names if n in own]
        while queue:
            statement = queue.pop()
            if id(statement) in chosen:
                continue
            chosen.add(id(statement))
            for used in _used(statement):
                if used in own:
                    queue.append(own[used])
                else:
                    self._need(used, keep)
        bases: list[ast.expr] = []
        for base in node.bases:
            if kind_of_base(base) is not None:
                continue
            parent = self.bound.get(base.id) if isinstance(base, ast.Name) else None
            if not isinstance(parent, ast.ClassDef):
                raise NotStaticError(f"{node.name} inherits from another file")
            self._trim(parent, names, keep)
            bases.append(base)
        body = [_without_annotation(s) for s in node.body if id(s) in chosen]
        trimmed = ast.ClassDef(
            name=node.name, bases=bases, keywords=[], body=body or [ast.Pass()], decorator_list=[]
        )
        keep[id(node)] = ast.fix_missing_locations(ast.copy_location(trimmed, node))

    def _need(self, name: str, keep: dict[int, ast.stmt]) -> None:
        """Put the module-level statement that binds `name` into `keep`, and what it uses in turn."""
        if name in self.opaque:
            raise NotStaticError(f"{name} is bound more than once, or changed")
        statement = self.bound.get(name)
        if statement is None:
            return  # a builtin, an argument or a loop variable; if it is none, running it will say so
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self._need_import(name, statement, keep)
            return
        if id(statement) in keep:
            return
        keep[id(statement)] = _without_annotation(statement)
        for used in _used(statement):
            self._need(used, keep)

    def _need_import(self, name: str, statement: ast.Import | ast.ImportFrom, keep: dict[int, ast.stmt]) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == name)
        if isinstance(statement, ast.ImportFrom):
            module = "" if statement.level else statement.module or ""
            light = (
                _is_light(module)
                or (module in _LIGHT_MODULES and alias.name in _LIGHT_CONTRACTS)
                or (module == "wbcbench" and alias.name == "contracts")
            )
        else:
            light = _is_light(alias.name) or alias.name in _LIGHT_MODULES
        if not light:
            raise NotStaticError(f"{name} is imported from a module that may be heavy")
        kept = keep.get(id(statement))
        names = [*(a for a in getattr(kept, "names", ()) if a is not alias), alias]
        if isinstance(statement, ast.ImportFrom):
            new: ast.stmt = ast.ImportFrom(module=statement.module, names=names, level=0)
        else:
            new = ast.Import(names=names)
        keep[id(statement)] = ast.copy_location(new, statement)


@lru_cache(maxsize=4)
def _parse(text: str, filename: str) -> ast.Module:
    """Cached for files that hold several classes; few, because a parsed file is large."""
    return ast.parse(text, filename)


def _is_light(module: str) -> bool:
    root = module.partition(".")[0]
    return root in sys.stdlib_module_names or root in _LIGHT_PACKAGES


def _bindings(statement: ast.stmt) -> list[str] | None:
    """Names that a plain statement binds; None for anything that is not plain."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [a.asname or a.name.partition(".")[0] for a in statement.names]
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id] if statement.value is not None else []
    if isinstance(statement, ast.Assign):
        flat = list(_flat(statement.targets))
        return (
            [t.id for t in flat if isinstance(t, ast.Name)] if all(isinstance(t, ast.Name) for t in flat) else None
        )
    return [] if isinstance(statement, ast.Pass) else None


def _without_annotation(statement: ast.stmt) -> ast.stmt:
    """`x: ClassVar[int] = 1` as `x = 1`: the annotation means nothing to the value, and may be heavy."""
    if not isinstance(statement, ast.AnnAssign) or statement.value is None:
        return statement
    plain = ast.Assign(targets=[statement.target], value=statement.value)
    return ast.copy_location(plain, statement)


def _flat(targets: list[ast.expr]) -> Iterator[ast.expr]:
    for target in targets:
        if isinstance(target, (ast.Tuple, ast.List)):
            yield from _flat(target.elts)
        else:
            yield target


def _used(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement reads, including those inside quoted annotations."""
    # See `_without_annotation`; the fields of a nested Params keep theirs.
    skipped = statement.annotation if isinstance(statement, ast.AnnAssign) else None
    todo: list[ast.AST] = [n for n in ast.iter_child_nodes(statement) if n is not skipped]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        annotation = getattr(node, "annotation", None)
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                todo.append(ast.parse(annotation.value, mode="eval"))
            except SyntaxError:
                raise NotStaticError("an annotation that does not parse") from None
        todo.extend(ast.iter_child_nodes(node))


def _run(body: list[ast.stmt], path: Path, class_name: str, names: tuple[str, ...]) -> dict[str, Any]:
    # A real entry in sys.modules, because pydantic resolves string annotations through it.
    digest = hashlib.sha256(f"{path}:{class_name}:{names}:{ast.dump(ast.Module(body, []))}".encode())
    name = f"wbcbench_declared_{digest.hexdigest()[:16]}"
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            code = compile(ast.Module(body, []), str(path), "exec", dont_inherit=True)
            exec(code, vars(module))
        except Exception as error:
            del sys.modules[name]
            raise NotStaticError(f"{type(error).__name__}: {error}") from error
    cls = getattr(module, class_name)
    return {n: getattr(cls, n) for n in names if hasattr(cls, n)}
