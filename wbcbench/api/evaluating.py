"""`wbcbench.evaluate`: finished networks on labelled cells of another data set, or as they would be deployed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbcbench.api.defaults import BATCH
from wbcbench.api.records import Shown
from wbcbench.api.requests import Paths, Settings, load, plugin_options, several, stores_of
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.deploy.network import Rebuilt
    from wbcbench.records.deployed import Deployed
    from wbcbench.records.external import External
    from wbcbench.records.store import Record, Store
    from wbcbench.registry.loading import PluginOptions


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """The arguments of `wbcbench.evaluate` and `wbcbench evaluate`."""

    dataset: str | None = None
    deployed: tuple[str, ...] = ()
    records: Sequence[str | Path] = ()
    store: str | Path | None = None
    settings: Settings = ()
    name: str | None = None
    keys: tuple[str, ...] = ()
    batch: int = BATCH
    device: str = "auto"
    plugins: PluginOptions = field(default_factory=plugin_options)

    def evaluate(self, progress: bool = True) -> Evaluations:
        """Evaluate what is not evaluated yet. Raises what `wbcbench.evaluate` raises."""
        from wbcbench.errors import UsageError

        if (self.dataset is None) != bool(self.deployed):
            got = "neither" if self.dataset is None else "both"
            raise UsageError(
                "Expected --dataset (cells of another data set) or --deployed (the record's own test cells), but "
                f"got {got}."
            )
        return self._deployed(progress) if self.dataset is None else self._external(self.dataset, progress)

    def _deployed(self, progress: bool) -> Evaluations:
        from wbcbench.deploy.deployed import evaluate_deployed
        from wbcbench.deploy.export import Disagrees
        from wbcbench.deploy.formats import NotExportable, need
        from wbcbench.deploy.network import rebuilt
        from wbcbench.errors import DataError, IncompatibleError, RecordError, UsageError, did_you_mean
        from wbcbench.progress import counting
        from wbcbench.records.deployed import KINDS, deployed_path, read_deployed
        from wbcbench.records.evaluations import write_predicted
        from wbcbench.records.store import Store

        for kind in self.deployed:
            if kind not in KINDS:
                raise UsageError(
                    f"Expected --deployed {', '.join(KINDS)}, but got '{kind}'.{did_you_mean(kind, KINDS)}"
                )
        if self.name is not None or self.device not in ("auto", "cpu"):
            what = "--name" if self.name is not None else f"--device {self.device}"
            raise UsageError(
                f"{what} is for --dataset: --deployed runs files on the test cells of the record, on the CPU."
            )
        need("onnx", "onnxscript", "onnxruntime")
        store = Store.fixed(stores_of(self.store)[0])
        registry, _ = load(self.plugins)
        done = Evaluations(store.root)
        first: Exception | None = None
        wanted = [(record, kind) for record in self._chosen(store) for kind in dict.fromkeys(self.deployed)]
        network: Rebuilt | None = None  # with its cells, for all kinds of one record
        with counting("files", len(wanted), progress) as counted:
            for number, (record, kind) in enumerate(wanted, 1):
                path = deployed_path(store.root, kind, record.trial.id)
                try:
                    if path.is_file():
                        try:
                            done.files.append(read_deployed(path, record.result.digest).document)
                            continue
                        except RecordError as error:
                            done.remarks.append(f"Evaluated again: {error}")
                    if network is None or network.record is not record:
                        network = rebuilt(record, store, registry, self.settings)
                    found = evaluate_deployed(network, kind)
                    write_predicted(store.root, found)
                    done.files.append(found)
                    done.new.add(f"{kind}/{record.trial.id}")
                except (DataError, IncompatibleError, NotExportable, Disagrees) as error:
                    first = first or error
                    done.failed[f"{record.trial.id} as {kind}"] = str(error)
                finally:
                    counted(number, len(wanted))
        if first is not None and not done.files:
            raise first
        return done

    def _external(self, dataset: str, progress: bool) -> Evaluations:
        from wbcbench.deploy.external import Evaluator, Source, open_source
        from wbcbench.deploy.network import rebuilt
        from wbcbench.errors import DataError, IncompatibleError, RecordError
        from wbcbench.progress import counting
        from wbcbench.records.evaluations import write_predicted
        from wbcbench.records.external import external_path, read_external
        from wbcbench.records.store import Store
        from wbcbench.training.workbench import pick_device

        store = Store.fixed(stores_of(self.store)[0])
        registry, _ = load(self.plugins)
        source = Source.of(dataset, self._params(), self.name)
        evaluator = Evaluator(source, pick_device(self.device), self.batch)
        done = Evaluations(store.root)
        first: Exception | None = None
        for record in self._chosen(store):
            try:
                opened = open_source(source, record.trial, dict(record.result.resolved), registry)
                path = external_path(store.root, opened.cells.id, record.trial.id)
                if path.is_file():
                    try:
                        there = read_external(path, record.result.digest).document
                        if there.set.name != opened.cells.name:
                            there = there.model_copy(update={"set": opened.cells})
                            write_predicted(store.root, there)
                        done.add(there, new=False)
                        continue
                    except RecordError as error:
                        done.remarks.append(f"Evaluated again: {error}")
                with ExitStack() as stack:

                    def counted(what: str, total: int, stack: ExitStack = stack) -> Callable[[int, int], None]:
                        return stack.enter_context(counting(f"cells of {what}", total, progress))

                    found = evaluator.evaluate(rebuilt(record, store, registry), opened, counted)
                write_predicted(store.root, found)
                done.add(found, new=True)
            except (DataError, IncompatibleError) as error:
                first = first or error
                done.failed[record.trial.id] = str(error)
        if first is not None and not done.documents:
            raise first
        return done

    def _params(self) -> dict[str, Any]:
        """The parameters of the data set. Raises `UsageError` for any other setting."""
        from wbcbench.errors import UsageError
        from wbcbench.spec.load import load_request, pairs

        for key, _ in pairs(self.settings):
            if not key.startswith("dataset."):
                raise UsageError(f"Expected --set with dataset.* only, but got '{key}': the records fix the rest.")
        found: dict[str, Any] = load_request(None, {}, self.settings).overrides.get("dataset", {})
        return found

    def _chosen(self, store: Store) -> Iterator[Record]:
        """The records, each once; every ranked row's if none was named. Raises `UsageError`."""
        from wbcbench.boards import Options, report
        from wbcbench.boards.find import find_records
        from wbcbench.errors import UsageError

        if self.records and self.keys:
            raise UsageError(
                "Expected RECORD, or --key for the ranked rows of a board, but got both. Leave one out."
            )
        if self.records:
            named = [record for text in self.records for record in find_records(text, store)]
            if sealed := [r.trial.id for r in named if r.result.status == "sealed"]:
                raise UsageError(
                    f"Record {sealed[0]} was proposed by a search, which external and test cells must not guide. "
                    "Evaluate the winner's retrained records."
                )
            yield from {record.trial.id: record for record in named}.values()
            return
        boards = report([store], Options(keys=self.keys, statistics=False, details=False)).boards
        ids = [s.trial_id for b in boards for r in b.rows if r.status == "ranked" for s in r.sources]
        if not ids:
            raise UsageError(f"Expected ranked rows in {store.shown}, but there are none. Name a record.")
        for trial in dict.fromkeys(ids):
            yield store.load(trial)


@dataclass(repr=False)
class Evaluations(Shown):
    """Networks on cells of another data set, or their exported files on their own test cells."""

    store: Path
    documents: list[External] = field(default_factory=list)
    files: list[Deployed] = field(default_factory=list)
    new: set[str] = field(default_factory=set)
    """Trial ids of those that were evaluated now, of files `kind/trial id`; the others were found in the store."""
    failed: dict[str, str] = field(default_factory=dict)
    """Trial id -> why it could not be evaluated."""
    remarks: list[str] = field(default_factory=list)

    def add(self, document: External, new: bool) -> None:
        """Add a result."""
        self.documents.append(document)
        if new:
            self.new.add(document.trial)

    def summary(self) -> pd.DataFrame:
        """One row per network: method, cells, groups and metrics."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """The summary as mappings: the document of `wbcbench evaluate --json`, without predictions."""
        from wbcbench.spec.trial import method_name

        if self.files:
            return self._files()
        return [
            {
                "trial_id": d.trial, "method": method_name(d.method, d.kd, d.policies), "seed": d.seed,
                "fold": d.fold, "set": d.set.name, "cells": len(d.cells),
                "groups": None if d.groups is None else len(d.group_names),
                **{name: d.metrics[name] for name in ("macro_f1", "balanced_accuracy", "accuracy")},
                "state": "evaluated" if d.trial in self.new else "found",
            }
            for d in sorted(self.documents, key=lambda d: (d.method, d.kd, d.policies, d.seed, d.fold or 0))
        ]  # fmt: skip

    def _files(self) -> list[dict[str, Any]]:
        from wbcbench.spec.trial import method_name

        return [
            {
                "trial_id": d.trial, "method": method_name(d.method, d.kd, d.policies), "seed": d.seed,
                "fold": d.fold, "deployed": d.kind, "cells": len(d.cells),
                **{name: d.metrics[name] for name in ("macro_f1", "accuracy", "ece")},
                "trained_macro_f1": d.trained["macro_f1"], "size": d.size, "latency_ms": d.latency_ms,
                "batch_ms": d.batch_ms, "state": "evaluated" if f"{d.kind}/{d.trial}" in self.new else "found",
            }
            for d in sorted(self.files, key=lambda d: (d.method, d.kd, d.policies, d.seed, d.fold or 0, d.kind))
        ]  # fmt: skip

    def notes(self) -> list[str]:
        """What became of the cells, classes without cells, and networks that could not be evaluated."""
        from wbcbench.boards.text import clean

        lines = list(self.remarks)
        for sentence in dict.fromkeys(f"{d.set.name}: {d.left_out()}." for d in self.documents):
            lines.append(clean(sentence))
        lacking = dict.fromkeys(
            f"No cells of {', '.join(names)} in {d.set.name}: macro-F1 is over the other classes."
            for d in self.documents
            if (names := [c for i, c in enumerate(d.classes) if i not in set(d.labels)])
        )
        lines += map(clean, lacking)
        unknown = [d.trial for d in self.documents if d.unchecked]
        if unknown:
            lines.append(
                f"Whether {len(unknown)} networks were trained on some of these cells is unknown: "
                f"{clean(next(d.unchecked for d in self.documents if d.unchecked))}"
            )
        lines += [f"Not evaluated: {trial}. {clean(why)}" for trial, why in self.failed.items()]
        return lines


@guest()
def evaluate(
    records: Paths = (),
    *,
    dataset: str | None = None,
    deployed: str | Sequence[str] = (),
    store: str | Path | None = None,
    set: Settings = (),
    name: str | None = None,
    key: str | Sequence[str] = (),
    batch: int = BATCH,
    device: str = "auto",
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
    progress: bool = True,
) -> Evaluations:
    """Evaluate finished networks on other labelled cells, or as they would be deployed; boards show the results.

    Results are kept in the store, in `evaluations/` and `deployed/`, and never used for selection. What is there
    already is not evaluated again. In other data sets every class is matched by name; cells of other classes, and
    cells that the network was trained on, are left out and counted.

    Args:
        records: trial ids, folders of records, or names of methods, which give all their seeds and folds; none:
            every ranked row of the store's boards.
        dataset: a data set's name; or a path: what `wbcbench data import` wrote, an .npz, a manifest (.csv).
        deployed: instead of `dataset`: onnx, onnx-int8, onnx-dynamic, onnx-fp16, or several. The file that
            `wbcbench.export` writes is run on the record's test cells, and its size and its latency with one
            thread are measured.
        store: where the records are; None: `WBCBENCH_STORE` if set, else wbcbench-store.
        set: the data set's parameters, `{"dataset.path": "cells.npz"}`; with `deployed`, where the records' cells
            are.
        name: what boards call these cells; default: the data set's or the file's name.
        key: beginnings of boards' keys, without `records`: only their rows.
        batch: cells per batch.
        device: auto, cpu, cuda, cuda:1 or mps.
        plugins_dir, no_plugins, progress: as in `wbcbench.run`.

    Returns:
        Metrics of every network, in `rows()`, and the stored `documents` or `files`.

    Raises:
        UsageError: no record matches, or a parameter does not exist.
        WbcbenchError: no network can be exported in the way of `deployed`.
        DataError: the cells cannot be read, are the network's own, or none can be evaluated.
        IncompatibleError: cells lack a modality that the fusion needs.
    """
    wanted = EvaluateRequest(
        records=several(records), dataset=dataset, store=store, settings=set, name=name,
        deployed=(deployed,) if isinstance(deployed, str) else tuple(deployed),
        keys=(key,) if isinstance(key, str) else tuple(key), batch=batch, device=device,
        plugins=plugin_options(plugins_dir, no_plugins),
    )  # fmt: skip
    return wanted.evaluate(progress)


__all__ = ["EvaluateRequest", "Evaluations", "evaluate"]
