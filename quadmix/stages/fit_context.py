"""What a scorer sees while it is fitted: a sample of the pool chosen by document hash, the search halves, side files.

The sample is exact (the documents with the smallest draws in the whole pool) though no task sees more than one unit:
each unit keeps its smallest draws, more than its fair share of them; the rare unit that kept too few is asked again.
Documents travel in files, never through the engine's results.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.config import PoolConfig
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError
from quadmix.hashing import content_hash, doc_hash, fingerprint, uniform
from quadmix.pool.leakage import TargetIndex
from quadmix.pool.readers import read_unit
from quadmix.pool.refusals import FileRefused, Refusal
from quadmix.pool.units import Unit
from quadmix.scorers.context import Document
from quadmix.scorers.tokens import Tokenizer
from quadmix.stages.side_documents import read_documents
from quadmix.stages.targets import TargetSet

_MARGIN = 3  # times a unit's fair share of the sample
_SLACK = 64  # documents
_DRAW = "draw"
_CONTENT = "content_hash"


@dataclass(frozen=True)
class SampleUnit:
    """Task: (unit, how many) -> (file of the documents with the smallest draws, largest draw kept, whether some were
    left out). Rows with faults and documents of target sets are no candidates. `columns` are read along.
    """

    directory: str
    config: PoolConfig
    columns: tuple[str, ...]
    seed: int
    what: str
    targets: TargetIndex

    def __call__(self, item: tuple[Unit, int]) -> tuple[str, float, bool] | Refusal:
        unit, wanted = item
        held: pa.Table | None = None
        left_out = False
        try:
            for batch in read_unit(unit, self.config, self.columns):
                table = self._candidates(batch)
                held = table if held is None else pa.concat_tables([held, table], promote_options="default")
                order = _different(held)
                left_out |= len(order) > wanted
                if len(order) > wanted or len(order) < held.num_rows:
                    held = held.take(pa.array(order[:wanted]))
        except FileRefused as refused:
            return refused.refusal
        if held is None or not held.num_rows:
            return "", 0.0, False
        handle, path = tempfile.mkstemp(prefix="sample-", suffix=".parquet", dir=self.directory)
        os.close(handle)
        pq.write_table(held, path, compression="lz4", write_page_checksum=True)
        return path, float(pc.max(held[_DRAW]).as_py()), left_out

    def _candidates(self, batch: pa.RecordBatch) -> pa.Table:
        good = batch.filter(pc.is_null(batch["reason"]))
        draws = uniform(doc_hash(good["doc_id"].to_pylist()), self.seed, self.what)
        content = content_hash(good["text"].to_pylist())
        names = [name for name in good.schema.names if name not in ("shard", "row", "reason", "detail", "tokens")]
        table = pa.table({name: good[name] for name in names} | {_DRAW: draws, _CONTENT: content})
        return table.filter(pa.array(self.targets.leaks(content) < 0))


@dataclass(frozen=True)
class PoolFitContext:
    """Implements `scorers.context.FitContext` over the pool's units."""

    directory: Path
    scratch: Path
    seed: int
    tokenizer: Tokenizer | None
    engine: Engine
    config: PoolConfig
    units: tuple[Unit, ...]
    targets: tuple[TargetSet, ...]
    index: TargetIndex
    _samples: dict[str, list[Document]] = field(default_factory=dict)

    def sample(self, n_docs: int, what: str, columns: Sequence[str] = ()) -> list[Document]:
        """The `n_docs` documents of the pool (or all) with the smallest uniform(doc_hash, seed, what), in that order.

        A repeated id counts once, with the text that the pool keeps. Raises FileRefused for a file that cannot be read.
        """
        asked = fingerprint(str(n_docs), what, *columns)
        if asked not in self._samples:
            self._samples[asked] = self._draw(n_docs, what, tuple(dict.fromkeys(columns)))
        return self._samples[asked]

    def target(self, name: str) -> list[Document]:
        """The search half of a target set."""
        for target in self.targets:
            if target.name == name:
                half = target.search
                return [Document(doc_id, text) for doc_id, text in zip(half.ids, half.texts, strict=True)]
        known = ", ".join(target.name for target in self.targets) or "none"
        raise ConfigError(f"annotate: found target:{name}, wanted one of the configured targets: {known}")

    def read_paths(self, paths: Sequence[str], columns: Sequence[str] = ()) -> list[Document]:
        """The documents of the given files, read strictly, ordered by document hash."""
        pool = self.config
        side = pool.model_copy(
            update={
                "inputs": tuple(paths),
                "columns": pool.columns.model_copy(update={"domain": None, "tokens": None}),
                "require_success_marker": False,
            }
        )
        return read_documents(side, columns, f"files for fitting ({', '.join(paths)})")

    def _draw(self, n_docs: int, what: str, columns: tuple[str, ...]) -> list[Document]:
        with tempfile.TemporaryDirectory(prefix="samples-", dir=self.scratch) as folder:
            task = SampleUnit(folder, self.config, columns, self.seed, what, self.index)
            total = max(sum(unit.bytes for unit in self.units), 1)
            shares = {
                unit.index: min(n_docs, -(-_MARGIN * n_docs * unit.bytes // total) + _SLACK) for unit in self.units
            }
            parts: dict[int, pa.Table] = {}
            pending = [(unit, shares[unit.index]) for unit in self.units]
            while pending:
                kept: dict[int, tuple[float, bool]] = {}
                for place, result in self.engine.map(
                    task, pending, label=f"sample for {what}", size=lambda item: item[0].bytes
                ):
                    if isinstance(result, Refusal):
                        raise FileRefused(result.shard, result.path, result.reason, result.message)
                    path, largest, left_out = result
                    unit, _ = pending[place]
                    kept[unit.index] = (largest, left_out)
                    if path:
                        parts[unit.index] = pq.read_table(path)
                        os.unlink(path)
                        parts = self._trimmed(parts, n_docs)
                last = self._last_draw(parts, n_docs)
                # a unit that left documents out below the last draw needed may hide some that belong to the sample
                pending = [
                    (unit, n_docs)
                    for unit, asked in pending
                    if asked < n_docs and kept[unit.index][1] and kept[unit.index][0] < last
                ]
        return _documents(parts, n_docs, columns)

    def _trimmed(self, parts: dict[int, pa.Table], n_docs: int) -> dict[int, pa.Table]:
        """The parts without documents that can no longer be in the sample: at most twice the sample is ever held."""
        if sum(part.num_rows for part in parts.values()) <= 2 * n_docs:
            return parts
        last = self._last_draw(parts, n_docs)
        return {unit: part.filter(pc.less_equal(part[_DRAW], last)) for unit, part in parts.items()}

    @staticmethod
    def _last_draw(parts: dict[int, pa.Table], n_docs: int) -> float:
        """The n-th smallest different draw so far, infinity when there are fewer."""
        if not parts:
            return np.inf
        draws = np.unique(np.concatenate([part[_DRAW].to_numpy() for part in parts.values()]))
        return float(draws[n_docs - 1]) if len(draws) >= n_docs else np.inf


def _different(table: pa.Table) -> NDArray[np.intp]:
    """Rows in order of their draws, one for each draw: that of the smallest content hash, as for duplicate ids."""
    draws, content = table[_DRAW].to_numpy(), table[_CONTENT].to_numpy()
    order = np.lexsort((content, draws))
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = draws[order][1:] != draws[order][:-1]
    return order[first]


def _documents(parts: dict[int, pa.Table], n_docs: int, columns: Sequence[str]) -> list[Document]:
    if not parts:
        return []
    table = pa.concat_tables([parts[index] for index in sorted(parts)], promote_options="default")
    rows: dict[str, list[Any]] = table.take(pa.array(_different(table)[:n_docs])).to_pydict()
    domains = rows.get("domain", [None] * len(rows["doc_id"]))
    return [
        Document(doc_id, rows["text"][index], domains[index], {name: rows[name][index] for name in columns})
        for index, doc_id in enumerate(rows["doc_id"])
    ]
