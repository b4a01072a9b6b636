"""A library call leaves its host alone: what is global in the process is afterwards as it was before.

Trials seed every generator, switch settings of PyTorch and run other people's plugins. A notebook that calls
`wbcbench.run()` wants its own random numbers, threads and working directory back, also when the call fails. Nor
may what the notebook has set change results: inside, PyTorch has its defaults.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

CUDA_SEED = 67280421310721
"""What PyTorch seeds CUDA's generators with; the CPU's begins differently in every process."""


@contextmanager
def guest() -> Iterator[None]:
    """Also a decorator. Restores random states (Python, NumPy, PyTorch), PyTorch's settings and number of threads,
    the working directory, signal handlers, warning filters and environment variables.

    What was not imported before is not imported here. If the call imported it, it is left as freshly imported.
    """
    with ExitStack() as stack:
        stack.enter_context(_torch())
        stack.enter_context(_numpy())
        stack.enter_context(_python())
        yield


@contextmanager
def _python() -> Iterator[None]:
    state, environment, folder = random.getstate(), dict(os.environ), _folder()
    handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
    with warnings.catch_warnings():
        # A host that turns warnings into errors means its own code.
        warnings.filters[:] = [f for f in warnings.filters if f[0] != "error"]  # type: ignore[index]
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
    loaded = "numpy" in sys.modules
    if not loaded:
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
def _torch() -> Iterator[None]:
    if "torch" not in sys.modules:
        try:
            yield
        finally:
            if "torch" in sys.modules:
                import torch

                from wbcbench.training.isolation import THREADS, defaults

                defaults(THREADS).apply()
                torch.default_generator.seed()
                torch.cuda.manual_seed_all(CUDA_SEED)
        return
    import torch

    from wbcbench.training.isolation import Settings, defaults

    before, cpu = Settings.current(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    seed, interop = torch.initial_seed(), torch.get_num_interop_threads()
    try:
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            defaults(before.threads).apply()
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


__all__ = ["guest"]
