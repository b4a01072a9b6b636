"""One Ray cluster for all tests of a session; modules beside the tests can be imported."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wbcbench.scheduling.ray_session import short_folder

sys.path.insert(0, str(Path(__file__).parent))  # for modules beside the tests, in processes that tests start, too


class Cluster:
    """A running cluster of one node, to which a second can be added."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def tell(self, command: str) -> None:
        """`add` or `kill` the second node, and wait until that is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline())["done"] == command


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="wbct-", dir=short_folder()))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    values = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A node that was killed is given up after seconds, not after a minute.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "5",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)  # for commands and for sweeps in this process, too
    (folder / "ray").mkdir()  # where Ray notes the address
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ray_cluster.py"))],
        env={**os.environ, "RAY_TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=open(folder / "stderr", "w"),  # noqa: SIM115  closed with the process
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line, (folder / "stderr").read_text()
        yield Cluster(process, json.loads(line)["address"])
    finally:
        process.communicate("quit\n", timeout=120)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        shutil.rmtree(folder, ignore_errors=True)
