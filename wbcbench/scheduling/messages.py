"""What a worker process tells the driver, as one JSON text per message.

Text, because Tune flattens, copies and logs mappings; a text passes through untouched. Imports neither
torch nor ray.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from wbcbench.errors import DataError, LeakError, PluginError, UsageError, WbcbenchError

KEY = "wbcbench"
"""The one key of a reported result."""

Kind = Literal["", "leak", "data", "plugin", "usage", "other"]
_CLASSES: dict[str, type[WbcbenchError]] = {
    "leak": LeakError, "data": DataError, "plugin": PluginError, "usage": UsageError, "other": WbcbenchError,
}  # fmt: skip


@dataclass(frozen=True)
class EpochMessage:
    """One epoch is over and its checkpoint is written."""

    epoch: int
    epochs: int
    row: dict[str, Any]


@dataclass(frozen=True)
class EndMessage:
    """A trial is over; its record, if there is one, is in the store."""

    status: Literal["done", "cached", "failed", "no_memory", "refused"]
    """`no_memory`: the GPU was full. `refused`: what is wrong concerns every trial alike."""
    error: str = ""
    kind: Kind = ""
    """Which class of error it was, for the exit code."""

    def exception(self) -> WbcbenchError | None:
        """An error of the class that the worker met, with its text; None where it was not one of ours."""
        return _CLASSES[self.kind](self.error) if self.kind else None


def kind_of_error(error: BaseException) -> Kind:
    """The class of error that an exit code depends on."""
    if isinstance(error, LeakError):
        return "leak"
    if isinstance(error, DataError):
        return "data"
    if isinstance(error, PluginError):
        return "plugin"
    if isinstance(error, UsageError):
        return "usage"
    return "other" if isinstance(error, WbcbenchError) else ""


def pack(message: EpochMessage | EndMessage) -> dict[str, str]:
    """The result to report."""
    name = "epoch" if isinstance(message, EpochMessage) else "end"
    return {KEY: json.dumps({name: asdict(message)})}


def unpack(result: dict[str, Any] | None) -> EpochMessage | EndMessage | None:
    """The message in a result, or None if there is none."""
    if not result or not isinstance(result.get(KEY), str):
        return None
    tree = json.loads(result[KEY])
    return EpochMessage(**tree["epoch"]) if "epoch" in tree else EndMessage(**tree["end"])
