"""Passes over the annotation files for `verify` and `explain`: counts, score maps and ranks from the scores alone.

Files are read one at a time; what is kept between them is one histogram per criterion, one line per quality bin of a
domain in use, and the row ranges of every file. Nothing here shares code with the selection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from quadmix.errors import VerificationError
from quadmix.manifest.model import Manifest
from quadmix.manifest.published_odis import Census, QuantileCounts, ScoreSums, best_component, top_quantile
from quadmix.manifest.published_plan import Plan
from quadmix.manifest.published_rules import RULE_KINDS, ScoreCounts, cluster_strata, rule_keys
from quadmix.manifest.recompute import (
    SPLIT_BITS,
    Curve,
    Floats,
    Ints,
    ScoreClasses,
    bin_width_bits,
    crowded,
    draws,
    equal_quotas,
    interval_ranks,
    merge_weight_units,
    order_keys,
    score_classes,
    whole_shares,
)
from quadmix.schema import CLUSTER, DOC_HASH, DOMAIN, N_TOKENS, OK, ROW, SHARD, STATUS, score_column

_CELL_BITS = 18  # a domain has at most 2**18 quality bins
_PENDING_CELLS = 4_000_000


@dataclass(frozen=True)
class Documents:
    """The documents of status ok of one annotation file, in its order: n of them."""

    position: Ints  # (n,) row number in the file
    hash: NDArray[np.uint64]  # (n,)
    tokens: Ints  # (n,)
    domain: Ints  # (n,) index into the names given to the reader
    scores: tuple[NDArray[np.float32], ...]  # one (n,) array per criterion
    cluster: Ints | None = None  # (n,) code, -1 without one; only where the plan is about clusters


@dataclass
class Tallied:
    """Sums over annotation rows: status -> [documents, tokens], and the row ranges that each file covers."""

    status: dict[str, list[int]] = field(default_factory=dict)
    domains: dict[str, list[int]] = field(default_factory=dict)  # documents and tokens of status ok
    ranges: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)  # shard -> (first, last, file)


@dataclass(frozen=True)
class Judged:
    """What the plan says of n documents. stratum: (n,) index into the names, -1 = not eligible; rank and expected are
    None for selectors without them."""

    stratum: Ints
    draw: Floats  # NaN where nothing depends on it
    key: Floats
    step: Floats
    rank: Floats | None = None
    expected: Floats | None = None
    quality: Floats | None = None
    quantiles: Floats | None = None  # (n, K) of each component, ODiS only
    # stratum (-1: none) and key in each member of a union that does not take the document though it might
    passed: tuple[tuple[Ints, Floats], ...] = ()


def annotation_paths(manifest: Manifest) -> list[Path]:
    """The annotation files in unit order; `VerificationError` naming the first that is not there."""
    paths = [manifest.annotation_path(entry) for entry in manifest.annotations.files]
    for path in paths:
        if not path.is_file():
            raise VerificationError(
                f"{path}: the annotations that this manifest was selected from are gone; keep {manifest.run_directory}"
                " whole, or rerun `quadmix annotate`"
            )
    return paths


def tally(paths: Sequence[Path]) -> Tallied:
    """Count rows by status and domain, and note which rows of which shard each file holds."""
    total = Tallied()
    for number, path in enumerate(paths):
        for table in _row_groups(path, (STATUS, DOMAIN, N_TOKENS, SHARD, ROW)):
            status_names, status = _codes(table[STATUS])
            domain_names, domain = _codes(table[DOMAIN])
            tokens = _tokens(table[N_TOKENS])
            for code, name in enumerate(status_names):
                _add(total.status, str(name), status == code, tokens)
            ok = status == status_names.index(OK) if OK in status_names else np.zeros(status.size, dtype=bool)
            for code, name in enumerate(domain_names):
                _add(total.domains, str(name), ok & (domain == code), tokens)
            _note_ranges(total.ranges, table, number)
    return total


def read_documents(
    path: Path, domains: Sequence[str], criteria: Sequence[str], clusters: Mapping[str, int] | None = None
) -> Iterator[Documents]:
    """The documents of status ok, a row group at a time. A domain that is not in `domains` has index -1.

    clusters: code by name, where the plan is about clusters; a cluster that is not in it has code -1.
    """
    place = {name: index for index, name in enumerate(domains)}
    start = 0
    columns = [STATUS, DOC_HASH, N_TOKENS, DOMAIN, *map(score_column, criteria)]
    for table in _row_groups(path, columns if clusters is None else [*columns, CLUSTER]):
        names, status = _codes(table[STATUS])
        rows = np.flatnonzero(status == names.index(OK)) if OK in names else np.zeros(0, dtype=np.int64)
        domain_names, domain = _codes(table[DOMAIN])
        known = np.array([place.get(str(name), -1) for name in domain_names] or [-1], dtype=np.int64)
        taken = table.take(pa.array(rows))
        yield Documents(
            start + rows,
            _array(taken[DOC_HASH], np.uint64),
            _tokens(taken[N_TOKENS]),
            known[domain[rows]],
            tuple(_array(taken[score_column(name)], np.float32) for name in criteria),
            None if clusters is None else _clusters(taken, path, clusters),
        )
        start += table.num_rows


class Judge:
    """Computes draw, key, step, stratum, rank and expected copies of any document under a manifest's plan. members: by
    name, of a union.

    For a QuaDMix plan, building one reads the annotations two or three times: histograms of the scores, single scores
    where a histogram bin is crowded, tokens per quality bin.
    """

    def __init__(self, manifest: Manifest, plan: Plan, paths: Sequence[Path], counted: Tallied) -> None:
        self.plan, self.seed, self.kind, self.criteria = plan, manifest.seed, plan.kind, plan.criteria
        self.domains = plan.domains
        self.cluster_codes = _cluster_codes(plan)
        self.domain_tokens = [counted.domains[name][1] for name in self.domains]
        by_domain = self.kind in ("quadmix", "uniform", "weights") or plan.domain_quotas is not None
        self.strata = self.domains if by_domain else ["pool"]
        self.members: dict[str, Judge] = {}
        self.score_counts: list[ScoreCounts] = []
        if self.kind == "quadmix":
            self._fit_quadmix(paths, [counted.domains[name][0] for name in self.domains])
        elif self.kind == "quad":
            self._fit_quad(paths)
        elif self.kind == "odis":
            self._fit_odis(paths)
        elif self.kind == "cluster_quality":
            self._fit_clusters(paths)
        elif self.kind == "criteria_mix" or plan.rule.least_quantile is not None:
            self.score_counts = self._count_scores(paths)
        elif self.kind == "union":
            self.members = {name: Judge(manifest, own, paths, counted) for name, own in plan.member_plans().items()}
            self.strata = [f"{name} / {stratum}" for name, own in self.members.items() for stratum in own.strata]

    def __call__(self, documents: Documents) -> Judged:
        n = documents.hash.size
        if self.kind == "quadmix":
            return self._judge_quadmix(documents)
        if self.kind == "union":
            return self._judge_union(documents)
        draw = draws(documents.hash, self.seed, self.plan.purpose)
        once = np.full(n, np.inf)
        if self.kind == "quad":
            return Judged(self._stratum_of_cluster(documents), draw, draw, once)
        if self.kind == "odis":
            return self._judge_odis(documents, draw)
        if self.kind in RULE_KINDS:
            key = rule_keys(self.kind, self.plan.rule, draw, documents.scores, self.score_counts)
            return Judged(self._stratum_of_rule(documents), draw, key, once)
        stratum = np.zeros(n, dtype=np.int64) if self.kind == "natural" else documents.domain
        return Judged(stratum, draw, draw, np.ones(n))

    def _stratum_of_rule(self, documents: Documents) -> Ints:
        if self.kind == "cluster_quality":
            return self._stratum_of_cluster(documents)
        place = documents.domain if self.plan.domain_quotas is not None else np.zeros_like(documents.domain)
        if self.kind != "threshold":
            return place
        assert self.plan.rule.least_score is not None
        return np.where(documents.scores[0].astype(np.float64) >= self.plan.rule.least_score, place, -1)

    def _judge_union(self, documents: Documents) -> Judged:
        """The first member whose cut a document is before takes it; what nobody takes counts as the last one's."""
        n = documents.hash.size
        draw = np.zeros(n)
        stratum, key, free = np.full(n, -1, dtype=np.int64), np.full(n, np.inf), np.ones(n, dtype=bool)
        start, passed = 0, []
        for member in self.members.values():
            mine = [self.criteria.index(name) for name in member.criteria]
            own = member(replace(documents, scores=tuple(documents.scores[column] for column in mine)))
            candidate = free & (own.stratum >= 0) & np.isfinite(own.key)
            cuts = [member.plan.strata[name].cut for name in member.strata]
            cut_key = np.array([cut for cut, _ in cuts])[own.stratum]
            cut_hash = np.array([number for _, number in cuts], dtype=np.uint64)[own.stratum]
            inside = (own.key < cut_key) | ((own.key == cut_key) & (documents.hash <= cut_hash))
            stratum, key = np.where(candidate, start + own.stratum, stratum), np.where(candidate, own.key, key)
            draw = np.where(candidate, own.draw, draw)
            passed.append((np.where(candidate & ~inside, start + own.stratum, -1), own.key))
            free &= ~(candidate & inside)
            start += len(member.strata)
        return Judged(stratum, draw, key, np.full(n, np.inf), passed=tuple(passed))

    def _judge_quadmix(self, documents: Documents) -> Judged:
        cell, quality = self._cells(documents)
        at = np.searchsorted(self.cells, cell)
        expected, rank = self.cell_expected[at], self.cell_rank[at]
        eligible = np.flatnonzero(expected > 0)
        draw = np.full(expected.size, np.nan)  # hashing is the dear part: only where there is something to draw for
        draw[eligible] = draws(documents.hash[eligible], self.seed, self.plan.purpose)
        with np.errstate(divide="ignore"):
            key, step = draw / expected, 1.0 / expected
        return Judged(np.where(expected > 0, documents.domain, -1), draw, key, step, rank, expected, quality / 2.0**50)

    def quotas(self, budget: int) -> list[float]:
        """Tokens that each stratum should get; a QuaDMix quota is rounded to a whole number next to it."""
        if self.kind == "union":
            assert self.plan.members is not None
            budgets = [self.plan.members[name].budget for name in self.members]
            return [
                quota for own, part in zip(self.members.values(), budgets, strict=True) for quota in own.quotas(part)
            ]
        if self.kind in ("quad", "odis", "cluster_quality"):
            return [float(quota) for quota in self.cell_quotas]
        if self.plan.domain_quotas is not None:
            return [float(self.plan.domain_quotas[name]) for name in self.domains]
        if self.kind == "natural" or self.kind in RULE_KINDS:
            return [float(budget)]
        if self.kind == "weights":
            assert self.plan.weights is not None
            return [float(quota) for quota in whole_shares([self.plan.weights[name] for name in self.domains], budget)]
        if self.kind == "uniform":
            reach = [tokens * self.plan.max_copies for tokens in self.domain_tokens]
            return [float(quota) for quota in equal_quotas(reach, budget)]
        total = sum(self.stratum_tokens)
        return [tokens / total * budget for tokens in self.stratum_tokens]

    def _fit_quad(self, paths: Sequence[Path]) -> None:
        """Strata are clusters, or the clusters of each domain that has documents of them, by name."""
        outcome, within = self.plan.outcome, self.plan.domain_quotas
        assert outcome is not None
        self.cluster_cells: dict[tuple[str, int], tuple[int, int]] = {}
        self.cell_fill: dict[str, int] = {}
        for documents in self._read(paths):
            assert documents.cluster is not None
            for index, domain in enumerate(self.domains):
                mine = documents.domain == index
                codes, at = np.unique(documents.cluster[mine], return_inverse=True)
                tokens = np.zeros(codes.size, dtype=np.int64)
                np.add.at(tokens, at, documents.tokens[mine])
                for code, docs, held in zip(codes.tolist(), np.bincount(at).tolist(), tokens.tolist(), strict=True):
                    before = self.cluster_cells.get((domain, code), (0, 0))
                    self.cluster_cells[domain, code] = before[0] + docs, before[1] + held
        name_of = {cluster.code: cluster.name for cluster in outcome.clusters}
        if within is None:
            strata = {name: [(domain, code) for domain in self.domains] for code, name in name_of.items()}
            quotas = dict(zip((cluster.name for cluster in outcome.clusters), outcome.quotas(), strict=True))
        else:
            given = outcome.quotas_within(within, self.cluster_cells)
            strata = {f"{domain} / {name_of[code]}": [(domain, code)] for domain, code in given}
            quotas = {name: given[cells[0]][0] for name, cells in strata.items()}
            self.cell_fill = {name: given[cells[0]][1] for name, cells in strata.items()}
        self.strata = sorted(strata)
        self.cell_quotas = [quotas[name] for name in self.strata]
        self.place = np.full((len(self.domains), max(name_of) + 1), -1, dtype=np.int64)
        for place, name in enumerate(self.strata):
            for domain, code in strata[name]:
                self.place[self.domains.index(domain), code] = place

    def _fit_clusters(self, paths: Sequence[Path]) -> None:
        """Strata are clusters, or the clusters of each domain that has documents of them, by name."""
        clusters = self.plan.rule.clusters
        assert clusters is not None
        self.cluster_names = cluster_names(paths)
        cells: dict[tuple[str, int], int] = {}
        for documents in self._read(paths):
            assert documents.cluster is not None
            known = documents.cluster >= 0
            found = _sum_by(documents.domain[known] << 32 | documents.cluster[known], documents.tokens[known])
            for cell, tokens in zip(*map(np.ndarray.tolist, found), strict=True):
                at = self.domains[cell >> 32], cell & (1 << 32) - 1
                cells[at] = cells.get(at, 0) + tokens
        budget = sum(stratum.quota for stratum in self.plan.strata.values())
        strata = cluster_strata(clusters, cells, self.plan.domain_quotas, budget)
        self.strata = sorted(strata)
        self.cell_quotas = [strata[name][1] for name in self.strata]
        self.place = np.full((len(self.domains), len(clusters)), -1, dtype=np.int64)
        for place, name in enumerate(self.strata):
            for domain, code in strata[name][0]:
                self.place[self.domains.index(domain), code] = place

    def _stratum_of_cluster(self, documents: Documents) -> Ints:
        assert documents.cluster is not None
        inside = (documents.cluster >= 0) & (documents.cluster < self.place.shape[1])
        found = self.place[documents.domain, np.where(inside, documents.cluster, 0)]
        return np.where(inside, found, -1)

    def _fit_odis(self, paths: Sequence[Path]) -> None:
        """Strata are components, or the components of each domain that has documents of them, by name."""
        fit, within = self.plan.odis, self.plan.domain_quotas
        assert fit is not None
        kept = len(fit.components)
        self.score_sums, counts = ScoreSums(fit), QuantileCounts(kept)
        for documents in self._read(paths):
            self.score_sums.add(documents.scores)
            counts.add_coarse(fit.values(documents.scores), documents.tokens)
        counts.find_crowded()
        for documents in self._read(paths):
            counts.add_single(fit.values(documents.scores), documents.tokens)
        self.component_quantiles = counts.quantiles()
        tops = [top_quantile(component.asked, sum(self.domain_tokens)) for component in fit.components]
        self.census = Census.empty(kept)
        held = np.zeros((len(self.domains), kept), dtype=np.int64)
        for documents in self._read(paths):
            quantiles = self._quantiles(fit.values(documents.scores))
            component = best_component(quantiles, fit.floor)
            self.census.add(component, quantiles, documents.tokens, tops)
            np.add.at(held, (documents.domain, component), documents.tokens)
        if within is None:
            given = fit.quotas(fit.budget, held.sum(axis=0).tolist())
            quotas = {one.name: quota for one, quota in zip(fit.components, given, strict=True)}
            cells = {(d, k): one.name for d in range(len(self.domains)) for k, one in enumerate(fit.components)}
        else:
            quotas, cells = {}, {}
            for d, domain in enumerate(self.domains):
                given = fit.quotas(within[domain], held[d].tolist())
                for k in np.flatnonzero(held[d]).tolist():
                    cells[d, k] = f"{domain} / {fit.components[k].name}"
                    quotas[cells[d, k]] = given[k]
        self.strata = sorted(quotas)
        self.cell_quotas = [quotas[name] for name in self.strata]
        self.place = np.full((len(self.domains), kept), -1, dtype=np.int64)
        for cell, name in cells.items():
            self.place[cell] = self.strata.index(name)

    def _quantiles(self, values: NDArray[np.float32]) -> Ints:
        return np.stack([one.of(values[:, k]) for k, one in enumerate(self.component_quantiles)], axis=1)

    def _judge_odis(self, documents: Documents, draw: Floats) -> Judged:
        fit = self.plan.odis
        assert fit is not None
        values = fit.values(documents.scores)
        quantiles = self._quantiles(values)
        component = best_component(quantiles, fit.floor)
        key = -values[np.arange(len(draw)), component].astype(np.float64)
        stratum = self.place[documents.domain, component]
        return Judged(stratum, draw, key, np.full(len(draw), np.inf), quantiles=quantiles / 2.0**30)

    def _fit_quadmix(self, paths: Sequence[Path], docs: Sequence[int]) -> None:
        assert self.plan.theta is not None
        weights = self.plan.theta.merge_weights
        units = [merge_weight_units([weights[name][c] for c in self.criteria]) for name in self.domains]
        self.units = np.array(units, dtype=np.int64).reshape(len(self.domains), len(self.criteria))
        self.shift = np.array(bin_width_bits(docs), dtype=np.int64)
        self.classes = self._fit_classes(paths)
        self.cells, tokens = self._count_cells(paths)
        self.cell_expected, self.cell_rank = np.zeros(self.cells.size), np.ones(self.cells.size)
        self.curves: list[Curve] = []
        self.closed_form: list[float] = []  # expected tokens of each domain under the multiplier
        self.stratum_tokens: list[float] = []  # in proportion to which the budget is shared
        for index, name in enumerate(self.domains):
            first, last = np.searchsorted(self.cells, [index << _CELL_BITS, (index + 1) << _CELL_BITS])
            low, high = interval_ranks(tokens[first:last])
            curve = self.plan.curve(name)
            interval = self.plan.rank == "interval"
            expected = curve.mean(low, high) if interval else curve.at(high)
            self.cell_expected[first:last], self.cell_rank[first:last] = expected, high
            self.curves.append(curve)
            whole = self.domain_tokens[index] * float(curve.mean(np.zeros(1), np.ones(1))[0])
            self.closed_form.append(whole)
            self.stratum_tokens.append(whole if interval else float((tokens[first:last] * expected).sum()))

    def _fit_classes(self, paths: Sequence[Path]) -> list[ScoreClasses]:
        return [
            score_classes(one.coarse, one.docs, one.tokens, one.single, one.single_tokens, self.plan.normalise)
            for one in self._count_scores(paths)
        ]

    def _count_scores(self, paths: Sequence[Path]) -> list[ScoreCounts]:
        size, n = 1 << (32 - SPLIT_BITS), len(self.criteria)
        docs, tokens = np.zeros((n, size), dtype=np.int64), np.zeros((n, size), dtype=np.int64)
        for documents in self._read(paths):
            for column, scores in enumerate(documents.scores):
                bins = order_keys(scores) >> SPLIT_BITS
                np.add.at(docs[column], bins, 1)
                np.add.at(tokens[column], bins, documents.tokens)
        split = np.stack([crowded(docs[c], tokens[c]) for c in range(n)])
        single: list[tuple[Ints, Ints]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in range(n)]
        if split.any():
            for documents in self._read(paths):
                for column, scores in enumerate(documents.scores):
                    keys = order_keys(scores)
                    inside = split[column, keys >> SPLIT_BITS]
                    merged = np.concatenate([single[column][0], keys[inside]])
                    counts = np.concatenate([single[column][1], documents.tokens[inside]])
                    single[column] = _sum_by(merged, counts)
        used = [np.flatnonzero(docs[column]) for column in range(n)]
        return [ScoreCounts(used[c], docs[c, used[c]], tokens[c, used[c]], *single[c]) for c in range(n)]

    def _count_cells(self, paths: Sequence[Path]) -> tuple[Ints, Ints]:
        """(cells in use ascending, tokens): cell = domain << 18 | quality bin."""
        cells, tokens = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        pending = 0
        for documents in self._read(paths):
            found = _sum_by(self._cells(documents)[0], documents.tokens)
            cells.append(found[0])
            tokens.append(found[1])
            pending += found[0].size
            if pending > _PENDING_CELLS:
                merged = _sum_by(np.concatenate(cells), np.concatenate(tokens))
                cells, tokens, pending = [merged[0]], [merged[1]], 0
        return _sum_by(np.concatenate(cells), np.concatenate(tokens))

    def _cells(self, documents: Documents) -> tuple[Ints, Ints]:
        """(cell, merged quality in 2**-50) of every document."""
        quality = np.zeros(documents.tokens.size, dtype=np.int64)
        for column, scores in enumerate(documents.scores):
            quality += self.units[documents.domain, column] * self.classes[column].of(scores)
        return documents.domain << _CELL_BITS | quality >> self.shift[documents.domain], quality

    def _read(self, paths: Sequence[Path]) -> Iterator[Documents]:
        for path in paths:
            yield from read_documents(path, self.domains, self.criteria, self.cluster_codes)


def _cluster_codes(plan: Plan) -> dict[str, int] | None:
    """Code of each cluster that a plan, or a member of it, is about; None where it is about none."""
    if plan.outcome is not None:
        return {one.name: one.code for one in plan.outcome.clusters}
    if plan.rule.clusters is not None:
        return {name: code for code, name in enumerate(plan.rule.clusters)}
    own = [_cluster_codes(member) for member in plan.member_plans().values()]
    return next((codes for codes in own if codes is not None), None)


def cluster_names(paths: Sequence[Path]) -> list[str]:
    """The clusters of all documents of status ok, sorted."""
    found: set[str] = set()
    for path in paths:
        for table in _row_groups(path, (STATUS, CLUSTER)):
            names, status = _codes(table[STATUS])
            clusters, cluster = _codes(table[CLUSTER])
            ok = status == names.index(OK) if OK in names else np.zeros(status.size, dtype=bool)
            found.update(str(clusters[code]) for code in np.unique(cluster[ok]).tolist() if code >= 0)
    return sorted(found)


def _row_groups(path: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise VerificationError(f"{path}: cannot be read ({error}); rerun `quadmix annotate`") from error


def _codes(column: pa.ChunkedArray) -> tuple[list[Any], Ints]:
    """(distinct values, (n,) index of each row's; -1 for null)."""
    joined = column.cast(pa.string()).combine_chunks().dictionary_encode()
    indices = joined.indices.fill_null(-1)
    return joined.dictionary.to_pylist(), _array(indices, np.int64)


def _clusters(table: pa.Table, path: Path, codes: Mapping[str, int]) -> Ints:
    if CLUSTER not in table.column_names:
        raise VerificationError(
            f"{path}: the annotations have no clusters, which this manifest is about; rerun `quadmix annotate`"
        )
    names, index = _codes(table[CLUSTER])
    known = np.array([*(codes.get(str(name), -1) for name in names), -1], dtype=np.int64)  # the last for null
    return known[index]


def _tokens(column: pa.ChunkedArray) -> Ints:
    return _array(column.combine_chunks().fill_null(0), np.int64)


def _array(column: Any, kind: Any) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(column.to_numpy() if isinstance(column, pa.ChunkedArray) else column)
    return values.astype(kind, copy=False)


def _add(tallies: dict[str, list[int]], name: str, chosen: NDArray[np.bool_], tokens: Ints) -> None:
    found = tallies.setdefault(name, [0, 0])
    found[0] += int(chosen.sum())
    found[1] += int(tokens[chosen].sum())


def _note_ranges(ranges: dict[str, list[tuple[int, int, int]]], table: pa.Table, number: int) -> None:
    """Extend shard -> (first row, last row, file) by one row group, joining what continues."""
    names, shard = _codes(table[SHARD])
    rows = _array(table[ROW].combine_chunks().fill_null(-1), np.int64)
    breaks = np.flatnonzero((np.diff(shard) != 0) | (np.diff(rows) <= 0)) + 1
    for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), rows.size], strict=True):
        if first == last:
            continue
        known = ranges.setdefault(str(names[shard[first]]), [])
        start, stop = int(rows[first]), int(rows[last - 1])
        if known and known[-1][2] == number and known[-1][1] < start:
            start = known.pop()[0]
        known.append((start, stop, number))


def _sum_by(keys: Ints, values: Ints) -> tuple[Ints, Ints]:
    """Distinct keys ascending, and the sum of the values of each."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.zeros(0, np.int64)
    return keys[first], np.add.reduceat(values, first) if first.size else values
