"""The columns of tables, and numbers formatted with their significant digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10

from wbcbench.boards.model import METRIC_NAMES, Board, DeployedScore, Difference, Row
from wbcbench.errors import UsageError, did_you_mean
from wbcbench.evaluation.metrics import METRICS


def count(value: float | None) -> str:
    """1234567 -> `1.23M`, three digits; empty for None."""
    if value is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            digits = 2 - (value >= 9.995 * size) - (value >= 99.95 * size)
            return f"{value / size:.{digits}f}{unit}"
    return f"{value:.0f}"


def two_digits(value: float) -> str:
    """0.0234 -> `0.023`, 9.41 -> `9.4`, 123 -> `120`: the precision of a timing, without an exponent."""
    rounded = float(f"{value:.1e}")
    places = 1 - floor(log10(rounded)) if rounded > 0 else 0
    return f"{rounded:.{max(0, places)}f}"


Cell = Callable[[Row, Board], str]

HEADERS = {
    "macro_f1": "macro-F1", "balanced_accuracy": "bal. acc.", "accuracy": "accuracy", "auroc": "AUROC",
    "nll": "NLL", "brier": "Brier", "ece": "ECE",
}  # fmt: skip


def header(metric: str) -> str:
    """The heading of a metric; that of one that is not built in is its name."""
    return HEADERS.get(metric, metric)


@dataclass(frozen=True)
class Column:
    """One column. `cell` returns plain text, which each format must escape."""

    header: str
    doc: str
    cell: Cell
    right: bool = False


def _rank(row: Row, board: Board) -> str:
    if row.rank is None:
        return "" if row.status == "ranked" else row.status
    tied = sum(r.rank == row.rank for r in board.rows) > 1
    return f"{row.rank}{'=' * tied}{'†' * bool(row.among_best)}"


def _n(row: Row, board: Board) -> str:
    needed = len(board.seeds) * len(board.folds) or row.n + len(row.missing_seeds)
    return f"{row.n}/{needed}" if row.missing_seeds else str(row.n)


def _metric(name: str) -> Cell:
    def cell(row: Row, board: Board) -> str:
        e = row.metrics[name]
        if e.mean is None:
            return ""
        return f"{e.mean:.3f}" if e.sd is None else f"{e.mean:.3f} ± {e.sd:.3f}"

    return cell


def _interval(name: str) -> Cell:
    def cell(row: Row, board: Board) -> str:
        e = row.metrics[name]
        return "" if e.low is None or e.high is None else f"{e.low:.3f}..{e.high:.3f}"

    return cell


def _difference(pick: Callable[[Row], Difference | None], whole: bool) -> Cell:
    def cell(row: Row, board: Board) -> str:
        d = pick(row)
        if d is None:
            return ""
        star, other = "*" if d.beyond_noise else "", "" if d.exact else "~"
        text = f"{other}{d.value:+.3f}{star}"
        return f"{text} ({d.low:+.3f}..{d.high:+.3f}) {d.against_name}" if whole else text

    return cell


def _timing(row: Row, board: Board) -> str:
    t = row.timing
    return "" if t.latency_ms is None else f"{two_digits(t.latency_ms)} ms"


def _throughput(row: Row, board: Board) -> str:
    return "" if row.timing.throughput is None else f"{row.timing.throughput:.0f}/s"


def _device(row: Row, board: Board) -> str:
    t = row.timing
    return t.device + (f", {t.threads} thread{'s' * (t.threads > 1)}" if t.threads and t.device == "cpu" else "")


def _teaching(row: Row, board: Board) -> str:
    t = row.teaching
    if t is None:
        return ""
    seconds = "?" if t.train_seconds is None else f"{t.train_seconds:.0f} s"
    return f"{seconds}, {count(t.macs) or '?'} MACs, {t.teachers} trained"


def _teachers(row: Row, board: Board) -> str:
    """`cellnet`; `cellnet x3` if each of three seeds has teachers of its own, `cellnet x1` if they share them."""
    t = row.teaching
    sets = f" x{t.sets}" if t is not None and len(row.seeds) > 1 else ""
    return "+".join(row.teacher_backbones) + sets


def _teacher_scores(row: Row, board: Board) -> str:
    """`single[dapi] 0.712`; with `<` where it is worse than its student."""
    scores = row.teaching.scores if row.teaching else ()
    return ", ".join(f"{s.name} {'<' if s.worse_than_student else ''}{s.mean:.3f}" for s in scores)


def _pulls(row: Row, board: Board) -> str:
    """`2.1..0.4`; with the distillers' names if there are several."""
    named = len(row.pulls) > 1
    each = (f"{n} " * named + f"{two_digits(a)}..{two_digits(b)}" for n, (a, b) in row.pulls.items())
    return ", ".join(each)


def _search(row: Row, board: Board) -> str:
    s = row.search
    if s is None:
        return ""
    return f"{s.trials} trials" + ("" if s.train_seconds is None else f", {s.train_seconds:.0f} s")


def _worst(row: Row, board: Board) -> str:
    m = row.missing_modalities
    return "" if m is None else f"{m.worst_macro_f1:.3f} with {'+'.join(m.worst)}"


def _levelled(row: Row, board: Board) -> str:
    return "" if row.levelled is None else row.levelled.verdict


def _change(row: Row, board: Board) -> str:
    v = row.levelled
    return "" if v is None or v.change is None else f"{v.change:+.3f} ± {v.error:.3f}"


def _progress(row: Row, board: Board) -> str:
    v = row.levelled
    return "" if v is None or v.best is None else ", ".join(f"{x:.3f}" for x in v.best)


def _pseudo(row: Row, board: Board) -> str:
    return "pseudo" if row.pseudo_multimodal else "true"


def _foreign(row: Row, board: Board) -> str:
    return ", ".join(dict.fromkeys(f"{p.kind}: {p.provider}" for p in row.parts if p.foreign))


def _parts(row: Row, board: Board) -> str:
    return ", ".join(f"{p.kind} {p.provider}/{p.name}" + (f" {p.version}" if p.version else "") for p in row.parts)


COLUMNS: dict[str, Column] = {
    "rank": Column("rank", "order of means (=: equal); † may be the best (95 % confidence set)", _rank),
    "method": Column("method", "fusion + distiller, and what else tells rows apart", lambda r, b: r.name),
    "fusion": Column("fusion", "how modalities are joined", lambda r, b: r.method),
    "kd": Column("kd", "distillers", lambda r, b: r.kd),
    "backbone": Column("backbone", "of the student; with what tells it from others", lambda r, b: r.backbone_text),
    "policies": Column("policies", "training policies", lambda r, b: "+".join(r.policies)),
    "teachers": Column("teachers", "backbones of the teachers, and how many sets taught the seeds", _teachers),
    "teacher_scores": Column(
        "taught by", "teachers on the same test cells; < where one is worse than its student", _teacher_scores
    ),
    "pulls": Column(
        "KD/task", "size of a distiller's gradient in units of the task loss's, early..late in training", _pulls
    ),
    "routing": Column("routing", "who teaches whom", lambda r, b: r.routing or ""),
    "n": Column("n", "number of seeds; of how many, where some are missing", _n, right=True),
    "ids": Column(
        "method id: trials", "ids of the method and of its trials, in the order of seeds",
        lambda r, b: f"{r.method_id[:8]}: {' '.join(s.trial_id for s in r.sources)}",
    ),
    "seeds": Column("seeds", "which", lambda r, b: " ".join(map(str, r.seeds))),
    **{m: Column(HEADERS[m], f"{METRICS[m].doc}: mean ± sd over seeds", _metric(m)) for m in METRIC_NAMES},
    **{
        f"{m}_interval": Column(
            f"{HEADERS[m]} 95%", f"95 % interval of {HEADERS[m]}, over test cells and seeds", _interval(m)
        )
        for m in METRIC_NAMES
    },
    "over_single": Column(
        "vs single", "lead over the best single modality (by validation) of that backbone; * beyond noise (Holm)",
        _difference(lambda r: r.over_single, False), right=True,
    ),
    "over_no_kd": Column(
        "vs no KD", "lead over the same student without distillation; * beyond noise (Holm)",
        _difference(lambda r: r.over_no_kd, False), right=True,
    ),
    "over_single_interval": Column(
        "vs single, 95%", "the same with its interval and the row it is against",
        _difference(lambda r: r.over_single, True),
    ),
    "over_no_kd_interval": Column(
        "vs no KD, 95%", "the same with its interval and the row it is against",
        _difference(lambda r: r.over_no_kd, True),
    ),
    "params": Column("params", "parameters of the deployed network", lambda r, b: count(r.params), right=True),
    "macs": Column("MACs", "multiply-accumulates per cell", lambda r, b: count(r.macs), right=True),
    "latency": Column("latency", "batch of one; compare within one device only", _timing, right=True),
    "throughput": Column("cells/s", "batches of 32; compare within one device only", _throughput, right=True),
    "device": Column("device", "where latency and throughput were measured", _device),
    "teacher_cost": Column("teacher cost", "training time of all teachers, MACs of one student's", _teaching),
    "search": Column("search", "what a search had spent before it chose the parameters", _search),
    "levelled": Column("levelled", "whether validation still improved when training ended", _levelled),
    "levelled_change": Column(
        "last half", "gain of the best epoch in the last half of training; past its best: the fall", _change,
        right=True,
    ),
    "progress": Column("val. at 1/2, 3/4, end", "best validation value until then, mean over seeds", _progress),
    "worst_subset": Column("worst subset", "lowest macro-F1 over subsets of modalities", _worst),
    "pseudo": Column("multimodal", "true, or pseudo: modalities computed from one image", _pseudo),
    "provider": Column("provider", "whose code took part, where it is not wbcbench's", _foreign),
    "components": Column("components", "every component with provider and version", _parts),
}  # fmt: skip

EXTERNAL = "external:"
"""Beginning of the names of columns of external sets, as in `external:hospital B`."""


STANDING = "standing"
"""The column of boards that state whose word a row is."""
DEPLOYED = ("deployed:", "size:", "latency:")
"""Beginnings of the names of columns of deployed files, as in `size:onnx-int8`."""


def available(board: Board) -> dict[str, Column]:
    """Every column of a board: `COLUMNS`, two for each further metric, one for each external set, and three for
    each kind of deployed file."""
    further = {}
    for m in board.more_metrics:
        interval = f"95 % interval of {m.name}, over test cells and seeds"
        further[m.name] = Column(m.name, f"{m.doc}: mean ± sd over seeds", _metric(m.name))
        further[f"{m.name}_interval"] = Column(f"{m.name} 95%", interval, _interval(m.name))
    external = {
        f"{EXTERNAL}{s.name}": Column(
            f"{s.name} (external)", f"macro-F1 on other cells: {s.name}; mean ± sd, 95 % interval", _external(s.id)
        )
        for s in board.external
    }
    kinds = dict.fromkeys(d.kind for r in board.rows for d in r.deployed)
    score, size, latency = DEPLOYED
    files = {
        name: column
        for k in kinds
        for name, column in (
            (score + k, Column(k, f"{header(board.by)} of the file; change, 95%", _deployed(k, _file_score))),
            (
                size + k,
                Column(f"{k} size", "bytes of the file", _deployed(k, lambda d: f"{count(d.size)}B"), True),
            ),
            (latency + k, Column(f"{k} latency", "one cell, one thread", _deployed(k, _file_latency), True)),
        )
    }
    column = Column(STANDING, "claimed by others, reproduced (seeds), or ours", lambda r, b: r.standing)
    standing = {STANDING: column} if any(r.standing for r in board.rows) else {}
    return further | COLUMNS | standing | external | files


def _deployed(kind: str, text: Callable[[DeployedScore], str]) -> Cell:
    def cell(row: Row, board: Board) -> str:
        return next((text(d) for d in row.deployed if d.kind == kind), "")

    return cell


def _file_score(d: DeployedScore) -> str:
    e = d.value
    if e.mean is None:
        return ""
    text = f"{e.mean:.3f}" if e.sd is None else f"{e.mean:.3f} ± {e.sd:.3f}"
    if d.change is None:
        return text
    limits = "" if d.change_low is None else f": {d.change_low:+.3f}..{d.change_high:+.3f}"
    return f"{text} ({round(d.change, 3) + 0.0:+.3f}{limits})"


def _file_latency(d: DeployedScore) -> str:
    return "" if d.timing.latency_ms is None else f"{two_digits(d.timing.latency_ms)} ms"


def deployed_number(column: str, row: Row) -> float | None:
    """The number that a column of deployed files is sorted by; None: it is not known."""
    what, _, kind = column.partition(":")
    found = next((d for d in row.deployed if d.kind == kind), None)
    if found is None:
        return None
    return {"deployed": found.value.mean, "size": found.size, "latency": found.timing.latency_ms}[what]


def _external(cells: str) -> Cell:
    def cell(row: Row, board: Board) -> str:
        found = next((e for e in row.external if e.set == cells), None)
        if found is None or found.macro_f1.mean is None:
            return ""
        e = found.macro_f1
        text = f"{e.mean:.3f}" if e.sd is None else f"{e.mean:.3f} ± {e.sd:.3f}"
        return text if e.low is None or e.high is None else f"{text} ({e.low:.3f}..{e.high:.3f})"

    return cell


NARROW = (
    "rank", "method", "backbone", "n", "{by}", "{by}_interval", "over_single", "over_no_kd", "params", "macs",
    "latency", "device", "levelled", "worst_subset", "search", "provider", "pulls",
)  # fmt: skip
"""Shown by default; `{by}` is the metric that ranks."""

SHARED = ("backbone", "device", "levelled")
"""Left out of the default columns if all rows have the same value, which is then stated below the table."""

FIRST_TO_GO = (
    "pulls", "device", "backbone", "search", "levelled", "latency", "macs", "worst_subset", "params",
    "over_single", "over_no_kd", "{by}_interval", "provider",
)  # fmt: skip
"""The order in which default columns are dropped if a terminal is too narrow."""

WIDE = (
    "rank", "method", "backbone", "teachers", "teacher_scores", "pulls", "n", "{by}", "{by}_interval",
    *(name for m in METRIC_NAMES for name in (m, f"{m}_interval")), "over_single_interval",
    "over_no_kd_interval", "params", "macs", "latency", "throughput", "device", "teacher_cost", "search",
    "levelled", "levelled_change", "progress", "worst_subset", "pseudo", "provider",
)  # fmt: skip

_OPTIONAL = frozenset({
    "policies", "teachers", "teacher_scores", "pulls", "routing", "over_single", "over_no_kd",
    "over_single_interval", "over_no_kd_interval", "latency", "throughput", "device",
    "teacher_cost", "search", "levelled", "levelled_change", "progress", "worst_subset", "provider",
    *(f"{m}_interval" for m in METRIC_NAMES),
})  # fmt: skip
"""Left out of the default columns if they are empty in every row."""


def chosen(board: Board, names: Sequence[str] | None = None, wide: bool = False) -> dict[str, Column]:
    """The columns to show of a board.

    Args:
        board: empty optional columns, and those of `shared`, are left out, unless named.
        names: exactly these, in this order.
        wide: all columns, not only those that fit a terminal.

    Raises:
        UsageError: a name that is no column.
    """
    every = available(board)
    if names is not None:
        for name in names:
            if name not in every:
                raise UsageError(
                    f"No column is called '{name}'.{did_you_mean(name, every)} There are: {', '.join(every)}."
                )
        return {name: every[name] for name in names}
    picked: dict[str, None] = {}
    for name in WIDE if wide else NARROW:
        picked[name.format(by=board.by)] = None
        if name == "{by}_interval":
            picked |= dict.fromkeys(n for m in board.more_metrics for n in (m.name, f"{m.name}_interval"))
            picked |= dict.fromkeys(n for n in every if n.startswith((STANDING, EXTERNAL, *DEPLOYED)))
    said = {} if wide else shared(board)
    optional = _OPTIONAL | {f"{m.name}_interval" for m in board.more_metrics}
    return {
        name: every[name]
        for name in picked
        if name not in said and (name not in optional or any(every[name].cell(r, board) for r in board.rows))
    }


def shared(board: Board) -> dict[str, str]:
    """The columns of `SHARED` that are the same in every row, with their values."""
    cells = {name: {COLUMNS[name].cell(r, board) for r in board.rows} for name in SHARED}
    return {name: values.pop() for name, values in cells.items() if len(values) == 1}


__all__ = [
    "COLUMNS",
    "DEPLOYED",
    "EXTERNAL",
    "FIRST_TO_GO",
    "HEADERS",
    "NARROW",
    "SHARED",
    "WIDE",
    "Column",
    "available",
    "chosen",
    "count",
    "deployed_number",
    "header",
    "shared",
    "two_digits",
]
