"""The Ray executor: several trials at a time, on one machine or a cluster, scheduled by Ray Tune.

Tune only decides where and when a trial runs. Records, checkpoints and progress are in the store:
nothing is restored from Tune's files, and no number is read from Tune's results. A worker that is
killed is replaced, and its trial resumes from its checkpoint.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import Observers, PluginOptions
from wbcbench.scheduling import ray_private, ray_session
from wbcbench.scheduling.ray_worker import VARIABLES, WorkerSetup, train_one
from wbcbench.scheduling.resources import Share, check_feasible, share_of
from wbcbench.scheduling.source import Display, Outcome, TrialSource
from wbcbench.spec.request import Request

RETRIES = 2
"""How often a trial whose worker died is restarted."""
ENDLESS = 10**9
"""Tune requires a number of trials; only the source knows when there are no more."""


class RayExecutor:
    """Runs a source's trials through Ray Tune. See `source.Executor`.

    Args:
        request: store, device, data set, and the resources of a trial.
        fingerprint: of the data set, as in the trials.
        registry: the one used for planning; workers refuse to run other code.
        plugins: the options that the registry was made with.
        cpus, gpus: what a Ray started here may assign; a cluster at `request.ray_address` knows its own.
    """

    def __init__(
        self,
        request: Request,
        fingerprint: str,
        registry: Registry,
        plugins: PluginOptions,
        cpus: int = 1,
        gpus: int = 0,
    ) -> None:
        self._request, self._fingerprint = request, fingerprint
        self._registry, self._plugins = registry, plugins
        self._cpus, self._gpus = cpus, gpus

    def run(self, source: TrialSource, display: Display, observers: Observers) -> list[Outcome]:
        """Run the source's trials.

        Raises:
            UsageError: nothing answers at the address, or a trial's share fits on no node.
            DataError: the cells cannot be read.
            PluginError: a plugin's file changed since the trials were planned.
            WbcbenchError: the store cannot be written, or Tune dropped trials.
            KeyboardInterrupt: Ctrl-C; finished trials are stored, the others can be resumed.
        """
        store = Store(self._request.root)
        mark = store.mark()
        joined = nullcontext() if ray_session.running() else self._session()
        with joined:
            # Not earlier: some of Ray's settings are read when it is imported.
            import ray

            from wbcbench.scheduling.ray_source import Bridge

            nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
            sizes = [(int(n.get("CPU", 0)), int(n.get("GPU", 0))) for n in nodes]
            share = share_of(self._request, sum(gpus for _, gpus in sizes))
            jobs = min(check_feasible(share, sizes), self._request.jobs or ENDLESS)
            bridge = Bridge(source, display, observers, store, self._registry, jobs)
            self._sweep(bridge, self._setup(store, mark, share), share)
        if bridge.crash is not None:
            raise bridge.crash
        if not bridge.complete:
            raise KeyboardInterrupt  # Tune catches Ctrl-C, stops its workers and returns normally
        return bridge.outcomes

    def _session(self) -> Any:
        return ray_session.session(self._request.ray_address, self._cpus, self._gpus)

    def _setup(self, store: Store, mark: str, share: Share) -> WorkerSetup:
        request = self._request
        device = request.device
        if device == "auto" and not share.gpus:
            device = "cpu"
        return WorkerSetup(
            request=request.model_dump_json(),
            plugins=self._plugins,
            fingerprint=self._fingerprint,
            threads=request.threads or share.cpus,
            device=device,
            gpus=share.gpus,
            store=str(store.root.resolve()),
            mark=mark,
            run=secrets.token_hex(8),
            folder=os.getcwd(),
            environment={k: v for k, v in os.environ.items() if k.startswith(VARIABLES)},
        )

    def _sweep(self, bridge: Any, setup: WorkerSetup, share: Share) -> None:
        from ray import tune

        from wbcbench.scheduling.ray_source import Controls, SourceScheduler, SourceSearcher, StopAll

        ray_private.survive_memory_kills()

        def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
            whole = max(1.0, share.gpus) if config["alone"] and share.gpus else share.gpus
            return tune.PlacementGroupFactory([{"CPU": share.cpus, "GPU": whole}])

        trainable = tune.with_resources(tune.with_parameters(train_one, setup=setup), resources)
        with (
            tempfile.TemporaryDirectory(prefix=ray_session.own_prefix()) as scratch,
            _own_signals(),
        ):
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    num_samples=ENDLESS,
                    search_alg=SourceSearcher(bridge),
                    scheduler=SourceScheduler(bridge),
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=scratch,
                    verbose=0,
                    stop=StopAll(bridge),
                    callbacks=[Controls(bridge)],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            ).fit()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore signal handlers: Tune does not when a sweep ends normally."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
