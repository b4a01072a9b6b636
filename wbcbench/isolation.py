"""What is global in the process is restored after a plugin's code, and after a call of ours in a notebook.

Trials seed every generator, switch settings of PyTorch and run other people's plugins. None of that may reach the
next trial, or the host that called `wbcbench.run()`. Nothing here imports NumPy or PyTorch if nobody else has.
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
"""What PyTorch seeds CUDA's generators with; the CPU's begins differently in every process."""
_OURS = ("wbcbench.", "wbcbench_plugins.", "torch.", "contextlib", "importlib", "<frozen")


PRECISIONS = {
    "": "none", "cuda.matmul": "none", "cudnn": "none", "cudnn.conv": "tf32", "cudnn.rnn": "tf32",
    "mkldnn": "none", "mkldnn.matmul": "none", "mkldnn.conv": "none", "mkldnn.rnn": "none",
}  # fmt: skip
"""Part of `torch.backends` -> its `fp32_precision` by default."""


def _parts() -> Iterator[tuple[str, Any]]:
    """Those that have it: of PyTorch 2.9 and later all, before that none."""
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
    """cuDNN's. It and `matmul` cannot be read, so None, where `precisions` were set in ways that they have no word
    for."""
    precisions: Mapping[str, str]
    """See `PRECISIONS`."""
    threads: int
    """Belongs to a thread: to be read and applied in the one that trains."""

    @classmethod
    def current(cls) -> TorchSettings:
        """As they are now."""
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
        """PyTorch's own, with so many threads: how many there are by default depends on the machine."""
        import torch

        precisions = {name: PRECISIONS[name] for name, _ in _parts()}
        return cls(torch.float32, True, False, False, "highest", (True, False, False), True, precisions, threads)

    def apply(self) -> None:
        """Set them."""
        import torch

        torch.set_default_dtype(self.dtype)
        torch.set_grad_enabled(self.gradients)
        current = TorchSettings.current()
        if (current.deterministic, current.warn_only) != (self.deterministic, self.warn_only):
            # only then: the call loads torch's compiler, which takes seconds
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
            for name, part in _parts():  # last, since the two above set some of them
                part.fp32_precision = self.precisions[name]
        if current.threads != self.threads:
            torch.set_num_threads(self.threads)


@functools.cache
def initial_threads() -> int:
    """As many threads as PyTorch has here by itself; to be called once before anything changes the number."""
    import torch

    return torch.get_num_threads()


def reset(settings: TorchSettings, seed: int = 0) -> None:
    """Apply the settings, and set every global random state to `seed` (0 to 2^63)."""
    import numpy as np
    import torch

    settings.apply()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the legacy state is what a plugin may read
    torch.manual_seed(seed)


@contextmanager
def guest() -> Iterator[None]:
    """Around a call of ours in somebody's process; also a decorator.

    Restores random states (Python, NumPy, PyTorch), PyTorch's settings and number of threads, the working
    directory, signal handlers, warning filters and environment variables, also when the call fails. What the host
    has set does not change results: inside, PyTorch has its defaults. What was not imported before is not imported
    here; if the call imported it, it is left as freshly imported.
    """
    with ExitStack() as stack:
        # Torch first and so restored last: the other parts do not depend on it.
        stack.enter_context(_torch(defaults=True))
        stack.enter_context(_numpy())
        stack.enter_context(_python())
        # A host that turns warnings into errors means its own code.
        warnings.filters[:] = [f for f in warnings.filters if f[0] != "error"]  # type: ignore[index]
        try:
            yield
        except ImportError as error:
            raise missing_extra(error) or error from error


@contextmanager
def contained() -> Iterator[None]:
    """Around a plugin's code: what it changes globally is undone, and what it prints goes to stderr.

    Raises:
        PluginError: the code called `sys.exit`; the message names the file, the line and the plugin.
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
    """What is said of code that ended the process with `sys.exit`."""
    frames = traceback.extract_tb(error.__traceback__)
    names = [f[0].f_globals.get("__name__", "") for f in traceback.walk_tb(error.__traceback__)]
    places = [i for i, n in enumerate(names) if not n.startswith(_OURS) and n != "wbcbench"]
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
                with suppress(OSError):  # it was removed meanwhile
                    os.chdir(folder)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return None


def _restore_handlers(handlers: dict[Any, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:  # None: set by C code, out of reach
            try:
                signal.signal(number, handler)
            except (ValueError, OSError):  # not the main thread, which alone could have changed it
                return


@contextmanager
def _numpy() -> Iterator[None]:
    if "numpy" not in sys.modules:
        try:
            yield
        finally:
            if "numpy" in sys.modules:
                import numpy as np

                np.random.seed()  # trials seeded it; a fresh one is seeded by the system
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
    """`defaults`: PyTorch's own settings within the block."""
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
        else:  # as if it had not been seeded in between, whether or not it has been initialised by now
            torch.cuda.manual_seed_all(seed)
        if torch.get_num_interop_threads() != interop:
            with suppress(RuntimeError):  # PyTorch allows it once only, before any work
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
