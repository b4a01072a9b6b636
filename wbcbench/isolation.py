"""Restores the global state of the process after a plugin's code, and after API calls in a user's process.

Trials seed all generators, change settings of PyTorch and run third-party plugins. None of that may affect the
next trial, or the process that called `wbcbench.run()`. This module does not import NumPy or PyTorch by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.errors import PluginError, missing_extra

if TYPE_CHECKING:
    import torch

CUDA_SEED = 67280421310721
"""PyTorch's default seed of CUDA's generators; the CPU's generator has a different seed in every process."""
_OURS = ("wbcbench.", "wbcbench_plugins.", "torch.", "contextlib", "importlib", "<frozen")


PRECISIONS = {
    "": "none", "cuda.matmul": "none", "cudnn": "none", "cudnn.conv": "tf32", "cudnn.rnn": "tf32",
    "mkldnn": "none", "mkldnn.matmul": "none", "mkldnn.conv": "none", "mkldnn.rnn": "none",
}  # fmt: skip
"""Part of `torch.backends` -> its default `fp32_precision`."""


def _parts() -> Iterator[tuple[str, Any]]:
    """The parts of `torch.backends` with an `fp32_precision`: all since PyTorch 2.9, none before."""
    import torch

    for name in PRECISIONS:
        part: Any = torch.backends
        for step in name.split(".") if name else ():
            part = getattr(part, step)
        if hasattr(part, "fp32_precision"):
            yield name, part


@dataclass(frozen=True)
class TorchSettings:
    """PyTorch's global settings."""

    dtype: torch.dtype
    gradients: bool
    deterministic: bool
    warn_only: bool
    matmul: str | None
    cudnn: tuple[bool, bool, bool]
    """enabled, benchmark, deterministic"""
    allow_tf32: bool | None
    """cuDNN's. It and `matmul` are None if PyTorch refuses to read them, because they cannot represent the values
    of `precisions`."""
    precisions: Mapping[str, str]
    """See `PRECISIONS`."""
    threads: int
    """A setting per thread, so it must be read and applied in the thread that trains."""

    @classmethod
    def current(cls) -> TorchSettings:
        """The current settings."""
        import torch

        cudnn = torch.backends.cudnn
        matmul = allow_tf32 = None
        with suppress(RuntimeError):
            matmul = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            allow_tf32 = cudnn.allow_tf32
        return cls(
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            matmul,
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            allow_tf32,
            {name: part.fp32_precision for name, part in _parts()},
            torch.get_num_threads(),
        )

    @classmethod
    def defaults(cls, threads: int) -> TorchSettings:
        """PyTorch's defaults, with this number of threads, whose default depends on the machine."""
        import torch

        precisions = {name: PRECISIONS[name] for name, _ in _parts()}
        return cls(torch.float32, True, False, False, "highest", (True, False, False), True, precisions, threads)

    def apply(self) -> None:
        """Apply the settings."""
        import torch

        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradients)
        current = TorchSettings.current()
        if (current.deterministic, current.warn_only) != (self.deterministic, self.warn_only):
            # only if needed: the call loads torch's compiler, which takes seconds
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        cudnn = torch.backends.cudnn
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = self.cudnn
        if (current.matmul, current.allow_tf32, current.precisions) != (
            self.matmul, self.allow_tf32, self.precisions
        ):  # fmt: skip
            if self.matmul is not None:
                torch.set_float32_matmul_precision(self.matmul)
            if self.allow_tf32 is not None:
                cudnn.allow_tf32 = self.allow_tf32
            for name, part in _parts():  # last, since the two settings above change some of them
                part.fp32_precision = self.precisions[name]
        if current.threads != self.threads:
            torch.set_num_threads(self.threads)


@functools.cache
def initial_threads() -> int:
    """PyTorch's default number of threads; must be called before anything changes the number."""
    import torch

    return torch.get_num_threads()


def reset(settings: TorchSettings, seed: int = 0) -> None:
    """Apply the settings, and set every global random state to `seed` (0 to 2^63)."""
    import numpy as np
    import torch

    settings.apply()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # plugins may use the legacy global state
    torch.manual_seed(seed)


@contextmanager
def guest() -> Iterator[None]:
    """For API calls in a user's process; also a decorator.

    Restores random states (Python, NumPy, PyTorch), PyTorch's settings and number of threads, the working
    directory, signal handlers, warning filters and environment variables, even if the call fails. The host's
    settings do not change results: inside, PyTorch has its defaults. Does not import libraries by itself; if the
    call imports one, it is left in its initial state.
    """
    with ExitStack() as stack:
        # Torch is entered first, so it is restored last: the other parts do not depend on it.
        stack.enter_context(_torch(defaults=True))
        stack.enter_context(_numpy())
        stack.enter_context(_python())
        # If the host turns warnings into errors, this is meant for its own code.
        warnings.filters[:] = [f for f in warnings.filters if f[0] != "error"]  # type: ignore[index]
        try:
            yield
        except ImportError as error:
            raise missing_extra(error) or error from error


@contextmanager
def contained() -> Iterator[None]:
    """For a plugin's code: global changes are undone, and its output to stdout is redirected to stderr.

    Raises:
        PluginError: the code called `sys.exit`; the message names the file, line and plugin.
    """
    with ExitStack() as stack:
        stack.enter_context(_torch())
        stack.enter_context(_numpy())
        stack.enter_context(_python())
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        try:
            yield
        except SystemExit as error:
            raise exit_error(error) from error


def exit_error(error: SystemExit) -> PluginError:
    """The error for code that called `sys.exit`."""
    frames = traceback.extract_tb(error.__traceback__)
    names = [f[0].f_globals.get("__name__", "") for f in traceback.walk_tb(error.__traceback__)]
    places = [i for i, n in enumerate(names) if not n.startswith(_OURS) and n != "wbcbench"]
    # Libraries such as wandb wrap sys.exit; the caller is the last frame outside of installed packages, if any.
    places = [i for i in places if "site-packages" not in frames[i].filename] or places
    where = ""
    if places:
        frame, name = frames[places[-1]], names[places[-1]]
        plugin = name.split(".")[1] if name.startswith("wbcbench_local.") else name.partition(".")[0]
        where = f" of plugin '{plugin}' ({frame.filename}:{frame.lineno}, in {Path(frame.name).name})"
    return PluginError(
        f"Code{where} called sys.exit({error.code!r}), which would end the command. Raise an error instead."
    )


@contextmanager
def _python() -> Iterator[None]:
    state, environment, folder = random.getstate(), dict(os.environ), _folder()
    handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
    with warnings.catch_warnings():
        try:
            yield
        finally:
            random.setstate(state)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            for name, value in environment.items():
                if os.environ.get(name) != value:
                    os.environ[name] = value
            _restore_handlers(handlers)
            if folder is not None and _folder() != folder:
                with suppress(OSError):  # the folder was removed meanwhile
                    os.chdir(folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the folder was removed
        return None


def _restore_handlers(handlers: dict[Any, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:  # None: set by C code
            try:
                signal.signal(number, handler)
            except (ValueError, OSError):  # not the main thread; only that one can change handlers
                return


@contextmanager
def _numpy() -> Iterator[None]:
    if "numpy" not in sys.modules:
        try:
            yield
        finally:
            if "numpy" in sys.modules:
                import numpy as np

                np.random.seed()  # seed from the system again, as after an import
        return
    import numpy as np

    state = np.random.get_state()
    try:
        with np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"):
            yield
    finally:
        np.random.set_state(state)


@contextmanager
def _torch(defaults: bool = False) -> Iterator[None]:
    """Restore PyTorch's state. `defaults`: use PyTorch's default settings in the block."""
    if "torch" not in sys.modules:
        try:
            yield
        finally:
            if "torch" in sys.modules:
                import torch

                TorchSettings.defaults(initial_threads()).apply()
                torch.default_generator.seed()
                torch.cuda.manual_seed_all(CUDA_SEED)
        return
    import torch

    before, cpu = TorchSettings.current(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    seed, interop = torch.initial_seed(), torch.get_num_interop_threads()
    try:
        with ExitStack() as stack:
            if defaults:
                _enter_defaults(stack, before.threads)
            yield
    finally:
        before.apply()
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        else:  # as if it had not been seeded meanwhile, whether or not it is initialised now
            torch.cuda.manual_seed_all(seed)
        if torch.get_num_interop_threads() != interop:
            with suppress(RuntimeError):  # PyTorch allows this only once, before any work
                torch.set_num_interop_threads(interop)


def _enter_defaults(stack: ExitStack, threads: int) -> None:
    import torch

    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    if torch.get_default_device().type != "cpu":
        stack.enter_context(torch.device("cpu"))
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    TorchSettings.defaults(threads).apply()


__all__ = ["TorchSettings", "contained", "exit_error", "guest", "initial_threads", "reset"]
