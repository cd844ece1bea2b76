"""Small manifests, and a file system that can stop, tear or lose writes at any effect."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quadmix.config import RunConfig
from quadmix.core.summary import PoolSummary
from quadmix.hashing import doc_hash, sha256_file
from quadmix.manifest.model import Annotations, Artefact, Input, Manifest, Part, Share, Tally
from quadmix.stages import select as select_stage
from quadmix.stages.annotate import Annotated
from quadmix.stages.records import StageRecord, begin, commit, file_entry, stage_fingerprint


@pytest.fixture
def fast_dir(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: these tests fsync thousands of times."""
    if os.access("/dev/shm", os.W_OK):
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="quadmix-test-") as folder:
            yield Path(folder)
    else:
        yield tmp_path


Draft = tuple[Manifest, dict[str, Path]]


@pytest.fixture
def draft() -> Callable[..., Draft]:
    """`draft(folder, tag)`: a manifest of two parts and an artefact written under `folder`, not published."""
    return build_draft


def build_draft(folder: Path, tag: str, **changes: Any) -> Draft:
    folder.mkdir(parents=True, exist_ok=True)
    parts, sources = [], {}
    for index in range(2):
        name = f"part-{index:05d}.parquet"
        pq.write_table(pa.table({"doc_id": [f"{tag}{index}a", f"{tag}{index}b"]}), folder / name)
        parts.append(Part(name, 2, (folder / name).stat().st_size, sha256_file(str(folder / name)), 20))
        sources[name] = folder / name
    (folder / "map.json").write_text(tag)
    size = (folder / "map.json").stat().st_size
    artefact = Artefact("maps/map.json", 0, size, sha256_file(str(folder / "map.json")))
    sources["maps/map.json"] = folder / "map.json"
    share = Share(requested=40, realised=40, documents=4, copies=4, available=100)
    fields: dict[str, Any] = {
        "run_fingerprint": tag,
        "seed": 1,
        "selector": "natural",
        "requested_tokens": 40,
        "realised_tokens": 40,
        "documents": 4,
        "copies": 4,
        "domains": {"web": share},
        "selectors": {"natural": share},
        "repeats": {1: 4},
        "quarantine": {"NULL_TEXT": Tally(1, 0)},
        "exclusions": {"over_quota": Tally(6, 60)},
        "inputs": (Input("a.parquet", 10, footer="00"),),
        "config": {"mixture": {"budget": 40}},
        "software": {"quadmix": "0.1.0"},
        "annotations": Annotations("stages/annotate-0000000000000000", "0" * 32, ()),
        "plan": {"kind": "natural"},
        "files": tuple(parts),
        "artefacts": (artefact,),
    }
    return Manifest(**{**fields, **changes}), sources


# ------------------------------------------------------------------------------------------- selected pools

CRITERIA = ("clean", "useful")
THETA = {
    "merge_weights": {
        "books": {"clean": 0.3, "useful": 0.7},
        "code": {"clean": 1.0, "useful": 0.0},
        "web": {"clean": 0.45, "useful": 0.55},
    },
    "steepness": {"books": 20.0, "code": 300.0, "web": 3.0},
    "cutoff": {"books": 0.5, "code": 0.2, "web": 0.1},
    "exponent": {"books": 0.9, "code": 0.4, "web": 1.0},
    "floor": {"books": 0.0, "code": 0.001, "web": 0.2},
}


class Inline:
    """A value that is simply there."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def get(self) -> Any:
        return self.value


class InlineEngine:
    """The engine contract in this process: what is tested here is the manifest, not the engine."""

    name, parallelism = "inline", 1

    def map(self, task: Any, items: Any, *, label: str, size: Any = None) -> Iterator[tuple[int, Any]]:
        return ((index, task(item)) for index, item in enumerate(items))

    def reduce(self, task: Any, items: Any, merge: Any, *, label: str) -> Any:
        results = [task(item) for item in items]
        total = results[0]
        for result in results[1:]:
            total = merge(total, result)
        return total

    def share(self, value: Any) -> Inline:
        return Inline(value)

    def close(self) -> None:
        return None


class Silent:
    def say(self, text: str) -> None:
        return None


def cluster_name(code: int, clusters: int) -> str:
    """Names in another order than codes."""
    return f"cluster_{(3 * code) % clusters}"


def write_annotations(
    folder: Path, files: int, rows: int, seed: int, ties: bool, clusters: int = 0
) -> list[tuple[Path, int]]:
    """Annotation files of a made-up pool: three domains, two shards a file, bad rows, tied or continuous scores, and
    clusters if asked for, some documents without one."""
    rng = np.random.default_rng(seed)
    written = []
    for number in range(files):
        ids = [f"doc-{seed}-{number}-{row}" for row in range(rows)]
        status = np.where(rng.random(rows) < 0.05, "NULL_TEXT", "ok")
        ok = status == "ok"
        scores = rng.normal(size=(2, rows)).astype(np.float32)
        if ties:
            scores = np.round(scores)
        half = rows // 2
        columns: dict[str, Any] = {
            "doc_id": ids,
            "doc_hash": doc_hash(ids),
            "shard": [f"a{number}.parquet"] * half + [f"b{number}.parquet"] * (rows - half),
            "row": [*range(half), *range(rows - half)],
            "n_tokens": np.where(ok, np.maximum(rng.lognormal(5, 1, rows), 1).astype(np.int64), 0),
            "n_bytes": np.full(rows, 100),
            "domain": pa.array(rng.choice(["web", "books", "code"], rows, p=[0.6, 0.3, 0.1])).dictionary_encode(),
            "status": pa.array(status).dictionary_encode(),
        }
        for index, name in enumerate(CRITERIA):
            columns[f"score_{name}"] = pa.array(scores[index], mask=~ok)
        if clusters:
            code = rng.integers(-1, clusters, rows)
            names = [cluster_name(value, clusters) for value in code.tolist()]
            columns["cluster"] = pa.array(names, pa.string(), mask=~ok | (code < 0)).dictionary_encode()
        path = folder / f"unit-{number:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=max(rows * 2 // 3, 1), write_page_checksum=True)
        written.append((path, rows))
    return written


def annotate_made_up(root: Path, files: int, rows: int, seed: int, ties: bool, clusters: int = 0) -> Annotated:
    """The record of an annotate stage over `write_annotations`."""
    parts = {"pool": f"{files} {rows} {seed} {ties} {clusters}"}
    folder = begin(root, "annotate", parts)
    written = write_annotations(folder, files, rows, seed, ties, clusters)
    summary = PoolSummary.empty(CRITERIA)
    quarantine: dict[str, dict[str, int]] = {}
    for path, _ in written:
        table = pq.read_table(path)
        ok = np.array(table["status"].to_pylist()) == "ok"
        good = table.take(pa.array(np.flatnonzero(ok)))
        column = good["domain"].combine_chunks()
        names = column.dictionary.to_pylist()
        scores = np.stack([good[f"score_{name}"].to_numpy() for name in CRITERIA], axis=1)
        summary = summary.merge(
            PoolSummary.of_rows(
                names, column.indices.to_numpy(), good["n_tokens"].to_numpy(), good["n_bytes"].to_numpy(), scores,
                CRITERIA,
            )
        )  # fmt: skip
        bad = quarantine.setdefault("NULL_TEXT", {"docs": 0, "tokens": 0})
        bad["docs"] += int((~ok).sum())
    inputs = [{"shard": f"a{n}.parquet", "size": 1, "footer": "00"} for n in range(files)]
    record = StageRecord(
        "annotate", stage_fingerprint("annotate", parts), parts,
        tuple(file_entry(folder, path.name, count) for path, count in written),
        {"quarantine": quarantine, "inputs": inputs},
    )  # fmt: skip
    commit(root, record)
    return Annotated(record, folder, tuple(str(path) for path, _ in written), (), summary)


def run_select(
    root: Path, *, files: int = 4, rows: int = 200, seed: int = 3, ties: bool = False, part_rows: int = 350,
    budget: int = 40_000, select: dict[str, Any] | None = None, **mixture: Any,
) -> Manifest:  # fmt: skip
    """Annotate a made-up pool and select from it with the real stage; the published manifest."""
    config = RunConfig.model_validate(
        {
            "output": str(root),
            "seed": seed,
            "pool": {"inputs": ["pool"]},
            "mixture": {"criteria": CRITERIA, "budget": budget, **mixture},
            "select": select or {"mixture": "theta", "theta": THETA},
        }
    )
    annotated = annotate_made_up(root, files, rows, seed, ties)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select_stage, "PACK_ROWS", part_rows)
        return select_stage.select(config, InlineEngine(), Silent(), annotated, None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def selected(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """`selected(**options of run_select)`: made once a session for each set of options; do not change it."""
    made: dict[str, Manifest] = {}

    def make(**options: Any) -> Manifest:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = run_select(tmp_path_factory.mktemp("run"), **options)
        return made[key]

    return make
