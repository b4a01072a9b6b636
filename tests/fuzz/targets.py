"""Everything that parses bytes a stranger may have written: valid bytes, how to spoil them, and the reader."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mutations import ARCHIVE, BYTES, JSON, YAML, Mutation
from PIL import Image

from wbcbench.boards import Options, report
from wbcbench.boards.options import read_invalid
from wbcbench.cli.output import print_examinations
from wbcbench.contracts import Dataset
from wbcbench.data.csv_table import ColumnChoices
from wbcbench.data.decode import UndecodableError, decode_whole, read_header
from wbcbench.data.reading import survey_path
from wbcbench.deploy.cell_files import open_cells
from wbcbench.deploy.cells import Wanted
from wbcbench.deploy.report import Material, examination, page
from wbcbench.errors import WbcbenchError
from wbcbench.evaluation import EXAMINATION_VERSION
from wbcbench.publishing.board_files import ledger_text, read_ledger, read_publish_options
from wbcbench.publishing.changes import changes, read_report
from wbcbench.publishing.pack import write_pack
from wbcbench.publishing.sources import unpacked
from wbcbench.publishing.verify import checked
from wbcbench.records.evaluations import CHECKSUM, checksummed, examination_path, read_examination
from wbcbench.records.schema import FILES, InputStatistics
from wbcbench.records.store import Store
from wbcbench.registry import Registry
from wbcbench.registry.loading import PluginOptions, load_plugins
from wbcbench.searches.files import Proposal, SearchBudget, StudyFolder, StudySpec, Winner
from wbcbench.searches.report import overview
from wbcbench.searches.settings import Objective, load_settings
from wbcbench.searches.space import Dimension, parse_range
from wbcbench.searches.studies import read_study
from wbcbench.spec.load import load_request, validate
from wbcbench.testing.records import forge, reforged, rezip, taught, unzip, write_cells

CONFIG = """\
dataset: {name: npz, path: cells.npz, modalities: {u: [0], v: [1]}}
fusion: [early, "independent:rho=0.5"]
kd: none,logits
backbone: cellnet:width=6
teacher: {backbone: [cellnet], epochs: 2}
training: {lr: 1e-3, optimiser: adamw}
split: {scheme: stratified, val: 0.2, test: 0.2}
budget: {epochs: 3, batch_size: 16}
augmentation: {intensity: {u: 0.1}}
exclude: [{fusion: early, kd: logits}]
seeds: 0,1
search: {trials: 5, sampler: random}
space: {training.lr: "log(1e-4,1e-2)"}
"""
STUDY = """\
common:
  dataset: {name: synthetic, cells: 200}
  teacher: {backbone: {name: cellnet, width: 6}}
  budget: {epochs: 1, batch_size: 64}
  store: s
parts:
  matrix: {fusion: [early, independent], kd: [none, logits], seeds: [0, 1]}
  best: {finalists: {of: matrix, count: 1, always: [early]}, backbone: {name: cellnet, width: 4}}
  search: {fusion: [early], search: {each: true, trials: 2}, space: {training.lr: "log(1e-3,1e-2)"}}
"""
MANIFEST = """\
u,v,label,group,split,id
0_u.png,0_v.png,basophil,d1,train,c0
1_u.png,,"lymph ""x"", y",d1,train,c1
2_u.png,2_v.png,basophil,d2,val,c2
0_u.png,1_v.png,"lymph ""x"", y",d3,test,c3
"""
PLUGIN = '''\
"""A plugin."""
from wbcbench.contracts import Fusion, FusionTraits, Parameters, param


class Mine(Fusion):
    """One line."""

    name = "mine"
    aliases = ("my", "own")
    traits = FusionTraits(emits=("joint", "modality"), arity=(2, 4))

    class Params(Parameters):
        rho: float = param(0.5, "strength", ge=0, le=1)

    def forward(self, images):
        return None
'''
SPACES = b"log(1,20)\nuniform(0,0.5)\nint(1,8)\nlogint(1,64)\nchoice(a,b,2,true)\nfixed(0.5)\n1e-3\n"
FAST = Options(resamples=100, verify="files", statistics=False)
SETS = b"training.lr=1e-3\nfusion.rho=0.5\nbudget.epochs=3\ndataset.modalities.u=[0]\nsplit.val=0.1\nepochs=2\n"


@dataclass(frozen=True)
class Target:
    """`read` takes spoiled bytes; it may succeed or raise a `WbcbenchError`, and nothing else."""

    name: str
    valid: bytes
    mutations: tuple[Mutation, ...]
    read: Callable[[bytes], object]


def targets(folder: Path) -> list[Target]:
    """The table; `folder` is where readers find what they read."""
    store = Store(folder / "store")
    record = taught(store)
    pack = folder / "pack.zip"
    write_pack([record], pack)
    cells = write_cells(folder / "cells.npz", cells=24, size=8)
    return [
        Target("pack", pack.read_bytes(), BYTES, lambda data: judge(put(folder / "spoilt.zip", data))),
        Target("pack, opened", pack.read_bytes(), BYTES, lambda data: open_pack(put(folder / "spoilt.zip", data))),
        Target("config", CONFIG.encode(), YAML, lambda data: configure(put(folder / "config.yaml", data))),
        Target("--set", SETS, BYTES, lambda data: each_line(data, lambda text: load_request(settings=(text,)))),
        Target("--space", SPACES, BYTES, lambda data: each_line(data, lambda text: parse_range("x", text))),
        Target(
            "invalid.yaml", invalid(record.trial.id), YAML, lambda data: read_invalid(put(folder / "i.yaml", data))
        ),
        Target(
            "ledger",
            ledger_text([(record.trial.id, record.result.digest)]),
            BYTES,
            lambda data: read_ledger(put(folder / "board" / "records.txt", data).parent),
        ),
        Target(
            "protocol.json",
            b'{"schema_version": 1, "title": "T", "seeds": [0], "where": {"a": "b"}, "boards": {}}',
            JSON,
            lambda data: read_publish_options(put(folder / "board" / "protocol.json", data).parent),
        ),
        Target("index", index_of(store), JSON, lambda data: indexed(store, data)),
        Target("cells.npz", cells.read_bytes(), ARCHIVE, lambda data: look(put(folder / "spoilt.npz", data))),
        Target(
            "cells.npz to classify",
            cells.read_bytes(),
            ARCHIVE,
            lambda data: classify(put(folder / "spoilt.npz", data), "npz"),
        ),
        Target("dataset.yaml", described(cells), YAML, lambda data: look(put(folder / "dataset.yaml", data))),
        Target(
            "dataset.yaml to classify",
            described(cells),
            YAML,
            lambda data: classify(put(folder / "dataset.yaml", data), "npz"),
        ),
        Target("plugin", PLUGIN.encode(), BYTES, lambda data: scan(put(folder / "plugins" / "mine.py", data))),
        *images(),
        *manifests(folder),
        *records(folder, store),
        *packs(folder, pack, store),
        *studies(folder, store),
        Target("study file", STUDY.encode(), YAML, lambda data: read_study(put(folder / "study.yaml", data))),
        *examinations(folder, store),
        Target(
            "board.json to compare", report([store.root], FAST).model_dump_json().encode(), JSON,
            lambda data: moved(store, put(folder / "compared.json", data)),
        ),
    ]  # fmt: skip


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def judge(pack: Path) -> None:
    with checked(pack, None, lambda trial: False) as (found, *_):
        json.dumps(found.document())


def open_pack(pack: Path) -> None:
    with unpacked(pack) as (store, _):
        report([store], Options(resamples=100, verify="full", index=False))


def configure(path: Path) -> None:
    load_request(path)
    load_settings(path, {}, ())


def each_line(data: bytes, read: Callable[[str], object]) -> None:
    """A command line has no NUL, and what is no UTF-8 comes as lone surrogates."""
    for line in data.decode(errors="surrogateescape").replace("\0", "").splitlines():
        read(line)


def invalid(trial: str) -> bytes:
    return f'- record: "{trial}"\n  reason: trained on the test split\n'.encode()


def index_of(store: Store) -> bytes:
    report([store.root], FAST)
    return (store.root / "index" / "records.json").read_bytes()


def indexed(store: Store, data: bytes) -> None:
    """An index is a cache: whatever it says, the boards are those of the records."""
    options = FAST
    expected = report([store.root], Options(resamples=100, verify="files", statistics=False, index=False))
    put(store.root / "index" / "records.json", data)
    assert report([store.root], options).model_dump_json() == expected.model_dump_json()


def described(cells: Path) -> bytes:
    """A config of these cells."""
    return f"dataset: {{name: npz, path: {cells}, modalities: {{u: [0], v: [1]}}}}\nimage_size: 8\n".encode()


def open_dataset(name: str, settings: dict[str, Any]) -> Dataset:
    registry = plain_registry()
    cls: Any = registry.load(registry.resolve("dataset", name).component)
    return cls(validate(cls.Params, settings, name))  # type: ignore[no-any-return]


@cache
def plain_registry() -> Registry:
    return load_plugins()[0]


def look(path: Path, levels: str | None = None) -> None:
    survey_path(path, ColumnChoices(levels=levels), open_dataset)


def wanted(dataset: str) -> Wanted:
    told = InputStatistics(bits=8, mean=(1.0,), std=(1.0,), brightness=((0.0, 9.0),), contrast=((0.0, 9.0),))
    params = {"modalities": {"u": [0], "v": [1]}} if dataset == "npz" else {}
    trained = open_dataset(dataset, params)
    preparation = trained.preparation({"u": 1, "v": 1})
    return Wanted({"u": told, "v": told}, 8, ("a", "b", "c"), trained, preparation, open_dataset)


def classify(path: Path, dataset: str) -> None:
    source = open_cells(path, wanted(dataset))
    source.read(0, len(source.names))


def scan(path: Path) -> None:
    """Found and described, as `wbcbench list` does; whatever is wrong with it, the others are there."""
    registry, _ = load_plugins(PluginOptions(folders=(path.parent,)))
    for component in registry.components("fusion"):
        with suppress(WbcbenchError):
            registry.declaration(component)
    registry.resolve("fusion", "early")


def images() -> list[Target]:
    found = []
    grey = (np.arange(144, dtype=np.uint16).reshape(12, 12) * 9).astype(np.uint16)
    for kind, image in (
        ("PNG", Image.fromarray(grey)),
        ("TIFF", Image.fromarray(grey)),
        ("JPEG", Image.fromarray(grey.astype(np.uint8))),
        ("BMP", Image.fromarray(grey.astype(np.uint8))),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found.append(Target(kind, buffer.getvalue(), BYTES, decode))
    return found


def decode(data: bytes) -> None:
    with suppress(UndecodableError):  # its callers add which file it is
        read_header(data)
        decode_whole(data, 3)


def manifests(folder: Path) -> list[Target]:
    where = folder / "pictures"
    where.mkdir()
    for i in range(3):
        for m in "uv":
            Image.fromarray(np.full((8, 8), 40 * i + (m == "u"), np.uint8)).save(where / f"{i}_{m}.png")
    files = {f"{m}/{p.name[0]}.png": p.read_bytes() for p in where.glob("*.png") for m in p.name[2]}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"class{name[2]}/{name}", data)

    def read(data: bytes) -> None:
        survey = survey_path(put(where / "manifest.csv", data), ColumnChoices(), open_dataset)
        if survey.dataset:
            dataset = open_dataset("folder", survey.settings)
            dataset.describe()
            dataset.load(8)

    return [
        Target("manifest.csv", MANIFEST.encode(), BYTES, read),
        Target(
            "manifest.csv to classify",
            MANIFEST.encode(),
            BYTES,
            lambda data: classify(put(where / "manifest.csv", data), "folder"),
        ),
        Target(
            "images.zip",
            buffer.getvalue(),
            ARCHIVE,
            lambda data: look(put(folder / "images.zip", data), "class/modality"),
        ),
    ]


def records(folder: Path, store: Store) -> list[Target]:
    """Files of a record: as damage leaves them, and as a forger does, who mends every digest."""
    found = []
    record = next(r for r in store.scan()[0] if r.trial.method.teachers)
    for name in FILES:
        kinds = {".json": JSON, ".npz": ARCHIVE}.get(Path(name).suffix, BYTES)

        def read(data: bytes, name: str = name) -> None:
            copy = fresh(store, folder / "damaged")
            put(copy.record_path(record.trial.id) / name, data)
            use(copy, record.trial.id)

        def forged(data: bytes, name: str = name) -> None:
            copy = fresh(store, folder / "forged")
            at = copy.record_path(record.trial.id)
            files = {f"records/{record.trial.id}/{n}": (at / n).read_bytes() for n in FILES}
            files[f"records/{record.trial.id}/{name}"] = data
            with suppress(Exception):  # a result that cannot be signed is left as it is
                forge(files, record.trial.id)
            for file, content in files.items():
                put(copy.root / file, content)
            use(copy, record.trial.id)

        valid = (record.path / name).read_bytes()
        found += [Target(name, valid, kinds, read), Target(f"{name}, signed", valid, kinds, forged)]
    return found


def fresh(store: Store, root: Path) -> Store:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(store.root, root)
    return Store(root)


def use(store: Store, trial: str) -> None:
    """Everything that reads a record; every other record is there whatever this one says."""
    for how in (False, True, "full"):
        good, bad = store.scan(how)  # type: ignore[arg-type]
        assert len(good) + len(bad) == 2
        assert trial in {r.path.name for r in good} | {p.name for p, _ in bad}
    found = report([store.root], FAST)
    assert all(r.record == trial for r in found.refused), "another record was refused"
    record = None
    with suppress(WbcbenchError):
        record = store.load(trial)
    if record is not None:
        for act in (record.frame, record.history, record.weights, record._repr_html_):
            with suppress(WbcbenchError):
                act()  # type: ignore[operator]


def packs(folder: Path, pack: Path, store: Store) -> list[Target]:
    """Files of a pack whose manifest and digests were fixed."""
    found = []
    files = unzip(pack)
    record = next(r for r in store.scan()[0] if r.trial.method.teachers)
    for name in (*(f for f in FILES if f != "model.safetensors"), "manifest.json"):
        at = name if name == "manifest.json" else f"records/{record.trial.id}/{name}"

        def read(data: bytes, at: str = at) -> None:
            spoilt = put(folder / "spoilt.zip", pack.read_bytes())
            try:
                reforged(spoilt, record, lambda files, _: files.update({at: data}))
            except Exception:  # what cannot be signed
                rezip(spoilt, {**files, at: data}, honest=False)
            judge(spoilt)

        kinds = {".json": JSON, ".npz": ARCHIVE}.get(Path(name).suffix, BYTES)
        found.append(Target(f"pack: {name}", files[at], kinds, read))
    return found


def moved(store: Store, path: Path) -> None:
    """`leaderboard diff` in both directions."""
    mine, theirs = report([store.root], FAST), read_report(path)
    for before, after in ((mine, theirs), (theirs, mine)):
        for change in changes(before, after):
            json.dumps(asdict(change))


def examinations(folder: Path, store: Store) -> list[Target]:
    """What `--evaluate full` keeps in the store: as damage leaves it, and with a checksum that a forger made."""
    record = next(r for r in store.scan()[0] if r.trial.method.teachers)
    m = record.trial.reads
    entry = {
        "version": EXAMINATION_VERSION, "trial_id": record.trial.id, "digest": record.result.digest,
        "method": "x", "kd": "logits", "policies": ["cutmix"], "seed": 0, "modalities": list(m),
        "result": {
            "missing": "impute", "subset_cells": {m[0]: 30}, "subset_cost": {m[0]: {"params": 5, "macs": 9}},
            "clean": {"macro_f1": 0.7}, "subsets": {m[0]: {"macro_f1": 0.5}, "+".join(m): {"macro_f1": 0.7}},
            "worst_subset": {"modalities": [m[0]], "macro_f1": 0.5}, "shapley": dict.fromkeys(m, 0.1),
            "permutation_drop": dict.fromkeys(m, 0.2), "corruptions": {x: {"noise": [0.6, 0.5]} for x in m},
            "retained": {x: {"noise": 0.8} for x in m},
        },
    }  # fmt: skip
    copy = fresh(store, folder / "examined")
    path = examination_path(copy.root, record.trial.id)
    known = copy.load(record.trial.id)

    def read(data: bytes) -> None:
        put(path, data)
        report([copy.root], FAST)
        result, why = examination(known)
        assert (result is None) <= bool(why)
        page(Material(known, result, None, remark=why))
        with suppress(WbcbenchError):
            found = read_examination(path, record.result.digest)
            if found.whole:
                with redirect_stdout(io.StringIO()):
                    print_examinations([found.entry])

    def signed(data: bytes) -> None:
        with suppress(Exception):  # what cannot be signed is left as it is
            data = json.dumps(checksummed(json.loads(data))).encode()
        read(data)

    valid = json.dumps(checksummed(entry), indent=2).encode()
    return [Target("examination", valid, JSON, read), Target("examination, signed", valid, JSON, signed)]


def studies(folder: Path, store: Store) -> list[Target]:
    """What a search keeps in the store."""
    study = StudyFolder(store, "s")
    spec = StudySpec(
        methods=("a" * 16,),
        objective=Objective.parse("macro_f1"),
        sampler="tpe",
        pruner="none",
        seed=0,
        epochs=3,
        dimensions=(
            Dimension(name="training.lr", section="training", parameter="lr", range=parse_range("x", "log(1,2)")),
        ),
    )
    study.open(spec)
    study.propose(Proposal(number=0, params={"training.lr": 1.5}, trial_id="b" * 16))
    spent = SearchBudget(
        study="s", trials=1, complete=1, pruned=0, failed=0, train_seconds=1.0, objective="macro_f1", sampler="tpe"
    )
    study.add_winners(
        [
            Winner(
                number=0,
                proposal="b" * 16,
                params={},
                values=(0.5,),
                seeds=(0,),
                trial_ids=("c" * 16,),
                budget=spent,
            )
        ]
    )
    found = []
    for name, read in (
        ("spec.json", study.spec),
        ("proposals/00000.json", study.proposals),
        ("winner.json", study.winners),
    ):
        path = study.path / name

        def attempt(
            data: bytes, path: Path = path, read: Callable[[], object] = read, valid: bytes = path.read_bytes()
        ) -> None:
            path.write_bytes(data)
            try:
                report([store.root], FAST)
                read()
                overview(store)
            finally:
                path.write_bytes(valid)

        # as before such files had a checksum, so that the reader behind it is met
        bare = {k: v for k, v in json.loads(path.read_bytes()).items() if k != CHECKSUM}
        found.append(Target(f"study: {name}", json.dumps(bare, indent=2).encode(), JSON, attempt))
    return found
