"""A folder or file that says itself how it is read: `dataset.yaml`, as `wbcbench data import` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbcbench.errors import DataError

CONFIG = "dataset.yaml"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Described:
    """A data set and its parameters, as a config file for `wbcbench run` has them."""

    config: Path
    name: str
    params: dict[str, Any]


def described(path: Path) -> Described | None:
    """What a folder's `dataset.yaml`, or a YAML file, says; None where `path` is neither.

    Raises:
        UsageError: it is no config file.
        DataError: it names no data set.
    """
    config = path / CONFIG if path.is_dir() else path
    if config.suffix.lower() not in SUFFIXES or not config.is_file():
        return None
    from wbcbench.spec.load import read_yaml, request_from

    tree = read_yaml(config)
    if "dataset" not in tree:
        raise DataError(
            f"Expected `dataset:` in {config}, as `wbcbench data import` writes it, but there is none."
        )
    dataset = request_from(tree, where=str(config)).dataset
    return Described(config, dataset.name, dict(dataset.params))


def instead(folder: Path) -> str:
    """What in a folder without images to give instead of it, as words of a command line; empty if nothing."""
    if not folder.is_dir():
        return ""
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    arrays, tables, zips = ([p for p in inside if p.suffix.lower() == s] for s in (".npz", ".csv", ".zip"))
    given = [str(p) for p in arrays]
    given += [f"{table}{f' --root {zips[0]}' if zips else ''}" for table in tables]
    given += [] if tables else [str(p) for p in zips]
    return " or ".join(given[:4])


__all__ = ["CONFIG", "Described", "described", "instead"]
