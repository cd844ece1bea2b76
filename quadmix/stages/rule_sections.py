"""What the report says of a selection by rules: what passed a threshold, how far densities spread and how much of each
part of the pool was kept, what each cluster and each member of a union gave."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.portable import log
from quadmix.core.sketch import key_score, order_key
from quadmix.core.summary import COARSE_SHIFT, PoolSummary
from quadmix.manifest.model import Manifest
from quadmix.manifest.rows import read_rows
from quadmix.schema import DRAW, KEY, N_TOKENS
from quadmix.selectors.base import JOIN, domain_of
from quadmix.selectors.rules import log_density, score_of_log_density
from quadmix.stages.page import Section, Table

Floats = NDArray[np.float64]
_PARTS = 5  # of the pool, by density
_SHOWN = 50  # clusters in a table


def rule_sections(manifest: Manifest, summary: PoolSummary) -> list[Section]:
    """Nothing for the selectors of which domains and budget tell all."""
    kind = manifest.plan["kind"]
    if kind == "threshold":
        return [_threshold(manifest)]
    if kind == "density":
        return [_density(manifest, summary)]
    if kind == "cluster_quality":
        return [_clusters(manifest)]
    return [_members(manifest)] if kind == "union" else []


def _threshold(manifest: Manifest) -> Section:
    rule, (criterion,) = manifest.plan["rule"], manifest.plan["criteria"]
    below, beyond = (manifest.exclusions[name] for name in ("NOT_ELIGIBLE", "BEYOND_CUT"))
    source = "" if rule["least_quantile"] is None else f", the pool's quantile {rule['least_quantile']:g} of its tokens"
    text = (
        f"{criterion} must be at least {rule['least_score']:.6g}{source}. {below.docs:,} documents ({below.tokens:,} "
        f"tokens) are below it. Of what passes, {manifest.documents:,} documents were drawn at random and "
        f"{beyond.docs:,} ({beyond.tokens:,} tokens) left."
    )
    return Section("threshold", "Threshold", text)


def _density(manifest: Manifest, summary: PoolSummary) -> Section:
    rule, (criterion,) = manifest.plan["rule"], manifest.plan["criteria"]
    sketch = summary.sketches[summary.criteria.index(criterion)]
    logs = log_density(_middles(sketch.bins), rule["measures"])
    order = np.argsort(logs)
    logs, docs, tokens = logs[order], sketch.docs[order], sketch.tokens[order]
    weight = np.exp(-rule["exponent"] * (logs - logs[0]))
    effective = float((docs * weight).sum()) ** 2 / float((docs * weight**2).sum())
    upto = np.cumsum(docs) / docs.sum()
    low, high = (float(logs[np.searchsorted(upto, share)]) for share in (0.05, 0.95))
    text = (
        f"A document was kept with a probability in proportion to its density ({criterion}) to the power "
        f"−{rule['exponent']:g}. The densest twentieth is at least {np.exp(high - low):.3g} times as dense as the "
        f"sparsest, so its weight is {np.exp(rule['exponent'] * (high - low)):.3g} times as small. Effective spread: "
        f"weights as uneven as these are worth {effective:,.0f} equal ones, {100 * effective / docs.sum():.1f} % of "
        f"{int(docs.sum()):,} documents."
    )
    bounds = logs[np.searchsorted(np.cumsum(tokens) / tokens.sum(), np.arange(1, _PARTS) / _PARTS)]
    held = np.bincount(np.searchsorted(bounds, logs, side="left"), weights=tokens, minlength=_PARTS)
    kept = _kept(manifest, rule, sketch.bins, bounds)
    names = ("the sparsest fifth", "the next", "the middle", "the next", "the densest fifth")
    rows = tuple(
        (name, f"{int(have):,}", f"{int(took):,}", f"{100 * took / max(have, 1):.1f} %")
        for name, have, took in zip(names, held, kept, strict=True)
    )
    header = ("of the pool's tokens", "held", "selected", "of them")
    return Section("density", "Density: what was kept", text, "", (Table(header, rows),))


def _kept(manifest: Manifest, rule: dict[str, Any], bins: NDArray[np.int64], bounds: Floats) -> Floats:
    """(_PARTS,) selected tokens by density: a key is ln(draw) + exponent * ln(density). bins: of the pool's histogram;
    a document counts where its bin was counted."""
    total = np.zeros(_PARTS)
    for _, _, batch in read_rows(manifest, (KEY, DRAW, N_TOKENS)):
        key, draw, tokens = (batch.column(place).to_numpy() for place in range(3))
        scores = score_of_log_density((key - log(draw)) / rule["exponent"], rule["measures"]).astype(np.float32)
        place = np.searchsorted(bins, order_key(scores).astype(np.int64) >> COARSE_SHIFT)
        middle = _middles(bins[np.minimum(place, bins.size - 1)])
        logs = log_density(middle, rule["measures"])
        total += np.bincount(np.searchsorted(bounds, logs, side="left"), weights=tokens, minlength=_PARTS)
    return total


def _middles(bins: NDArray[np.int64]) -> Floats:
    """The score in the middle of each bin."""
    return key_score(((bins << COARSE_SHIFT) + (1 << COARSE_SHIFT - 1)).astype(np.uint32)).astype(np.float64)


def _clusters(manifest: Manifest) -> Section:
    names = manifest.plan["rule"]["clusters"]
    quota, taken = (dict.fromkeys(names, 0) for _ in range(2))
    within = manifest.plan["domain_quotas"] is not None
    for stratum, found in manifest.plan["strata"].items():
        name = _cluster_of(stratum, manifest) if within else stratum
        quota[name] += found["quota"]
        taken[name] += found["taken"]
    largest = sorted(names, key=lambda name: (-taken[name], name))
    rows = tuple((name, f"{quota[name]:,}", f"{taken[name]:,}") for name in largest[:_SHOWN])
    more = f" The largest {_SHOWN} of {len(names):,} are shown." if len(names) > _SHOWN else ""
    text = f"Every cluster gives tokens in proportion to its size, drawn by {manifest.plan['criteria'][0]}.{more}"
    return Section("clusters", "Clusters", text, "", (Table(("cluster", "asked", "selected tokens"), rows),))


def _cluster_of(stratum: str, manifest: Manifest) -> str:
    """The cluster in the name of one of its domains' strata."""
    return stratum.removeprefix(domain_of(stratum, manifest.plan["domains"]) + JOIN)


def _members(manifest: Manifest) -> Section:
    rows = []
    for name, member in manifest.plan["members"].items():
        taken = sum(
            found["taken"] for stratum, found in manifest.plan["strata"].items() if stratum.startswith(name + JOIN)
        )
        by = ", ".join(member["plan"]["criteria"]) or "–"
        rows.append(
            (
                name, member["plan"]["kind"], by, f"{member['budget']:,}", f"{taken:,}",
                f"{100 * taken / manifest.realised_tokens:.1f} %",
            )
        )  # fmt: skip
    text = (
        "In the order of their names each member takes its share of what the ones before left: what several want "
        "counts for the first."
    )
    header = ("member", "selector", "by", "asked", "selected tokens", "of all")
    return Section("members", "Union: what each member gives", text, "", (Table(header, tuple(rows)),))
