"""`wbcbench.predict`, `export` and `report`: use one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wbcbench.api.defaults import BATCH, TOLERANCE
from wbcbench.api.records import Shown
from wbcbench.api.requests import Paths, Settings, load, plugin_options, several, stores_of
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.deploy.export import Agreement
    from wbcbench.deploy.network import Rebuilt
    from wbcbench.deploy.predict import Answers
    from wbcbench.records.store import Store
    from wbcbench.registry.loading import PluginOptions

Format = Literal["safetensors", "onnx", "torch-export"]
Quantise = Literal["int8", "dynamic", "fp16"]
FIRST = 5
"""Maximum number of unreadable cells to name."""


@dataclass(frozen=True, kw_only=True)
class RecordRequest:
    """Which record, in which store, and where its cells are."""

    record: str | Path
    store: str | Path | None = None
    settings: Settings = ()
    plugins: PluginOptions = field(default_factory=plugin_options)

    def open_store(self) -> Store:
        """The store in which the record is looked up."""
        from wbcbench.records.store import Store

        return Store.fixed(stores_of(self.store)[0])

    def rebuilt(self) -> Rebuilt:
        """The record's network. Raises `UsageError` or `RecordError`."""
        from wbcbench.boards.find import find_record
        from wbcbench.deploy.network import rebuilt

        store = self.open_store()
        registry, _ = load(self.plugins)
        return rebuilt(find_record(self.record, store), store, registry, self.settings)


@dataclass(frozen=True, kw_only=True)
class ExportRequest(RecordRequest):
    """The arguments of `wbcbench.export` and `wbcbench export`."""

    format: Format
    output: str | Path
    quantize: Quantise | None = None
    tolerance: float = TOLERANCE

    def export(self) -> Exported:
        """Write and check. Raises what `wbcbench.export` raises."""
        from wbcbench.deploy.export import export

        store, folder = self.open_store(), Path(self.output).absolute()
        found = self.rebuilt()
        agreement = export(
            found, self.format, folder, quantise=self.quantize, store=store, tolerance=self.tolerance
        )
        files = sorted(p.name for p in folder.iterdir())
        return Exported(found.record.trial.id, self.format, Path(self.output), files, agreement, found.without)


@dataclass(repr=False)
class Exported(Shown):
    """An exported network that was checked against the trained one."""

    trial_id: str
    format: str
    folder: Path
    files: list[str]
    agreement: Agreement
    without: str = ""
    """Why the training cells were not available for the check; empty if they were."""

    def summary(self) -> pd.DataFrame:
        """What was written, where, and the largest difference of a probability."""
        import pandas as pd

        a = self.agreement
        row = {
            "trial_id": self.trial_id, "format": self.format, "folder": str(self.folder),
            "checked on": f"{a.cells} {a.kind}", "largest difference": f"{a.largest:.1e}",
        }  # fmt: skip
        return pd.DataFrame([row])

    def notes(self) -> list[str]:
        """The files, what quantisation changed, and why the training cells were not available."""
        lines = [f"Files: {', '.join(self.files)}"]
        if self.agreement.quantised is not None:
            found = self.agreement.quantised
            lines += [text for text in (found.sentence(), found.advice()) if text]
        if self.without:
            lines.append(f"The cells it was trained on were not available: {self.without}")
        return lines


@dataclass(frozen=True, kw_only=True)
class PredictRequest(RecordRequest):
    """The arguments of `wbcbench.predict` and `wbcbench predict`."""

    paths: Paths
    output: str | Path | None = None
    batch: int = BATCH
    device: str = "auto"
    explain: tuple[int, str | Path] | None = None
    root: str | Path | None = None

    def predict(self, progress: bool = True) -> Predicted:
        """Classify. Raises what `wbcbench.predict` raises."""
        from wbcbench.deploy.cell_files import open_cells
        from wbcbench.deploy.cells import Wanted
        from wbcbench.deploy.predict import check_name, classify, table, write
        from wbcbench.errors import UsageError
        from wbcbench.progress import counting
        from wbcbench.training.workbench import pick_device

        if self.output is not None:
            check_name(Path(self.output))
        if self.explain is not None and Path(self.explain[1]).exists():
            raise UsageError(f"Expected a new folder for --explain, but {self.explain[1]} exists.")
        here = Path.cwd()  # a plugin may change it
        found = self.rebuilt()
        device = pick_device(self.device)
        root = None if self.root is None else Path(self.root)
        reference, without = found.reference()
        answers = []
        sources = [open_cells(Path(path), Wanted.of(found), root) for path in several(self.paths)]
        for source in sources:
            with counting(f"cells of {source.where}", len(source.names), progress) as done:
                answers.append(classify(found, source, device, self.batch, done, reference))
        frame = table(answers, found.task.classes, found.network.modalities)
        if self.output is not None:
            write(frame, here / self.output)
        explained = 0
        if self.explain is not None:
            from wbcbench.deploy.explain import explain_cells

            explained = explain_cells(found, answers, self.explain[0], here / self.explain[1])
        output = None if self.output is None else Path(self.output)
        facts = _facts(found, answers, frame) | {"shift": _shift(answers, without)}
        return Predicted(frame, facts, output, explained)


def _facts(found: Rebuilt, answers: list[Answers], frame: pd.DataFrame) -> dict[str, Any]:
    """The document of `wbcbench predict --json`, without the name of the file."""
    from wbcbench.contracts.dataset import account_lines
    from wbcbench.deploy.predict import scores_of

    classes, result = found.task.classes, found.record.result
    scores, labelled, other_labels = scores_of(answers, classes)
    counts = frame["predicted"].value_counts()
    kinds: dict[str, int] = {}
    for odd in (kind for a in answers for cell in a.odd for kind in cell):
        kinds[odd] = kinds.get(odd, 0) + 1
    broken = frame.loc[frame["error"] != "", ["cell", "error"]]
    return {
        "trial_id": found.record.trial.id,
        "method": result.label,
        "kd": result.kd,
        "policies": list(result.policies),
        "seed": result.seed,
        "cells": len(frame),
        "errors": {
            "cells": len(broken),
            "first": [{"cell": str(c), "why": str(w)} for c, w in broken.head(FIRST).to_numpy().tolist()],
        },
        "predicted": {c: int(counts.get(c, 0)) for c in classes},
        "missing": int((frame["missing"] != "").sum()),
        "unlike_training": {
            "cells": int((frame["unlike_training"] != "").sum()),
            "kinds": dict(sorted(kinds.items())),
            "statistics_from": found.statistics_from,
        },
        "accounts": [asdict(account) for a in answers for account in a.source.accounts()],
        "found": [f"{a.source.where}: {line}" for a in answers for line in account_lines(a.source.accounts())],
        "notes": [note for a in answers for note in a.source.notes],
        "labelled": labelled,
        "other_labels": other_labels,
        "metrics": None if scores is None else scores.summary,
    }


def _shift(answers: list[Answers], without: str) -> dict[str, Any]:
    """How far the cells of every source are from the training cells, and which of them training used."""
    from wbcbench.evaluation.shift import USES

    sources = []
    for a in answers:
        if a.shift is None or a.used is None:
            continue
        used = {use: int((a.used == i).sum()) for i, use in enumerate(USES) if use}
        sources.append({
            "source": a.source.where, "cells": a.shift.cells, "score": a.shift.score, "scores": a.shift.scores,
            "alarm": a.shift.alarm, "unlike": list(a.shift.unlike), "far": a.shift.far, "used_for": used,
        })  # fmt: skip
    return {"unavailable": without, "sources": sources}


@dataclass(repr=False)
class Predicted(Shown):
    """A network's predictions for new cells."""

    cells: pd.DataFrame
    """See `frame`."""
    facts: dict[str, Any]
    """Counts, warnings, and `metrics` where labels are known: the document of `wbcbench predict --json`."""
    output: Path | None = None
    """The file that was written."""
    explained: int = 0
    """Number of cells that were explained."""

    def frame(self) -> pd.DataFrame:
        """One row per cell.

        Columns: `source`, `cell`, `label` (where one is known), `predicted`, `confidence`, `probability:<class>`,
        `<route>:<class>` for every route, `missing`, `unlike_training`, `distance` from the training cells (1:
        further than 99 % of validation cells), `used_for` (`training` or `validation` of this very network) and
        `error`, each empty where it does not apply.
        """
        return self.cells

    def summary(self) -> pd.DataFrame:
        """How many cells were assigned to each class."""
        import pandas as pd

        return pd.DataFrame(list(self.facts["predicted"].items()), columns=["predicted", "cells"])

    def warnings(self) -> list[str]:
        """Why some predictions should not be trusted."""
        from wbcbench.boards.text import clean

        facts, lines = self.facts, []
        if facts["errors"]["cells"]:
            lines.append(
                f"{facts['errors']['cells']} of {facts['cells']} cells could not be read and have no prediction; "
                "see the column `error`:"
            )
            lines += [f"  {clean(broken['cell'])}: {clean(broken['why'])}" for broken in facts["errors"]["first"]]
        unlike = facts["unlike_training"]
        if unlike["cells"]:
            kinds = ", ".join(f"{n} {clean(kind)}" for kind, n in unlike["kinds"].items())
            lines.append(
                f"{unlike['cells']} of {facts['cells']} cells are unlike the training cells ({kinds}), judged by "
                f"statistics from {unlike['statistics_from']}. Inspect them before trusting their predictions."
            )
        for source in facts["shift"]["sources"]:
            where = clean(source["source"])
            if source["alarm"]:
                views = ", ".join(f"{clean(v)} {source['scores'][v]:.2f}" for v in source["unlike"][:3])
                what = f"The cells of {where} are" if views else f"Part of the cells of {where} is"
                lines.append(
                    f"{what} unlike the training cells: {source['far']} of {source['cells']} are further away "
                    f"than 99 % of validation cells{f' (score, of 0.5 to 1: {views})' if views else ''}. They may "
                    "be of another stain, camera or preparation: check predictions on some of them (column "
                    "`distance`)."
                )
            used = {use: n for use, n in source["used_for"].items() if n}
            if used:
                counts = " and ".join(f"{n} for {use}" for use, n in used.items())
                lines.append(
                    f"{sum(used.values())} of {facts['cells']} cells were used to make this network ({counts}; "
                    "column `used_for`): metrics on them are too high."
                )
        return lines

    def remarks(self) -> list[str]:
        """Remarks from reading the cells, and labels that could not be scored."""
        from wbcbench.boards.text import clean
        from wbcbench.deploy.network import HINT

        lines, shift = [clean(note) for note in (*self.facts["found"], *self.facts["notes"])], self.facts["shift"]
        for source in shift["sources"]:
            if source["alarm"] or not source["cells"]:
                continue  # a warning says so
            if source["score"] is not None:
                lines.append(
                    f"distance of {clean(source['source'])} from the training cells: score {source['score']:.2f} "
                    f"(0.5: as validation cells; 1: all further away); {source['far']} of {source['cells']} cells "
                    "are further away than 99 % of validation cells (column `distance`)"
                )
            else:
                lines.append("whether the cells are like the training cells is unknown: too few to compare with")
        if shift["unavailable"]:
            lines.append(
                "whether the cells are like the training cells, or among them, is unknown: "
                f"{clean(shift['unavailable'])} {HINT}"
            )
        if self.facts["other_labels"]:
            shown = ", ".join(clean(v) for v in self.facts["other_labels"][:8])
            lines.append(f"labels that are not among the classes were not scored: {shown}")
        return lines

    def notes(self) -> list[str]:
        """Metrics where labels are known, warnings and remarks."""
        lines = [*self.warnings(), *self.remarks()]
        if self.facts["metrics"] is not None:
            known = {n: v for n, v in self.facts["metrics"].items() if v is not None}
            values = ", ".join(f"{name} {value:.3f}" for name, value in known.items())
            lines.append(f"Over {self.facts['labelled']} labelled cells: {values}")
        return lines


@dataclass(frozen=True, kw_only=True)
class ReportRequest(RecordRequest):
    """The arguments of `wbcbench.report` and `wbcbench report`."""

    output: str | Path

    def write(self) -> RecordPage:
        """Write the page. Raises what `wbcbench.report` raises."""
        from wbcbench.boards.find import find_record
        from wbcbench.deploy.report import gather, page
        from wbcbench.files import atomic_write_text

        store, target = self.open_store(), Path(self.output).absolute()
        registry, _ = load(self.plugins)
        material = gather(find_record(self.record, store), store, registry, self.settings)
        atomic_write_text(target, page(material))
        return RecordPage(material.record.trial.id, Path(self.output), material.without)


@dataclass(repr=False)
class RecordPage(Shown):
    """A page that was written."""

    trial_id: str
    path: Path
    without: str = ""
    """Why it has no pictures of mistakes; empty if it has."""

    def summary(self) -> pd.DataFrame:
        """Which record, and where the page is."""
        import pandas as pd

        return pd.DataFrame([{"trial_id": self.trial_id, "page": str(self.path)}])

    def notes(self) -> list[str]:
        """Why there are no pictures of mistakes."""
        return [f"No pictures of mistakes: {self.without}"] if self.without else []


@guest()
def predict(
    record: str | Path,
    paths: Paths,
    *,
    store: str | Path | None = None,
    output: str | Path | None = None,
    batch: int = BATCH,
    device: str = "auto",
    explain: tuple[int, str | Path] | None = None,
    root: str | Path | None = None,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
    progress: bool = True,
) -> Predicted:
    """Classify new cells with the network of a record: class and probabilities, also per route.

        Args:
            record: a trial's id, the beginning of one, a record's folder, or a method's name as on a leaderboard.
            paths: one or several of a manifest (.csv), a folder, a zip, an .npz, an image, or what `wbcbench data
                import` wrote; see `wbcbench predict --help`.
            store: where the record is; None: `WBCBENCH_STORE` if set, else wbcbench-store.
            output: .csv or .parquet to write `frame()` to.
            batch: cells per batch.
            device: auto, cpu, cuda, cuda:1 or mps.
            explain: number of cells, and a new folder for PNG maps of where in each modality the network looked.
            root: folder or zip that a manifest's paths are relative to; default: the manifest's folder.
            set: where the training cells are, `{"dataset.path": "cells.npz"}`, if they are needed.
            plugins_dir, no_plugins, progress: as in `wbcbench.run`.

        Returns:
            A row per cell in `frame()`. Cells that cannot be read get no prediction, and the reason in the column
    `error`.

        Raises:
            UsageError: no record or file matches, or several records do.
            IncompatibleError: a cell lacks a modality that the fusion needs.
            DataError: no cell can be read.
    """
    wanted = PredictRequest(
        record=record, paths=paths, store=store, output=output, batch=batch, device=device, explain=explain,
        root=root, settings=set, plugins=plugin_options(plugins_dir, no_plugins),
    )  # fmt: skip
    return wanted.predict(progress)


@guest()
def export(
    record: str | Path,
    output: str | Path,
    *,
    format: Format,
    quantize: Quantise | None = None,
    store: str | Path | None = None,
    tolerance: float = TOLERANCE,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
) -> Exported:
    """Write the network of a record with its preprocessing, a model card and a description of its inputs.

    The exported file is run and compared with the trained network, on validation cells if they are available, else
    on synthetic ones.

    Args:
        record: as in `wbcbench.predict`.
        output: a new folder.
        format: safetensors (weights and specification), onnx (a graph) or torch-export (a PyTorch program).
        quantize: of an ONNX graph: int8 (calibrated on training cells), dynamic or fp16.
        store: where the record is; None: `WBCBENCH_STORE` if set, else wbcbench-store.
        tolerance: largest difference of a probability between file and trained network.
        set: where the training cells are, `{"dataset.path": "cells.npz"}`.
        plugins_dir, no_plugins: as in `wbcbench.run`.

    Returns:
        The files, and how closely they agree with the trained network.

    Raises:
        UsageError: no record matches, the folder is not new, or a package is missing.
        WbcbenchError: the format cannot express the network, or the two disagree; nothing is written.
    """
    wanted = ExportRequest(
        record=record, output=output, format=format, quantize=quantize, store=store, tolerance=tolerance,
        settings=set, plugins=plugin_options(plugins_dir, no_plugins),
    )  # fmt: skip
    return wanted.export()


@guest()
def report(
    record: str | Path,
    output: str | Path,
    *,
    store: str | Path | None = None,
    set: Settings = (),
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
) -> RecordPage:
    """Write a self-contained HTML page about a record: equal records give equal bytes.

    Args:
        record: as in `wbcbench.predict`.
        output: the file, page.html.
        store: where the record is; None: `WBCBENCH_STORE` if set, else wbcbench-store.
        set: where the training cells are, `{"dataset.path": "cells.npz"}`, for pictures of mistakes.
        plugins_dir, no_plugins: as in `wbcbench.run`.

    Returns:
        Where the page is, and why it has no pictures, if it has none.

    Raises:
        UsageError: no record matches, or the cells that `set` names are not the record's.
        RecordError: the record is damaged.
    """
    wanted = ReportRequest(
        record=record, output=output, store=store, settings=set, plugins=plugin_options(plugins_dir, no_plugins)
    )
    return wanted.write()


__all__ = [
    "ExportRequest",
    "Exported",
    "PredictRequest",
    "Predicted",
    "RecordPage",
    "ReportRequest",
    "export",
    "predict",
    "report",
]
