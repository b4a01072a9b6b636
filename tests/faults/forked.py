"""Commands as forks of one process that has imported everything: a start takes no seconds, and SIGKILL is real."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

_IMPORTS = (
    "torch", "torch._dynamo", "torch.onnx", "sklearn.metrics", "wbcbench.training.trial",
    "wbcbench.scheduling.executors", "wbcbench.cli.run",
)  # fmt: skip
"""The first step of an optimiser imports `torch._dynamo`, which takes seconds."""


def context() -> Any:
    """Where forks come from: a process without threads of its own, unlike that of the tests."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*_IMPORTS, __name__])
    return found


def heed_ctrl_c() -> None:
    """A shell's background job ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Forked:
    """`wbcbench ARGS` in a process of its own. Its output goes to a file each."""

    def __init__(self, args: list[str], folder: Path, before: Any = heed_ctrl_c) -> None:
        """`before` is called in the new process, before the command."""
        self._out, self._err = folder / "stdout", folder / "stderr"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self._out, self._err):
            path.touch()  # a process may be killed before it says anything
        self._process = context().Process(target=_run, args=(args, dict(os.environ), self._out, self._err, before))
        self._process.start()
        self.pid: int | None = self._process.pid

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def kill(self) -> None:
        self._process.kill()

    def end(self, seconds: float = 240) -> tuple[int, str]:
        """Exit code and stderr."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds:g} s: {self.err}"
        return self._process.exitcode, self.err

    @property
    def err(self) -> str:
        """What it has written to stderr until now."""
        return self._err.read_text()

    @property
    def out(self) -> str:
        return self._out.read_text()


def _run(args: list[str], environment: dict[str, str], out: Path, err: Path, before: Any) -> None:
    os.environ.clear()
    os.environ.update(environment)  # of the test, not of the first that forked
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    from wbcbench.cli import execute
    from wbcbench.evaluation.cost import latency

    # As for tests in this process: every record would time its network for a third of a second.
    assert latency.__kwdefaults__ is not None
    latency.__kwdefaults__["seconds"] = 0.0
    if before is not None:
        before()
    sys.exit(execute(args))
