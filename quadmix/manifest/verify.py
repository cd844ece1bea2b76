"""Read a published manifest again and recompute everything in it, sharing no arithmetic with the code that wrote it.

Checked: every listed file's bytes, sha256 and rows; every row's place in the annotations, id, tokens, domain, stratum,
draw, quality rank, expected copies, key and copies; that no document is there twice and none that should be is
missing; that every stratum took exactly the prefix nearest to its quota; quotas, budget, and every sum and tally in
`manifest.json`. Integers, draws, keys and copies are compared exactly; ranks and expected copies to 1e-9. A document
left out whose own key is within 1e-9 of the cut passes, since the last bits of its expected copies are not published.

Memory: one annotation file and its rows at a time, one line per quality bin, and 8 bytes per selected document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from quadmix.errors import ConfigError
from quadmix.manifest.claims import Claims, PartReader, Segment, files_of, positions
from quadmix.manifest.findings import Verification
from quadmix.manifest.model import MANIFEST_NAME, Artefact, Manifest, Part, Share, Tally
from quadmix.manifest.neighbours import NearestCopies
from quadmix.manifest.published_plan import Plan
from quadmix.manifest.recompute import Floats, Ints, Neighbourhood, id_hashes, settle, whole_shares
from quadmix.manifest.recount import (
    Documents,
    Judge,
    Judged,
    Tallied,
    annotation_paths,
    read_documents,
    tally,
)
from quadmix.schema import (
    COPIES,
    DOC_ID,
    DOMAIN,
    DRAW,
    EXPECTED_COPIES,
    KEY,
    MANIFEST_COLUMNS,
    N_TOKENS,
    OK,
    QUADMIX_COLUMNS,
    QUALITY_RANK,
    ROW,
    SELECTOR,
    SHARD,
    STRATUM,
)

TOLERANCE = 1e-9
EXCLUSIONS = ("NOT_ELIGIBLE", "BEYOND_CUT")
COLUMN_TYPES = {
    **dict.fromkeys((DOC_ID, SHARD, DOMAIN, SELECTOR, STRATUM), "string"),
    **dict.fromkeys((KEY, DRAW, EXPECTED_COPIES, QUALITY_RANK), "double"),
    **dict.fromkeys((ROW, N_TOKENS), "int64"),
    COPIES: "int32",
}
_CHUNK = 4 * 2**20


def verify(manifest: Manifest, say: Callable[[str], None] = lambda text: None) -> Verification:
    """Recompute a loaded manifest from the annotations beside it. `say` hears what is being done.

    Bytes come first: where a file is not what its entry declares, nothing is recomputed from it.
    """
    outcome = Verification()
    say("checking files")
    _check_files(manifest, outcome)
    if outcome.ok:
        paths = annotation_paths(manifest)
        say(f"counting {len(paths)} annotation files")
        counted = tally(paths)
        plan = _read_plan(manifest, counted, outcome)
        if plan is not None:
            say("recomputing qualities and ranks")
            judge = Judge(manifest, plan, paths, counted)
            if sorted(plan.strata) != sorted(judge.strata):
                outcome.add(MANIFEST_NAME, None, None, "plan.strata", sorted(plan.strata), sorted(judge.strata))
                return outcome
            say("recomputing every row")
            _Comparison(manifest, outcome, judge, paths, counted).run()
    return outcome


def _read_plan(manifest: Manifest, counted: Tallied, outcome: Verification) -> Plan | None:
    """The plan if it has the form to recompute from and is about the pool's domains, else None after a finding."""
    try:
        plan = Plan.model_validate(manifest.plan)
    except ValidationError as error:
        for problem in error.errors():
            column = ".".join(["plan", *(str(step) for step in problem["loc"])])
            outcome.add(MANIFEST_NAME, None, None, column, str(problem["input"])[:80], problem["msg"])
        return None
    domains = sorted(name for name, (docs, _) in counted.domains.items() if docs)
    if plan.domains != domains:
        outcome.add(MANIFEST_NAME, None, None, "plan.domains", plan.domains, domains)
    return plan if outcome.ok else None


# ------------------------------------------------------------------------------------------- files


def _check_files(manifest: Manifest, outcome: Verification) -> None:
    published: tuple[Part | Artefact, ...] = (*manifest.files, *manifest.artefacts)
    for entry in published:
        _check_file(manifest.part_path, entry, entry.path, outcome)
    for annotation in manifest.annotations.files:
        name = f"{manifest.annotations.folder}/{annotation.path}"
        _check_file(manifest.annotation_path, annotation, name, outcome)
    listed = {MANIFEST_NAME, *(entry.path for entry in published)}
    for path in sorted(manifest.folder.rglob("*")):
        name = path.relative_to(manifest.folder).as_posix()
        if not path.is_dir() and name not in listed and not path.name.endswith(".tmp"):
            outcome.add(name, None, None, "files", "a file that the manifest does not list", "listed files only")


def _check_file(locate: Callable[[Any], Path], entry: Part | Artefact, name: str, outcome: Verification) -> None:
    outcome.files += 1
    try:
        path = locate(entry)
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except (OSError, ConfigError) as error:
        outcome.add(name, None, None, "file", str(error), "a readable file")
        return
    if size != entry.bytes:
        outcome.add(name, None, None, "bytes", size, entry.bytes)
    elif digest.hexdigest() != entry.sha256:
        outcome.add(name, None, None, "sha256", digest.hexdigest(), entry.sha256)
    elif isinstance(entry, Part) or name.endswith(".parquet"):
        try:
            rows = pq.read_metadata(path).num_rows
        except pa.ArrowException as error:
            outcome.add(name, None, None, "file", str(error), "a Parquet file")
            return
        if rows != entry.rows:
            outcome.add(name, None, None, "rows", rows, entry.rows)


# ------------------------------------------------------------------------------------------- rows


class _Comparison:
    """One pass over annotations and manifest side by side."""

    def __init__(
        self, manifest: Manifest, outcome: Verification, judge: Judge, paths: Sequence[Path], counted: Tallied
    ) -> None:
        self.manifest, self.outcome, self.judge, self.paths, self.counted = manifest, outcome, judge, paths, counted
        self.exact = judge.kind != "quadmix"
        self.max_copies = judge.plan.max_copies
        self.columns = MANIFEST_COLUMNS + (() if self.exact else QUADMIX_COLUMNS)
        cuts = [judge.plan.strata[name].cut for name in judge.strata]
        self.cut_key = np.array([key for key, _ in cuts])
        self.cut_hash = np.array([number for _, number in cuts], dtype=np.uint64)
        self.parts = PartReader(manifest)
        self.hashes = np.zeros(sum(part.rows for part in manifest.files), dtype=np.uint64)
        self.part_starts = np.cumsum([0, *(part.rows for part in manifest.files)])
        self.sums = _Sums(len(judge.domains))
        kept = min(max(2**20 // max(len(judge.strata), 1), 64), 4096)
        self.below, self.above = NearestCopies(kept, "below"), NearestCopies(kept, "above")
        self.taken = np.zeros(max(len(judge.strata), 1), dtype=np.int64)
        self.left_out = np.zeros((2, 2), dtype=np.int64)

    def run(self) -> None:
        if not self._check_columns():
            return
        for judge, place, budget in self._judges():
            if judge.kind == "odis":
                self._check_components(judge, place, budget)  # before the rows, all of which a wrong one would move
        segments = self._segments()
        for number, path in enumerate(self.paths):
            self._check_annotation_file(path, segments.get(number, []))
        self._check_unique()
        rows_agree = self.outcome.ok
        self._check_sums()
        self._check_plan(rows_agree)

    def _check_columns(self) -> bool:
        before = self.outcome.total
        for part in self.manifest.files:
            schema = pq.read_schema(self.manifest.part_path(part))
            found = [f"{column.name}: {_value_type(column.type)}" for column in schema]
            wanted = [f"{name}: {COLUMN_TYPES[name]}" for name in self.columns]
            if found != wanted:
                self.outcome.add(part.path, None, None, "columns", found, wanted)
        return self.outcome.total == before

    def _segments(self) -> dict[int, list[Segment]]:
        """Annotation file -> the runs of manifest rows that claim to be in it, by shard and row alone."""
        ranges = {
            shard: tuple(np.array(column, dtype=np.int64) for column in zip(*sorted(found), strict=True))
            for shard, found in self.counted.ranges.items()
        }
        segments: dict[int, list[Segment]] = {}
        for number, part in enumerate(self.manifest.files):
            table = self.parts.read(number, 0, part.rows, (SHARD, ROW))
            file = files_of(table, ranges)
            breaks = np.flatnonzero(np.diff(file)) + 1
            for start, stop in zip([0, *breaks.tolist()], [*breaks.tolist(), file.size], strict=True):
                if start == stop:
                    continue
                if file[start] >= 0:
                    segments.setdefault(int(file[start]), []).append(Segment(number, start, stop))
                    continue
                rows = self.parts.read(number, start, stop, (DOC_ID, SHARD, ROW)).to_pylist()
                for offset, row in enumerate(rows):
                    found = f"{row[SHARD]} row {row[ROW]}"
                    self.outcome.add(part.path, start + offset, row[DOC_ID], ROW, found, "a row of the annotations")
        return segments

    def _check_annotation_file(self, path: Path, segments: Sequence[Segment]) -> None:
        documents = _joined(
            list(read_documents(path, self.judge.domains, self.judge.criteria, self.judge.cluster_codes))
        )
        if documents is None:
            return
        self.outcome.documents += documents.hash.size
        judged = self.judge(documents)
        slack = 0.0 if self.exact else TOLERANCE
        wanted = self._wanted_copies(judged.key, judged.step, judged.stratum, documents.hash, slack)
        present = np.zeros(documents.hash.size, dtype=bool)
        if segments:
            claim = Claims.read(self.parts, segments, self.columns)
            at = self._check_places(path, claim, documents)
            rows = np.flatnonzero((at >= 0) & self._complete(claim))
            self._check_rows(claim.take(rows), documents, judged, at[rows], wanted)
            present[at[at >= 0]] = True
        self._check_absent(path, documents, judged, wanted, present)
        self._remember_neighbours(documents, judged, wanted)

    def _wanted_copies(
        self, key: Floats, step: Floats, stratum: Ints, hashes: NDArray[np.uint64], slack: float = 0.0
    ) -> Ints:
        """(n,) copies with (key, hash) up to the cut; the copy that the cut names may be off by `slack`, relative."""
        cut, last = self.cut_key[stratum], self.cut_hash[stratum]
        reach = cut + np.where((hashes == last) & np.isfinite(cut), slack * np.abs(np.nan_to_num(cut)), 0.0)
        copies = np.zeros(key.size, dtype=np.int64)
        inside = (stratum >= 0) & np.isfinite(key)
        for copy in range(self.max_copies):
            with np.errstate(invalid="ignore"):
                place = key + copy * step if copy else key
            inside &= (place < cut) | ((place <= reach) & (hashes <= last))
            copies += inside
        return copies

    def _undecided(self, judged: Judged, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(n,) documents whose first copy is so near the cut that the last bits of its expected copies decide.

        The document that the cut names is in, whatever its last bits.
        """
        if self.exact:
            return np.zeros(hashes.size, dtype=bool)
        cut = self.cut_key[judged.stratum]
        with np.errstate(invalid="ignore"):
            near = np.abs(judged.key - cut) <= TOLERANCE * np.abs(cut)
        return np.asarray(near & (hashes != self.cut_hash[judged.stratum]))

    def _check_places(self, path: Path, claim: Claims, documents: Documents) -> Ints:
        """(n,) index into `documents` of each claimed row; -1 after a finding."""
        position = positions(path, claim)
        at = np.searchsorted(documents.position, position)
        at[at == documents.position.size] = 0
        good = (position >= 0) & (documents.position[at] == position)
        for row in np.flatnonzero(~good):
            what = "a row of the annotations" if position[row] < 0 else f"a document of status {OK}"
            self._report(claim, int(row), ROW, f"{claim.text(SHARD, row)} row {claim.text(ROW, row)}", what)
        backwards = np.flatnonzero(np.diff(position) <= 0) + 1
        for row in backwards:
            again = position[row] == position[row - 1] or position[row] in position[:row]
            wanted = "each document once" if again else "the order of the annotations"
            self._report(claim, int(row), DOC_ID, "a document that came before" if again else "a step back", wanted)
        return np.where(good, at, -1)

    def _complete(self, claim: Claims) -> NDArray[np.bool_]:
        """(n,) rows without a null; the others are reported and compared no further."""
        complete = np.ones(claim.row.size, dtype=bool)
        for column in self.columns:
            for row in np.flatnonzero(claim.table[column].is_null().to_numpy()):
                self._report(claim, int(row), column, None, "a value")
                complete[row] = False
        return complete

    def _check_rows(self, claim: Claims, documents: Documents, judged: Judged, at: Ints, wanted: Ints) -> None:
        if not at.size:
            return
        self.outcome.rows += at.size
        hashes = id_hashes(claim.table[DOC_ID].to_pylist())
        self.hashes[self.part_starts[claim.part] + claim.row] = hashes
        self._compare(claim, DOC_ID, hashes == documents.hash[at], lambda row: "the id of that row of the annotations")
        for column, names, index in (
            (DOMAIN, self.judge.domains, documents.domain[at]),
            (STRATUM, self.judge.strata, judged.stratum[at]),
            (SELECTOR, [self.judge.kind], np.zeros(at.size, dtype=np.int64)),
        ):
            agree = (claim.codes(column, names) == index) & (index >= 0)
            self._compare(claim, column, agree, _namer(names, index))
        tokens, copies = claim.numbers(N_TOKENS), claim.numbers(COPIES)
        self._compare(claim, N_TOKENS, tokens == documents.tokens[at], documents.tokens[at].__getitem__)
        draw, key = claim.numbers(DRAW), claim.numbers(KEY)
        self._compare(claim, DRAW, draw == judged.draw[at], judged.draw[at].__getitem__)
        step = judged.step[at]
        own_key = judged.key[at]
        if judged.rank is not None and judged.expected is not None:
            expected = claim.numbers(EXPECTED_COPIES)
            for column, values, own in (
                (QUALITY_RANK, claim.numbers(QUALITY_RANK), judged.rank[at]),
                (EXPECTED_COPIES, expected, judged.expected[at]),
            ):
                self._compare(claim, column, np.abs(values - own) <= TOLERANCE * np.abs(own), own.__getitem__)
            # from here on the published expected copies decide, where they passed
            passed = np.abs(expected - judged.expected[at]) <= TOLERANCE * judged.expected[at]
            with np.errstate(divide="ignore"):
                own_key = np.where(passed, judged.draw[at] / expected, own_key)
                step = np.where(passed, 1.0 / expected, step)
        self._compare(claim, KEY, key == own_key, own_key.__getitem__)
        exact = self._wanted_copies(own_key, step, judged.stratum[at], documents.hash[at])
        self._compare(claim, COPIES, copies == exact, exact.__getitem__)
        wanted[at] = exact
        self.sums.add(documents.domain[at], tokens, copies, claim.part)
        np.add.at(self.taken, judged.stratum[at], tokens * copies)
        self._remember_below(documents, judged, at, own_key, step, exact)

    def _check_absent(
        self,
        path: Path,
        documents: Documents,
        judged: Judged,
        wanted: Ints,
        present: NDArray[np.bool_],
    ) -> None:
        missing = np.flatnonzero(~present & (wanted > 0) & ~self._undecided(judged, documents.hash))
        if missing.size:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                ids = file.read(columns=[DOC_ID, SHARD, ROW]).take(pa.array(documents.position[missing])).to_pylist()
            for row, index in zip(ids, missing, strict=True):
                self.outcome.add(row[SHARD], row[ROW], row[DOC_ID], COPIES, "no row", int(wanted[index]))
        wanted[~present] = 0
        eligible = (judged.stratum >= 0) & np.isfinite(judged.key)
        for line, mask in enumerate((~eligible, eligible & ~present)):
            self.left_out[line] += (int(mask.sum()), int(documents.tokens[mask].sum()))

    # --------------------------------------------------------------------------------- around the cuts

    def _remember_below(
        self, documents: Documents, judged: Judged, at: Ints, key: Floats, step: Floats, copies: Ints
    ) -> None:
        for copy in range(self.max_copies):
            rows = np.flatnonzero(copies > copy)
            if not rows.size:
                break
            place = key[rows] + copy * step[rows] if copy else key[rows]
            self.below.add(judged.stratum[at][rows], place, documents.hash[at][rows], documents.tokens[at][rows])
        again = np.flatnonzero((copies > 0) & (copies < self.max_copies) & np.isfinite(step))
        place = key[again] + copies[again] * step[again]
        self.above.add(judged.stratum[at][again], place, documents.hash[at][again], documents.tokens[at][again])

    def _remember_neighbours(self, documents: Documents, judged: Judged, copies: Ints) -> None:
        rows = np.flatnonzero((judged.stratum >= 0) & np.isfinite(judged.key) & (copies == 0))
        if not judged.passed:
            self.above.add(judged.stratum[rows], judged.key[rows], documents.hash[rows], documents.tokens[rows])
        for stratum, key in judged.passed:
            rows = np.flatnonzero(stratum >= 0)
            self.above.add(stratum[rows], key[rows], documents.hash[rows], documents.tokens[rows])

    # --------------------------------------------------------------------------------- the whole

    def _check_unique(self) -> None:
        """No two rows have one document hash; names the second of them."""
        ordered = np.sort(self.hashes)
        twice = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)])
        if not twice.size:
            return
        seen: set[int] = set()
        for at in np.flatnonzero(np.isin(self.hashes, twice)):
            number = int(self.hashes[at])
            if number in seen:
                part = int(np.searchsorted(self.part_starts, at, side="right")) - 1
                row = int(at - self.part_starts[part])
                doc_id = self.parts.read(part, row, row + 1, (DOC_ID,))[DOC_ID][0].as_py()
                self.outcome.add(
                    self.manifest.files[part].path, row, doc_id, DOC_ID, "a second time", "each document once"
                )
            seen.add(number)

    def _check_sums(self) -> None:
        manifest, sums, counted = self.manifest, self.sums, self.counted
        tokens, documents, copies = (int(values.sum()) for values in (sums.tokens, sums.documents, sums.copies))
        domains = {
            name: Share(
                manifest.domains[name].requested if name in manifest.domains else None,
                int(sums.tokens[index]),
                int(sums.documents[index]),
                int(sums.copies[index]),
                counted.domains[name][1],
            )
            for index, name in enumerate(self.judge.domains)
        }
        available = sum(self.judge.domain_tokens)
        wanted: dict[str, tuple[Any, Any]] = {
            "realised_tokens": (manifest.realised_tokens, tokens),
            "documents": (manifest.documents, documents),
            "copies": (manifest.copies, copies),
            "selector": (manifest.selector, self.judge.kind),
            "repeats": (manifest.repeats, sums.repeats),
            "domains": (manifest.domains, domains),
            "selectors": (
                manifest.selectors,
                {self.judge.kind: Share(manifest.requested_tokens, tokens, documents, copies, available)},
            ),
            "quarantine": (
                manifest.quarantine,
                {name: Tally(*found) for name, found in counted.status.items() if name != OK and found[0]},
            ),
            "exclusions": (
                manifest.exclusions,
                {name: Tally(*line) for name, line in zip(EXCLUSIONS, self.left_out.tolist(), strict=True)},
            ),
        }
        for number, part in enumerate(manifest.files):
            wanted[f"files.{part.path}.tokens"] = (part.tokens, sums.parts.get(number, 0))
        for column, (found, own) in wanted.items():
            for name, before, after in _differences(column, found, own):
                self.outcome.add(MANIFEST_NAME, None, None, name, before, after)

    def _check_plan(self, rows_agree: bool) -> None:
        manifest, strata = self.manifest, self.judge.plan.strata
        report = self.outcome.add
        quotas = [strata[name].quota for name in self.judge.strata]
        budget = manifest.config.get("mixture", {}).get("budget", manifest.requested_tokens)
        if not manifest.requested_tokens == budget == sum(quotas):
            report(MANIFEST_NAME, None, None, "requested_tokens", manifest.requested_tokens, f"{budget} = the quotas")
        if self.judge.kind == "quadmix":
            expected = sum(self.judge.closed_form)
            if abs(expected - budget) > TOLERANCE * budget:
                report(MANIFEST_NAME, None, None, "plan.multiplier", f"{expected} expected tokens", budget)
        for judge, place, _ in self._judges():
            if judge.kind == "quad":
                self._check_clusters(judge, place)
            self._check_rule(judge, place)
        self._check_members()
        self._check_domain_quotas()
        slack = 0.0 if self.exact else 1.0 + TOLERANCE * budget
        for name, quota, own in zip(self.judge.strata, quotas, self.judge.quotas(budget), strict=True):
            if abs(quota - own) > slack:
                report(MANIFEST_NAME, None, None, f"plan.strata.{name}.quota", quota, own)
            share = manifest.domains.get(name)
            if self.judge.strata is self.judge.domains and share is not None and share.requested != quota:
                report(MANIFEST_NAME, None, None, f"domains.{name}.requested", share.requested, quota)
        for name, taken in zip(self.judge.strata, self.taken.tolist(), strict=True):
            if strata[name].taken != taken:
                report(MANIFEST_NAME, None, None, f"plan.strata.{name}.taken", strata[name].taken, taken)
        if rows_agree:
            self._check_prefixes(quotas)

    def _judges(self) -> list[tuple[Judge, str, int]]:
        """(judge, its place in the manifest, tokens asked of it): the plan, or each member of a union."""
        if self.judge.kind != "union":
            return [(self.judge, "plan", self.manifest.requested_tokens)]
        told = self.judge.plan.members or {}
        return [(judge, f"plan.members.{name}.plan", told[name].budget) for name, judge in self.judge.members.items()]

    def _check_clusters(self, judge: Judge, place: str) -> None:
        """What the plan says of clusters follows from their benefits and the annotations."""
        plan = judge.plan
        assert plan.outcome is not None
        for cluster, name, found, own in plan.outcome.problems(judge.cluster_cells):
            self.outcome.add(MANIFEST_NAME, None, None, f"{place}.outcome.clusters.{cluster}.{name}", found, own)
        for name, before, after in _differences(f"{place}.fill", plan.fill or {}, judge.cell_fill):
            self.outcome.add(MANIFEST_NAME, None, None, name, before, after)

    def _check_components(self, judge: Judge, place: str, budget: int) -> None:
        """What the plan says of components follows from the scores."""
        fit = judge.plan.odis
        assert fit is not None
        for name, found, own in fit.problems(judge.score_sums, judge.census):
            self.outcome.add(MANIFEST_NAME, None, None, f"{place}.odis.{name}", found, own)
        if fit.budget != budget:
            self.outcome.add(MANIFEST_NAME, None, None, f"{place}.odis.budget", fit.budget, budget)

    def _check_rule(self, judge: Judge, place: str) -> None:
        """What a rule found out about the pool follows from the annotations."""
        rule = judge.plan.rule
        if rule.least_quantile is not None:
            own = judge.score_counts[0].score_at(rule.least_quantile)
            if rule.least_score != own:
                self.outcome.add(MANIFEST_NAME, None, None, f"{place}.rule.least_score", rule.least_score, own)
        if rule.clusters is not None and rule.clusters != judge.cluster_names:
            found, own_names = rule.clusters, judge.cluster_names
            self.outcome.add(MANIFEST_NAME, None, None, f"{place}.rule.clusters", found, own_names)

    def _check_members(self) -> None:
        """Members share the budget, and every domain's quota, by their shares."""
        told = self.judge.plan.members or {}
        names = list(self.judge.members)
        shares = [told[name].share for name in names]
        for name, own in zip(names, whole_shares(shares, self.manifest.requested_tokens), strict=True):
            if told[name].budget != own:
                column = f"plan.members.{name}.budget"
                self.outcome.add(MANIFEST_NAME, None, None, column, told[name].budget, own)
        for domain, quota in (self.judge.plan.domain_quotas or {}).items():
            for name, own in zip(names, whole_shares(shares, quota) if names else [], strict=True):
                found = (self.judge.members[name].plan.domain_quotas or {}).get(domain)
                if found != own:
                    column = f"plan.members.{name}.plan.domain_quotas.{domain}"
                    self.outcome.add(MANIFEST_NAME, None, None, column, found, own)

    def _check_domain_quotas(self) -> None:
        for domain, quota in (self.judge.plan.domain_quotas or {}).items():
            share = self.manifest.domains.get(domain)
            if share is None or share.requested != quota:
                found = None if share is None else share.requested
                self.outcome.add(MANIFEST_NAME, None, None, f"domains.{domain}.requested", found, quota)

    def _check_prefixes(self, quotas: Sequence[int]) -> None:
        """Every stratum took one of the two prefixes around its quota, the one that keeps the sum nearest."""
        known = []
        for index in range(len(self.judge.strata)):
            below, above = self.below.of(index), self.above.of(index)
            before = int(self.taken[index]) - int(below.tokens.sum())
            tokens = np.concatenate([below.tokens, above.tokens])
            known.append(Neighbourhood(before, tokens, before == 0, above.complete))
        wanted = self._settled(quotas, known)
        if wanted is None:
            # strata ran dry and others gave far more than their own quota: only the total can be judged
            half = max([int(self.below.of(i).tokens.max(initial=0)) for i in range(len(quotas))], default=0) / 2
            dry = all(self.above.of(index).tokens.size == 0 for index in range(len(quotas)))
            off = int(self.taken.sum()) - sum(quotas)
            if abs(off) > half and not dry:
                self.outcome.add(MANIFEST_NAME, None, None, "realised_tokens", int(self.taken.sum()), sum(quotas))
            return
        for index, (name, found, own) in enumerate(zip(self.judge.strata, self.taken.tolist(), wanted, strict=True)):
            if found != own and not self._close_call(index):
                column = f"plan.strata.{name}: tokens of the prefix nearest to the quota"
                self.outcome.add(MANIFEST_NAME, None, None, column, found, own)

    def _settled(self, quotas: Sequence[int], known: Sequence[Neighbourhood]) -> list[int] | None:
        """What every stratum must have taken; the members of a union settle one after the other."""
        members = [judge.strata for judge in self.judge.members.values()]
        if not members:
            return settle(quotas, known)
        inside = self.judge.plan.domain_quotas
        wanted: list[int] = []
        missing: dict[str, int] = {}
        for strata in members:
            mine = slice(len(wanted), len(wanted) + len(strata))
            domains = None if inside is None else [_domain_of(name, inside) for name in strata]
            settled = settle(quotas[mine], known[mine], missing, domains)
            if settled is None:
                return None
            for name, quota, taken in zip(domains or [""] * len(settled), quotas[mine], settled, strict=True):
                missing[name] = missing.get(name, 0) + quota - taken
            wanted += settled
        return wanted

    def _close_call(self, stratum: int) -> bool:
        """Whether the first copy that is out is within tolerance of the last one that is in."""
        below, above = self.below.of(stratum), self.above.of(stratum)
        if self.exact or not below.key.size or not above.key.size:
            return False
        return bool(above.key[0] - below.key[-1] <= TOLERANCE * abs(above.key[0]))

    def _compare(self, claim: Claims, column: str, agree: NDArray[np.bool_], wanted: Callable[[int], Any]) -> None:
        for row in np.flatnonzero(~agree):
            self._report(claim, int(row), column, claim.text(column, row), wanted(int(row)))

    def _report(self, claim: Claims, row: int, column: str, found: Any, wanted: Any) -> None:
        part = self.manifest.files[int(claim.part[row])].path
        self.outcome.add(part, int(claim.row[row]), claim.text(DOC_ID, row), column, found, wanted)


def _domain_of(stratum: str, domains: Iterable[str]) -> str:
    """The longest name of a domain that a stratum's name begins with."""
    fitting = [name for name in domains if stratum == name or stratum.startswith(f"{name} / ")]
    return max(fitting, key=len, default="")


def _namer(names: Sequence[str], index: Ints) -> Callable[[int], str]:
    return lambda row: names[index[row]] if index[row] >= 0 else "(not eligible)"


def _value_type(kind: pa.DataType) -> str:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return "string" if pa.types.is_large_string(value) else str(value)


@dataclass
class _Sums:
    """Sums over manifest rows as published. documents, copies, tokens: (n_domains,)."""

    n_domains: int

    def __post_init__(self) -> None:
        self.documents, self.copies, self.tokens = (np.zeros(self.n_domains, dtype=np.int64) for _ in range(3))
        self.repeats: dict[int, int] = {}
        self.parts: dict[int, int] = {}

    def add(self, domain: Ints, tokens: Ints, copies: Ints, part: Ints) -> None:
        np.add.at(self.documents, domain, 1)
        np.add.at(self.copies, domain, copies)
        np.add.at(self.tokens, domain, tokens * copies)
        for count, found in zip(*np.unique(copies, return_counts=True), strict=True):
            self.repeats[int(count)] = self.repeats.get(int(count), 0) + int(found)
        for number in np.unique(part):
            mine = part == number
            self.parts[int(number)] = self.parts.get(int(number), 0) + int((tokens[mine] * copies[mine]).sum())


def _joined(pieces: Sequence[Documents]) -> Documents | None:
    if not pieces:
        return None
    return Documents(
        np.concatenate([piece.position for piece in pieces]),
        np.concatenate([piece.hash for piece in pieces]),
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.domain for piece in pieces]),
        tuple(np.concatenate(columns) for columns in zip(*(piece.scores for piece in pieces), strict=True)),
        None if pieces[0].cluster is None else np.concatenate([piece.cluster for piece in pieces]),
    )


def _differences(path: str, found: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys(), key=str):
            yield from _differences(f"{path}.{name}", found.get(name), wanted.get(name))
    elif found != wanted:
        yield path, found, wanted
