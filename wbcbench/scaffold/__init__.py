"""Choose names for a new plugin, fill in the templates and write them: one file and its test, or a package."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from wbcbench.errors import NameClashError, PluginError, UnknownNameError, UsageError
from wbcbench.files import atomic_folder, atomic_write_text
from wbcbench.registry import Registry, plural, qualified_name

LONGEST = 40
RESERVED = frozenset({"all", "auto", "conftest", "contract", "default", "joint", "none", "plugin", "plugins"})
"""Words that mean something else on the command line, in a route's name or to pytest."""


def check_name(kind: str, name: str, registry: Registry) -> None:
    """Raise `UsageError` unless a new component of this kind may be called `name`."""
    plain = _plain(name)
    if name != plain or len(name) > LONGEST:
        raise UsageError(
            f"Expected a name of at most {LONGEST} lower-case letters, digits and '_', that begins with a letter, "
            f"but got '{name}'.{f' Write {plain[:LONGEST]!r}.' if plain else ''}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in RESERVED:
        raise UsageError(f"'{name}' is a reserved word. Choose another name, such as '{name}_{kind}'.")
    if name.startswith("test_") or name.endswith("_test"):
        raise UsageError(f"'{name}' would be taken for a test by pytest. Choose a name without 'test'.")
    if _is_module(name):
        raise UsageError(
            f"'{name}' is the name of a Python module that is installed here, which a file {name}.py would hide. "
            f"Choose another name, such as '{name}_{kind}'."
        )
    try:
        taken = registry.resolve(kind, name).component
    except UnknownNameError:
        return
    except (NameClashError, PluginError) as error:
        raise UsageError(f"'{name}' is taken: {str(error).splitlines()[0]} Choose another name.") from error
    who = "built in" if taken.builtin else f"offered by {taken.provider}"
    raise UsageError(
        f"A {kind} '{qualified_name(taken)}' is {who} ({taken.origin}). Choose another name, such as 'my_{name}'."
    )


def class_name(name: str) -> str:
    """`gated_mean` -> `GatedMean`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _plain(name: str) -> str:
    """The nearest name that is allowed, or an empty string."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return re.sub(r"_+", "_", re.sub(r"[^a-z0-9]+", "_", snake)).strip("_0123456789") if not _fine(name) else name


def _fine(name: str) -> bool:
    return re.fullmatch(r"[a-z](_?[a-z0-9]+)*", name) is not None


def _is_module(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin is not None  # a folder of that name is not a module


TEMPLATES = Path(__file__).parent / "templates"
TRY = {
    "fusion": "--fusion {}",
    "distiller": "--kd {}",
    "backbone": "--backbone {}",
    "policy": "--fusion independent --policy {}",
    "routing": "--kd logits --routing {}",
    "dataset": "--dataset {}",
    "metric": "--metric {}",
    "corruption": "--fusion early,late_prob --kd none --evaluate full --corruption {}",
}
"""Kind -> flags of `command` that use it."""


def command(kind: str, name: str, options: str = "") -> str:
    """How the component is used; `options` come first."""
    flags = " ".join(filter(None, (options, TRY[kind].format(name))))
    return f"wbcbench leaderboard {flags}" if kind == "metric" else f"wbcbench run {flags} --epochs 2"


def _use(kind: str, name: str, options: str = "") -> tuple[str, str]:
    what = {"metric": "compute it for a store", "corruption": "train, and evaluate with it"}.get(kind, "train it")
    return command(kind, name, options), what


@dataclass(frozen=True)
class Written:
    """What was written, and what to type next."""

    files: tuple[Path, ...]
    next_steps: tuple[tuple[str, str], ...]
    """(command, what it does)."""


def write_file(kind: str, name: str, folder: Path) -> Written:
    """Write `NAME.py` and `test_NAME.py` into a plugin folder.

    Raises:
        UsageError: one of them is there, or the folder is a Python package, where plugins are not searched for.
    """
    if (folder / "__init__.py").exists():
        raise UsageError(
            f"Expected a folder of plugin files, but {folder} is a Python package (it has an __init__.py). "
            "Choose another: --plugins-dir my_plugins."
        )
    plugin, test = folder / f"{name}.py", folder / f"test_{name}.py"
    _refuse_existing(plugin, test, folder / name)
    atomic_write_text(plugin, _filled(f"{kind}.py", kind, name))
    atomic_write_text(test, _contract(kind, name, f'Path(__file__).with_name("{name}.py")'))
    return Written(
        (plugin, test),
        (
            (f"wbcbench check {plugin}", "the contract, in plain words"),
            _use(kind, name, f"--plugins-dir {folder}"),
            (f"pytest {test}", "its test, for your own additions too"),
        ),
    )


def write_package(kind: str, name: str, folder: Path) -> Written:
    """Write the package `wbcbench-NAME` into `folder`. Raises `UsageError` if it is there."""
    distribution = f"wbcbench-{name.replace('_', '-')}"
    root = folder / distribution
    _refuse_existing(root)
    module = f"src/wbcbench_{name}"
    texts = {
        "pyproject.toml": _filled("package/pyproject.toml", kind, name),
        "README.md": _filled("package/README.md", kind, name),
        f"{module}/__init__.py": _filled("package/plugin.txt", kind, name),
        f"{module}/{name}.py": _filled(f"{kind}.py", kind, name),
        f"{module}/py.typed": "",
        f"tests/test_{name}.py": _contract(kind, name, f'"{name}"'),
    }
    with atomic_folder(root) as building:
        for path, text in texts.items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).write_text(text, encoding="utf-8")
    return Written(
        tuple(root / path for path in texts),
        (
            (f"pip install -e '{_dotted(root)}[test]'", "from then on wbcbench finds it"),
            (f"wbcbench check {name}", "the contract, in plain words"),
            _use(kind, name),
        ),
    )


def _dotted(path: Path) -> str:
    """`./wbcbench-x`: without the dot pip might take it for the name of a package on an index."""
    return str(path) if path.is_absolute() else f"./{path}"


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UsageError(f"Expected to write {path}, but it exists. Choose another name, or remove it.")


def _contract(kind: str, name: str, target: str) -> str:
    imports = "from pathlib import Path\n\n" if target.startswith("Path") else ""
    subject = "component" if kind == "dataset" else kind
    text = (TEMPLATES / "contract.txt").read_text(encoding="utf-8").replace("MyImports\n", imports)
    text = text.replace("MySubject", subject).replace("MyTarget", target)
    return _named(text, kind, name)


def _filled(template: str, kind: str, name: str) -> str:
    return _named((TEMPLATES / template).read_text(encoding="utf-8"), kind, name)


def _named(text: str, kind: str, name: str) -> str:
    words = {
        "MyKinds": plural(kind),
        "MyPlural": plural(kind),
        "MyKindContract": f"{kind.capitalize()}Contract",
        "MyKind": kind,
        "MyCommand": command(kind, name).removesuffix(" --epochs 2"),
        "MyMethod": class_name(name),
        "my-method": name.replace("_", "-"),
        "my_method": name,
    }
    for word, value in words.items():
        text = text.replace(word, value)
    return text


__all__ = ["LONGEST", "RESERVED", "TRY", "Written", "check_name", "class_name", "write_file", "write_package"]
