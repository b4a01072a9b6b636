"""`wbcbench.leaderboard` and `compare`: boards of the records in some stores, and comparisons of two rows."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wbcbench.api.defaults import MARGIN, METRIC, RESAMPLES
from wbcbench.api.records import Shown
from wbcbench.api.requests import Paths, Seeds, check_stores, load, plugin_options, stores_of
from wbcbench.isolation import guest

if TYPE_CHECKING:
    import pandas as pd

    from wbcbench.boards.model import Board, Report
    from wbcbench.boards.options import Options
    from wbcbench.boards.pairs import Explanation
    from wbcbench.evaluation.scorers import Scorer
    from wbcbench.records.store import Store
    from wbcbench.registry.loading import PluginOptions

Where = Mapping[str, str] | Sequence[str]
"""Field of the protocol -> value, or `field=value` as text."""
Verify = Literal["quick", "files", "full"]


@dataclass(frozen=True, kw_only=True)
class BoardRequest:
    """The arguments of `wbcbench.leaderboard`, `wbcbench leaderboard`, and its subcommands that make boards."""

    store: Paths | None = None
    by: str = METRIC
    metric: str | Sequence[str] = ()
    seeds: Seeds = None
    where: Where = ()
    key: str | Sequence[str] = ()
    together: bool = False
    resamples: int = RESAMPLES
    margin: float = MARGIN
    statistics: bool | None = None
    verify: Verify | None = None
    invalid: str | Path | None = None
    index: bool = True
    reproduced: bool = False
    sort: str | None = None
    plugins: PluginOptions = field(default_factory=plugin_options)

    def options(self) -> Options:
        """The options for `wbcbench.boards`. Raises `UsageError`."""
        from wbcbench.boards.options import Options, read_invalid

        by, metrics = self._metrics()
        keys = (self.key,) if isinstance(self.key, str) else tuple(self.key)
        return Options(
            by=by, metrics=metrics, seeds=_seeds(self.seeds), keys=keys,
            where=_where(self.where), together=self.together, statistics=self.statistics,
            resamples=self.resamples, margin=self.margin, verify=self.verify, index=self.index,
            reproduced=self.reproduced, invalid=read_invalid(Path(self.invalid)) if self.invalid else {},
        )  # fmt: skip

    def _metrics(self) -> tuple[str, tuple[Scorer, ...]]:
        """The name of the metric that ranks, and every metric that is not built in."""
        from wbcbench.evaluation.metrics import METRICS

        shown = [self.metric] if isinstance(self.metric, str) else [*self.metric]
        asked = [m for m in dict.fromkeys([*shown, self.by]) if m not in METRICS]
        if not asked:
            return self.by, ()
        from wbcbench.evaluation.scorers import scorer

        registry, _ = load(self.plugins)
        found = {m: scorer(registry, m) for m in asked}
        by = found[self.by].name if self.by in found else self.by
        return by, tuple({s.name: s for s in found.values()}.values())

    @contextmanager
    def stores(self) -> Iterator[list[Store]]:
        """Folders with records, and published boards, which are checked and stay unpacked until the block ends.

        Raises:
            UsageError: a path is neither.
            RecordError: a published board is damaged or was changed.
        """
        from wbcbench.publishing.sources import stores_at

        paths = stores_of(self.store)
        check_stores(paths)
        with stores_at(paths) as stores:
            yield stores

    def boards(self) -> Boards:
        """The boards, and what was left out and why.

        Unpacked files are kept as long as the boards: a page reads records again when it is rendered.

        Raises:
            UsageError: no such metric, key, cost or store.
            ComparabilityError: one table was requested, but protocols differ.
        """
        from wbcbench.boards.build import report
        from wbcbench.boards.figures.data import cheapest_first

        options = self.options()
        with ExitStack() as stack:
            made = report(stack.enter_context(self.stores()), options)
            if self.sort is not None:
                ordered = tuple(cheapest_first(b, self.sort) for b in made.boards)
                made = made.model_copy(update={"boards": ordered})
            found = Boards(made)
            weakref.finalize(found, stack.pop_all().close)
        return found


@dataclass(frozen=True, kw_only=True)
class CompareRequest(BoardRequest):
    """The arguments of `wbcbench.compare` and `wbcbench leaderboard compare`."""

    a: str
    b: str

    def explain(self) -> Explanation:
        """Compare. Raises what `compare` raises."""
        from wbcbench.boards.compare import explain

        options = self.options()
        with self.stores() as stores:
            return explain(stores, self.a, self.b, options)


def _seeds(seeds: Seeds) -> tuple[int, ...] | None:
    from wbcbench.errors import UsageError

    if seeds is None:
        return None
    items = seeds.split(",") if isinstance(seeds, str) else [seeds] if isinstance(seeds, int) else seeds
    try:
        return tuple(int(s) for s in items if str(s).strip())
    except (TypeError, ValueError):
        raise UsageError(f"Expected --seeds like 0,1,2, but got '{seeds}'.") from None


def _where(where: Where) -> dict[str, str]:
    from wbcbench.errors import UsageError

    if isinstance(where, Mapping):
        return {name: str(value) for name, value in where.items()}
    found = {}
    for item in where:
        name, sep, value = item.partition("=")
        if not sep:
            raise UsageError(f"Expected --where FIELD=VALUE, as in dataset=npz, but got '{item}'.")
        found[name.strip()] = value.strip()
    return found


@dataclass(repr=False)
class Boards(Shown):
    """One board per protocol, largest first."""

    report: Report
    """The full result: rows, statistics, what was left out and why."""

    @property
    def boards(self) -> tuple[Board, ...]:
        """The boards."""
        return self.report.boards

    def frame(self) -> pd.DataFrame:
        """Every board's rows at full precision: the columns of `wbcbench leaderboard --format csv`."""
        import io

        import pandas as pd

        return pd.read_csv(io.BytesIO(self.render("csv")))

    def summary(self) -> pd.DataFrame:
        """The columns of the terminal's table, for all boards."""
        import pandas as pd

        from wbcbench.boards.columns import chosen

        tables = []
        for board in self.boards:
            columns = chosen(board)
            table = {c.header: [c.cell(row, board) for row in board.rows] for c in columns.values()}
            tables.append(pd.DataFrame({"board": board.name, **table}))
        frame = pd.concat(tables, ignore_index=True).fillna("") if tables else pd.DataFrame()
        return frame.drop(columns="board") if len(tables) == 1 else frame

    def __repr__(self) -> str:
        """A table per board, never one of several protocols."""
        return "\n".join([self.render("plain").decode(), *self._left_out()])

    def _repr_html_(self) -> str:
        from html import escape

        from wbcbench.boards.formats.tables import notebook

        return notebook(self.report) + "".join(f"<p>{escape(line)}</p>" for line in self._left_out())

    def _left_out(self) -> list[str]:
        left = len(self.report.refused)
        return [f"{left} records were left out: see .report.refused"] if left else []

    def notes(self) -> list[str]:
        """How many records were left out."""
        return [*self.report.notes, *self._left_out()]

    def render(self, format: str = "markdown") -> bytes:
        """The boards as terminal, markdown, plain, csv, latex, json, parquet or html. Raises `UsageError`."""
        from wbcbench.boards.formats import render

        return render(self.report, format)

    def save(self, path: str | Path, format: str | None = None) -> Path:
        """Write the boards to a file, by default in the format of its suffix. Raises `UsageError`."""
        from wbcbench.files import atomic_write_bytes

        suffixes = {".md": "markdown", ".tex": "latex", ".txt": "plain"}
        target = Path(path)
        atomic_write_bytes(target, self.render(format or suffixes.get(target.suffix, target.suffix.lstrip("."))))
        return target


@dataclass(repr=False)
class Comparison(Shown):
    """A comparison of two methods of one board."""

    explanation: Explanation
    """The full result."""

    def frame(self) -> pd.DataFrame:
        """F1 of every class, A minus B, with its 95 % interval and whether that is beyond noise."""
        import pandas as pd

        return pd.DataFrame([c.model_dump() for c in self.explanation.classes])

    def summary(self) -> pd.DataFrame:
        """Both means, the lead of A with its 95 % interval, and p corrected for all pairs of the board."""
        import pandas as pd

        e = self.explanation
        row = {
            "A": e.a, "B": e.b, "metric": e.by, "mean A": e.a_mean, "mean B": e.b_mean, "A - B": e.lead,
            "low": e.low, "high": e.high, "p (Holm)": e.p_holm,
        }  # fmt: skip
        return pd.DataFrame([row])

    def notes(self) -> list[str]:
        """The explanation in plain words."""
        from wbcbench.boards.text import clean

        return [clean(line) for line in self.explanation.lines() if line]


@guest()
def leaderboard(
    store: Paths | None = None,
    *,
    by: str = METRIC,
    metric: str | Sequence[str] = (),
    seeds: Seeds = None,
    where: Where = (),
    key: str | Sequence[str] = (),
    together: bool = False,
    resamples: int = RESAMPLES,
    statistics: bool | None = None,
    verify: Verify | None = None,
    invalid: str | Path | None = None,
    index: bool = True,
    reproduced: bool = False,
    sort: str | None = None,
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
) -> Boards:
    """Boards of one or several stores: one per protocol, a row per method.

    Args:
        store: folders of records, or published boards; None: `WBCBENCH_STORE` if set, else wbcbench-store.
        by: the metric that ranks: one that records state, or one of the registry, `mcc` or `my_metric:alpha=2`.
        metric: metrics of the registry that are shown too; they are computed from stored predictions.
        seeds: seeds that a row needs; None: those that most rows have.
        where: only boards whose protocol has these values, `{"dataset": "npz", "budget.epochs": "30"}`.
        key: only boards whose digest begins with this.
        together: one table for all; an error if protocols differ.
        resamples: number of bootstrap resamples.
        statistics: intervals, gains and ties; None: yes, unless there are thousands of records.
        verify: how thoroughly new records are checked; None: depends on their number.
        invalid: YAML list of records marked invalid, with reasons.
        index: False reads all records again and writes no `index/` into the stores.
        reproduced: leave out the rows of published boards that others claim and that were not trained again.
        sort: rows in the order of a cost instead of the ranks: `macs`, `params`, `latency`, or of deployed files
            such as `onnx-int8:size` and `onnx-int8:latency`.
        plugins_dir, no_plugins: as in `wbcbench.run`, for metrics.

    Returns:
        The boards, largest first.

    Raises:
        UsageError: no such metric, key or store.
        ComparabilityError: one table was requested, but protocols differ.
    """
    wanted = BoardRequest(
        store=store, by=by, metric=metric, seeds=seeds, where=where, key=key, together=together,
        resamples=resamples, statistics=statistics, verify=verify, invalid=invalid, index=index,
        reproduced=reproduced, sort=sort, plugins=plugin_options(plugins_dir, no_plugins),
    )  # fmt: skip
    return wanted.boards()


@guest()
def compare(
    a: str,
    b: str,
    store: Paths | None = None,
    *,
    margin: float = MARGIN,
    by: str = METRIC,
    seeds: Seeds = None,
    where: Where = (),
    key: str | Sequence[str] = (),
    resamples: int = RESAMPLES,
    verify: Verify | None = None,
    invalid: str | Path | None = None,
    index: bool = True,
    plugins_dir: Paths = (),
    no_plugins: bool | str | Sequence[str] = False,
) -> Comparison:
    """Explain the difference between two methods of one board.

    Args:
        a: a row's name as shown in the table, or the beginning of a method's or a trial's id.
        b: the same.
        margin: methods that differ by less are called level (equivalence test).
        store, by, seeds, where, key, resamples, verify, invalid, index, plugins_dir, no_plugins: as in
            `wbcbench.leaderboard`; `by` is the metric that is compared.

    Returns:
        Means, paired difference with interval and p, classes, cost, and what differs in the specifications.

    Raises:
        UsageError: no such method or store, or several methods.
        ComparabilityError: they are on different boards, or share no valid seed.
    """
    wanted = CompareRequest(
        a=a, b=b, margin=margin, store=store, by=by, seeds=seeds, where=where, key=key, resamples=resamples,
        verify=verify, invalid=invalid, index=index, plugins=plugin_options(plugins_dir, no_plugins),
    )  # fmt: skip
    return Comparison(wanted.explain())


__all__ = ["BoardRequest", "Boards", "CompareRequest", "Comparison", "compare", "leaderboard"]
