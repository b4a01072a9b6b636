"""What a published board was asked to show (`protocol.json`), and what is struck out beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from wbcbench.errors import UsageError
from wbcbench.leaderboard.invalid import read_invalid
from wbcbench.leaderboard.model import Board
from wbcbench.leaderboard.options import Options
from wbcbench.records.schema import ComparisonKey, Strict

PROTOCOL, INVALID = "protocol.json", "invalid.yaml"


class Asked(Strict):
    """What a board was asked to show."""

    schema_version: Literal[1] = 1
    title: str = Field(min_length=1, max_length=200)
    by: str = "macro_f1"
    seeds: tuple[int, ...] | None = None
    keys: tuple[str, ...] = ()
    where: dict[str, str] = {}
    resamples: int = 10_000
    board_seeds: dict[str, tuple[int, ...]] = {}
    """Digest of a board's key -> the seeds that it was first published with, and keeps where `seeds` is None:
    a row with more of them must not leave the others unranked."""

    def options(self, **more: object) -> Options:
        """The same as `Options` of `report`."""
        return Options(by=self.by, seeds=self.seeds, board_seeds=self.board_seeds, keys=self.keys,
                       where=self.where, resamples=self.resamples, verify="full", **more)  # type: ignore[arg-type]  # fmt: skip

    def keeping(self, boards: Iterable[Board]) -> Asked:
        """The same, with the seeds of these boards kept from now on, unless seeds were asked for."""
        kept = {} if self.seeds is not None else {b.digest: b.seeds for b in boards} | self.board_seeds
        return self.model_copy(update={"board_seeds": dict(sorted(kept.items()))})


class Protocol(Asked):
    """`protocol.json`: what was asked for, and what its boards have in common by their keys."""

    boards: dict[str, ComparisonKey] = {}
    """By digest."""


def read_asked(folder: Path) -> Asked:
    """What a published board was asked to show. Raises `UsageError`."""
    try:
        protocol = Protocol.model_validate_json((folder / PROTOCOL).read_bytes())
    except (OSError, ValidationError) as error:
        raise UsageError(
            f"Expected a published board in {folder}, but {PROTOCOL} cannot be read ({error}). "
            "`wbcbench leaderboard publish --name NAME --store STORE` makes one."
        ) from error
    return Asked.model_validate(protocol.model_dump(exclude={"boards"}))


def invalid_beside(folder: Path) -> dict[str, str]:
    """What `invalid.yaml` beside a board's folder strikes out: trial id or digest -> reason."""
    path = folder.parent / INVALID
    return read_invalid(path) if path.is_file() else {}


__all__ = ["INVALID", "PROTOCOL", "Asked", "Protocol", "invalid_beside", "read_asked"]
