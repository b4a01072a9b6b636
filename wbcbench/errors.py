"""Errors that are shown to users, and the exit code of each.

An error's text has three parts: what was expected, what was found, what to do. Any exception that is not a
`WbcbenchError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Meaning of the command's exit status (public, stable)."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NOT_COMPARABLE = 3
    PLUGIN_FAILED = 4
    INTERRUPTED = 130


class WbcbenchError(Exception):
    """Base of all errors that are shown as a message instead of a traceback."""

    exit_code: ExitCode = ExitCode.SOME_FAILED


class UsageError(WbcbenchError):
    """The command line, a config file or a name is wrong."""

    exit_code = ExitCode.USAGE


class UnknownNameError(UsageError):
    """A component name that is not registered; the message suggests similar names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        verb = f"wbcbench list {kind[:-1]}ies" if kind.endswith("y") else f"wbcbench list {kind}s"
        super().__init__(f"No {kind} is called '{name}'.{did_you_mean(name, known)} `{verb}` lists them all.")


class NameClashError(UsageError):
    """A bare name that two providers use; the qualified names still work."""


class DataError(UsageError):
    """The user's cells cannot be read, or not used as requested."""


class LeakError(DataError):
    """The same donor or image on two sides of the split, or one image under two labels."""

    exit_code = ExitCode.NOT_COMPARABLE


class IncompatibleError(UsageError):
    """Two components that cannot work together, found while planning."""


class TrialPruned(Exception):
    """A search stops the running trial after this epoch. Not an error: it is caught by the executor."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"pruned after epoch {epoch}")
        self.epoch = epoch


class ComparabilityError(WbcbenchError):
    """Rows that must not share a table, or a record that fails validation."""

    exit_code = ExitCode.NOT_COMPARABLE


class RecordError(ComparabilityError):
    """A stored record is missing, truncated, corrupt or of another schema."""


class PluginError(WbcbenchError):
    """A requested component comes from a plugin that failed."""

    exit_code = ExitCode.PLUGIN_FAILED


class TrialFailedError(WbcbenchError):
    """A trial raised an error while it ran; other trials continue."""


EXTRAS = {
    "itables": "pages", "plotly": "pages", "jinja2": "pages", "markupsafe": "pages", "matplotlib": "plots",
    "skimage": "stains", "cmaes": "cmaes", "tensorboardX": "tensorboard", "mlflow": "mlflow", "wandb": "wandb",
    "zarr": "bsccm", "onnx": "export", "onnxruntime": "export", "onnxscript": "export", "captum": "explain",
}  # fmt: skip
"""Module that only some commands need -> the extra in `pyproject.toml` that installs it."""


class MissingExtraError(UsageError):
    """A package that only some commands need is not installed."""


def missing_extra(error: ImportError) -> MissingExtraError | None:
    """The error for an import that failed because an extra is missing; None if it failed for another reason."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return MissingExtraError(
        f"This needs the package '{package}', which is not installed. "
        f"Run: pip install 'wbcbench[{EXTRAS[package]}]' (or 'wbcbench[all]')."
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x' or 'y'?` with the most similar known names, or an empty string."""
    spelt = {n.lower(): n for n in known}
    near = difflib.get_close_matches(name.lower(), list(spelt), n=3, cutoff=0.5)
    if not near:
        return ""
    return " Did you mean " + " or ".join(f"'{spelt[n]}'" for n in near) + "?"
