"""Why one document is in a manifest, or is not: its scores, quality, rank, expected copies, draw, key, cut, in words.

The numbers are computed from the annotations as `verify` does, so a document that was left out has them too; on a
large pool that takes the few passes over the annotations that ranks need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from quadmix.errors import ConfigError
from quadmix.manifest.model import Manifest
from quadmix.manifest.published_plan import Plan
from quadmix.manifest.recompute import Floats, id_hashes
from quadmix.manifest.recount import Documents, Judge, Judged, annotation_paths, tally
from quadmix.manifest.rows import read_rows
from quadmix.schema import CLUSTER, COPIES, DOC_HASH, DOC_ID, DOMAIN, N_TOKENS, OK, ROW, SCORE_PREFIX, SHARD, STATUS

_LOADINGS_SHOWN = 3  # dimensions that name a component


@dataclass(frozen=True)
class Explanation:
    """One document and the plan's view of it. None where it does not apply (quarantined, another selector)."""

    doc_id: str
    shard: str
    row: int
    status: str
    copies: int  # in the manifest
    n_tokens: int | None = None
    domain: str | None = None
    stratum: str | None = None
    scores: dict[str, float] | None = None
    quality: float | None = None
    quality_rank: float | None = None
    expected_copies: float | None = None
    draw: float | None = None
    key: float | None = None
    cut: float | str | None = None
    cluster: str | None = None
    pulls: int | None = None
    mean_benefit: float | None = None
    bound: float | None = None
    component: str | None = None
    quantiles: dict[str, float] | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """One line per known number, then the reason."""
        known = [(name, value) for name, value in asdict(self).items() if value is not None and name != "why"]
        width = max(len(name) for name, _ in known)
        lines = []
        for name, value in known:
            if isinstance(value, dict):
                value = ", ".join(f"{key} {number:.6g}" for key, number in value.items())
            lines.append(f"{name.replace('_', ' '):<{width}}  {value}")
        return [*lines, self.why]


def explain(manifest: Manifest, doc_id: str, say: Callable[[str], None] = lambda text: None) -> Explanation:
    """Explain one document of the pool; `ConfigError` if the annotations hold no such id."""
    paths = annotation_paths(manifest)
    say("looking for the document")
    found = _find(paths, doc_id)
    if found is None:
        raise ConfigError(
            f"no document {doc_id!r} among the {len(paths)} annotation files of this manifest; ids are compared byte "
            "by byte, and a row whose id could not be read is only in the quarantine file"
        )
    position, row = found
    place = {"doc_id": doc_id, "shard": row[SHARD], "row": row[ROW], "status": row[STATUS]}
    if row[STATUS] != OK:
        return Explanation(**place, copies=0, why=f"Not selected: the row is quarantined ({row[STATUS]}).")
    plan = Plan.model_validate(manifest.plan)
    say("ranking it among all documents")
    judge = Judge(manifest, plan, paths, tally(paths))
    judged = judge(_document(row, position, plan, judge.cluster_codes))
    stratum = int(judged.stratum[0])
    name = judge.strata[stratum] if stratum >= 0 else None
    explained = Explanation(
        **place,
        copies=_copies(manifest, row),
        n_tokens=row[N_TOKENS],
        domain=row[DOMAIN],
        stratum=name,
        scores={
            column.removeprefix(SCORE_PREFIX): value
            for column, value in row.items()
            if column.startswith(SCORE_PREFIX) and value is not None
        },
        quality=_only(judged.quality),
        quality_rank=_only(judged.rank),
        expected_copies=_only(judged.expected),
        draw=_only(judged.draw) if name is not None else None,
        key=_only(judged.key) if name is not None else None,
        cut=plan.strata[name].cut_key if name is not None else None,
    )
    return _with_reason(explained, plan, judged, row.get(CLUSTER), judge)


def _with_reason(document: Explanation, plan: Plan, judged: Judged, cluster: str | None, judge: Judge) -> Explanation:
    if plan.kind == "union":
        return _with_members(document, plan, judge)
    if plan.kind == "quad":
        return _with_cluster(document, plan, cluster)
    if plan.kind == "odis":
        return _with_component(document, plan, judged)
    if plan.kind == "cluster_quality" and document.stratum is not None:
        document = replace(document, cluster=cluster)
    return replace(document, why=_why(document, plan))


def _with_members(document: Explanation, plan: Plan, judge: Judge) -> Explanation:
    """The explanation by the member that takes the document, or by the last one that might have."""
    if document.stratum is None:
        return replace(document, why="Not selected: no member of the union may take it.")
    name, _, stratum = document.stratum.partition(" / ")
    own = plan.member_plans()[name]
    why = _why(replace(document, stratum=stratum), own)
    before = list(judge.members)[: list(judge.members).index(name)]
    if document.copies:
        told = f" The member {name!r} takes it"
        told += f"; {', '.join(before)}, which choose before it, did not." if before else ", which chooses first."
    else:
        told = f" So says {name!r}, the last member of the union that might have taken it."
    return replace(document, why=why + told)


def _only(values: Floats | None) -> float | None:
    return None if values is None else float(values[0])


def _find(paths: list[Path], doc_id: str) -> tuple[int, dict[str, Any]] | None:
    """(row number in its file, the row) of the document; of two with one id, the one of status ok."""
    number, other = id_hashes([doc_id])[0], None
    for path in paths:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            start = 0
            for group in range(file.num_row_groups):
                hashes = file.read_row_group(group, columns=[DOC_HASH])[DOC_HASH]
                for at in np.flatnonzero(hashes.to_numpy() == number):
                    row = file.read_row_group(group).slice(int(at), 1).to_pylist()[0]
                    if row[DOC_ID] == doc_id and row[STATUS] == OK:
                        return start + int(at), row
                    if row[DOC_ID] == doc_id:
                        other = start + int(at), row
                start += len(hashes)
    return other


def _document(row: dict[str, Any], position: int, plan: Plan, codes: Mapping[str, int] | None) -> Documents:
    return Documents(
        np.array([position]),
        np.array([row[DOC_HASH]], dtype=np.uint64),
        np.array([row[N_TOKENS]], dtype=np.int64),
        np.array([plan.domains.index(row[DOMAIN])]),
        tuple(np.array([row[SCORE_PREFIX + name]], dtype=np.float32) for name in plan.criteria),
        None if codes is None else np.array([codes.get(row[CLUSTER], -1)]),
    )


def _copies(manifest: Manifest, row: dict[str, Any]) -> int:
    """Copies of an annotated row in the manifest."""
    for _, _, batch in read_rows(manifest, (SHARD, ROW, COPIES)):
        for at in np.flatnonzero(batch.column(1).to_numpy() == row[ROW]):
            if batch.column(0)[int(at)].as_py() == row[SHARD]:
                return int(batch.column(2)[int(at)].as_py())
    return 0


def _with_cluster(document: Explanation, plan: Plan, name: str | None) -> Explanation:
    """The explanation with what Quad found out about the document's cluster."""
    assert plan.outcome is not None
    found = next((cluster for cluster in plan.outcome.clusters if cluster.name == name), None)
    if found is None:
        return replace(document, why="Not selected: it is in none of the clusters that Quad chose from.")
    document = replace(
        document, cluster=found.name, pulls=found.pulls, mean_benefit=found.mean, bound=found.bound,
    )  # fmt: skip
    text = f"The cluster {found.name!r}"
    if found.scored:
        side = "above" if found.kept else "not above"
        text += (
            f" had {found.scored:,} of its {found.documents:,} documents scored in {found.pulls:,} pulls: mean benefit "
            f"{found.mean:.6g}, less its error {found.bound:.6g}, {side} the threshold {plan.outcome.threshold:.6g}."
        )
    elif found.mean is not None:
        text += f" was never scored; other clusters let expect a mean benefit of {found.mean:.6g}."
    else:
        text += " was not scored."
    if plan.fill is None:
        text += f" Of its {found.tokens:,} tokens {found.granted:,} were granted and {found.fill:,} are fill."
    elif document.stratum is not None:
        quota, fill = plan.strata[document.stratum].quota, plan.fill.get(document.stratum, 0)
        text += (
            f" The domain {document.domain!r} takes {quota:,} tokens of it, {quota - fill:,} for what it was granted "
            f"and {fill:,} as fill."
        )
    return replace(document, why=f"{_why(document, plan)} {text}")


def _with_component(document: Explanation, plan: Plan, judged: Judged) -> Explanation:
    """The explanation with the component that the document belongs to and its quantile in each."""
    fit = plan.odis
    assert fit is not None
    assert judged.quantiles is not None
    quantiles = dict(zip((one.name for one in fit.components), judged.quantiles[0].tolist(), strict=True))
    assert document.stratum is not None
    own, best = document.stratum.rpartition(" / ")[2], max(quantiles, key=quantiles.__getitem__)
    document = replace(document, component=own, quantiles=quantiles)
    text = f"It belongs to {own}: {quantiles[best]:.4f} is its highest quantile (1 is best)"
    if own != best:
        text = (
            f"Its highest quantile is {quantiles[best]:.4f} in {best} (1 is best), but that in {own}, "
            f"{quantiles[own]:.4f}, is below the floor {fit.floor:g}, so it belongs to {own}"
        )
    largest = sorted(
        zip(fit.dimensions, next(one for one in fit.components if one.name == own).loadings, strict=True),
        key=lambda pair: -abs(pair[1]),
    )[:_LOADINGS_SHOWN]
    named = ", ".join(f"{dimension.name} {loading:+.2f}" for dimension, loading in largest)
    return replace(document, why=f"{_why(document, plan)} {text}. {own} goes most with {named}.")


def _why(document: Explanation, plan: Plan) -> str:
    if document.stratum is None and plan.kind == "threshold":
        assert document.scores is not None
        score = document.scores[plan.criteria[0]]
        return f"Not selected: its {plan.criteria[0]}, {score:.6g}, is below the threshold {plan.rule.least_score:.6g}."
    if document.stratum is None and plan.kind == "cluster_quality":
        return "Not selected: it has no cluster."
    if document.stratum is None:
        assert document.quality_rank is not None
        assert document.domain is not None
        cutoff = plan.curve(document.domain).cutoff
        return (
            f"Not selected: its quality rank {document.quality_rank:.4f} (0 is best) in {document.domain!r} is beyond "
            f"the cutoff {cutoff:.4f}, and the floor is 0, so its expected copies are 0."
        )
    cut, key = document.cut, document.key
    where = f"the stratum {document.stratum!r}"
    if plan.kind == "odis":
        rule = f"its key {key:.6g} is minus its component, in deviations from the mean"
    elif plan.kind == "topk":
        rule = f"its key {key:.6g} is minus its score {plan.criteria[0]}"
    elif plan.kind in ("gumbel", "cluster_quality"):
        rule = (
            f"its key {key:.6g} is minus its score {plan.criteria[0]} / {plan.rule.temperature:g} and minus a Gumbel "
            f"draw, made from {document.draw:.6g}"
        )
    elif plan.kind == "criteria_mix":
        rule = (
            f"its key {key:.6g} is the least of its depths (the share of the pool's tokens that score as well) in "
            f"{', '.join(plan.criteria)}, each over its share"
        )
    elif plan.kind == "density":
        rule = (
            f"its key {key:.6g} is the logarithm of its draw {document.draw:.6g} and {plan.rule.exponent:g} times that"
        )
        rule += " of its density"
    elif plan.kind == "quadmix":
        rule = f"its key {key:.6g} is its draw {document.draw:.6g} / its expected copies {document.expected_copies:.6g}"
    else:
        rule = f"its key {key:.6g} is its draw"
    if cut == "all":
        limit = f"{where} was taken whole, up to {plan.max_copies} copies a document"
    elif cut == "none":
        limit = f"nothing was taken from {where}"
    else:
        limit = f"{where} was cut at key {cut:.6g}, where its tokens came nearest to the quota"
    if not document.copies:
        return f"Not selected: {rule}; {limit}."
    step = f"{1 / document.expected_copies:.6g}" if document.expected_copies else "1"
    more = (
        f" Each further copy's key is {step} larger."
        if plan.kind in ("quadmix", "natural", "uniform", "weights") and plan.max_copies > 1
        else ""
    )
    copies = "1 copy" if document.copies == 1 else f"{document.copies} copies"
    return f"Selected, {copies}: {rule}; {limit}.{more}"
