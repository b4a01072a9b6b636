"""What a user asks of a search: the config file's `search:` section, with flags on top."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from wbcbench.errors import UsageError
from wbcbench.search.strategy import PrunerName, SamplerName
from wbcbench.spec.load import read_yaml, validate
from wbcbench.spec.request import Seeds, split_list
from wbcbench.spec.trial import Frozen

Objectives = Annotated[str, BeforeValidator(lambda v: ",".join(split_list(v)))]


class SearchSettings(Frozen):
    """How to search. Only the objective, sampler, pruner and seed are part of a study's identity."""

    trials: int = Field(20, ge=1, description="proposals in all, those of earlier starts included")
    objective: Objectives = "macro_f1"
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "none"
    budget_seconds: float | None = Field(None, gt=0, description="no proposal after so much training")
    seed: int = Field(0, ge=0, description="of the sampler; the training's is `seeds`")
    each: bool = Field(False, description="an equal search of its own for every method")
    winners: int = Field(1, ge=1, description="how many are retrained; of several objectives, from the Pareto set")
    winner_seeds: Seeds = (0, 1, 2)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


def load_settings(
    config: Path | None, flags: dict[str, Any], spaces: tuple[str, ...]
) -> tuple[SearchSettings, dict[str, Any]]:
    """Settings, and ranges by name: the file's `search` and `space`, then flags and `--space name=range`.

    Raises:
        UsageError: an unknown key, a bad value, or a `--space` without `=`.
    """
    return settings_from(read_yaml(config) if config is not None else {}, flags, spaces, config)


def settings_from(
    tree: dict[str, Any], flags: dict[str, Any], spaces: tuple[str, ...] = (), config: Path | str | None = None
) -> tuple[SearchSettings, dict[str, Any]]:
    """The same of a document that was read already; `config` says where it is from. Raises as the other does."""
    search, space = (tree.get(key) or {} for key in ("search", "space"))
    for key, section in (("search", search), ("space", space)):
        if not isinstance(section, dict):
            raise UsageError(f"{config}: expected key: value pairs in '{key}', but got {section!r}.")
    ranges = {str(k): v for k, v in space.items()}
    for item in spaces:
        name, found, text = item.partition("=")
        if not found or not name.strip():
            raise UsageError(
                f"Expected --space name=range, but got '{item}'. Example: --space 'training.lr=log(1e-4,1e-2)'"
            )
        ranges[name.strip()] = text
    where = f"{config}: search" if config is not None and not flags else "search"
    return validate(SearchSettings, {**search, **flags}, where), ranges
