"""Fill the templates in and write them: a plugin file beside its test, or an installable package.

A template is a working plugin called `my_method` (class `MyMethod`), so that ruff, mypy and a reader see real
code; filling in is replacing these words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wbcbench.errors import UsageError
from wbcbench.files import atomic_folder, atomic_write_text
from wbcbench.registry import plural
from wbcbench.scaffold.names import class_name

TEMPLATES = Path(__file__).parent / "templates"
TRY = {
    "fusion": "--fusion {}",
    "distiller": "--kd {}",
    "backbone": "--backbone {}",
    "policy": "--fusion independent --policy {}",
    "routing": "--kd logits --routing {}",
    "dataset": "--dataset {}",
}
"""Kind -> flags of `wbcbench run` that use it."""


@dataclass(frozen=True)
class Written:
    """What was written, and what to type next."""

    files: tuple[Path, ...]
    next_steps: tuple[tuple[str, str], ...]
    """(command, what it does)."""


def write_file(kind: str, name: str, folder: Path) -> Written:
    """Write `NAME.py` and `test_NAME.py` into a plugin folder.

    Raises:
        UsageError: one of them is there, or the folder is a Python package, where plugins are not looked for.
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
            (f"wbcbench run --plugins-dir {folder} {TRY[kind].format(name)} --epochs 2", "train it"),
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
            (f"wbcbench run {TRY[kind].format(name)} --epochs 2", "train it"),
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
        "MyCommand": f"wbcbench run {TRY[kind].format(name)}",
        "MyMethod": class_name(name),
        "my-method": name.replace("_", "-"),
        "my_method": name,
    }
    for word, value in words.items():
        text = text.replace(word, value)
    return text


__all__ = ["TRY", "Written", "write_file", "write_package"]
