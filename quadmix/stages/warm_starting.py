"""Trials of earlier searches (`search.warm_start`): which may be read at all, and which of them are believed.

An earlier search is an output folder whose search is finished. Its trials are read when what its losses mean is the
same: tokenizer, targets, proxies, tokens per trial, criteria, and the domains. A domain is the same when it has the
same name under the same labelling, and about the same text: mean normalised scores within 0.1 of each other and tokens
within a factor of 4. Anything else is refused with all reasons: shares of other domains are other mixtures. What cannot
be seen from outside is judged by prediction (quadmix.search.warm_start).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quadmix.config import RunConfig, SearchConfig
from quadmix.core.summary import PoolSummary
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint
from quadmix.search.result import SearchResult
from quadmix.search.warm_start import Earlier, Floats
from quadmix.stages.records import StageRecord, current, peek, stage_directory

DOMAINS_FILE = "domains.json"
RESULT_FILE = "result.json"
_STAGE = "search"
_SAME_PARTS = {
    "tokenizer": "tokenizer",
    "targets": "targets (their texts, or how they are halved)",
    "config.search.proxy": "search.proxy",
    "config.search.tokens_per_trial": "search.tokens_per_trial",
    "config.search.eval_tokens": "search.eval_tokens",
}
_QUALITY_APART = 0.1
_TOKENS_APART = 4.0


@dataclass(frozen=True)
class Source:
    """A finished search in another output, its files verified."""

    path: str
    directory: Path
    record: StageRecord


def domain_facts(config: RunConfig, summary: PoolSummary, whole_quality: Floats) -> bytes:
    """What identifies each domain, as JSON. whole_quality: (n_domains, n_criteria), of whole domains, normalised."""
    facts = {
        "labels": labels_of(config),
        "normalise": config.mixture.normalise,
        "domains": {
            name: {
                "tokens": int(summary.tokens[m]),
                "quality": {
                    criterion: float(whole_quality[m, n]) if np.isfinite(whole_quality[m, n]) else None
                    for n, criterion in enumerate(config.mixture.criteria)
                },
            }
            for m, name in enumerate(summary.domains)
        },
    }
    return (json.dumps(facts, allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


def labels_of(config: RunConfig) -> str:
    """Identity of how documents come to their domains."""
    return fingerprint(config.annotate.domains.model_dump_json(), str(config.pool.columns.domain))


def sources(config: RunConfig, settings: SearchConfig) -> list[Source]:
    """The searches that `search.warm_start` names. Raises ConfigError for folders without one, all at once."""
    found, problems = [], []
    for path in settings.warm_start:
        root = Path(path)
        record = current(root, _STAGE)
        if root.resolve() == Path(config.output).resolve():
            problems.append(f"search.warm_start: {path} is this run's own output; wanted that of an earlier run")
        elif record is None:
            problems.append(
                f"search.warm_start: {path} holds no finished search; wanted the `output` of an earlier run"
            )
        elif (reuse := peek(root, _STAGE, record.parts)).record is None:
            problems.append(f"search.warm_start: {path}: {reuse.why}; run that search again or leave it out")
        else:
            found.append(Source(path, stage_directory(root, _STAGE, record.fingerprint), record))
    if problems:
        raise ConfigError(problems)
    return found


def earlier_trials(
    found: Sequence[Source], parts: Mapping[str, str], facts: bytes, targets: Sequence[str]
) -> list[Earlier]:
    """Their finished thetas and baselines. parts: of this search; facts: `domain_facts` of its pool.

    Raises ConfigError with everything that does not match.
    """
    mine = json.loads(facts)
    problems: list[str] = []
    earlier = []
    for source in found:
        reasons = [
            f"another {what}" for part, what in _SAME_PARTS.items() if source.record.parts.get(part) != parts[part]
        ]
        stored = source.directory / DOMAINS_FILE
        reasons += _apart(json.loads(stored.read_bytes()), mine) if stored.is_file() else [f"it has no {DOMAINS_FILE}"]
        result = SearchResult.from_json((source.directory / RESULT_FILE).read_bytes())
        if sorted(result.targets) != sorted(targets):
            reasons.append(f"its targets are {', '.join(result.targets)}")
        problems += [f"search.warm_start: {source.path}: {reason}" for reason in reasons]
        if not reasons:
            done = [(one.mixture, one.losses) for one in result.trials if one.mixture and one.losses]
            losses = np.array([[measured[name] for name in targets] for _, measured in done])
            earlier.append(Earlier(source.path, [mixture for mixture, _ in done], losses))
    if problems:
        raise ConfigError([*problems, "search.warm_start: leave out what does not match; its trials say nothing here"])
    return earlier


def _apart(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    reasons = []
    if theirs["labels"] != mine["labels"]:
        reasons.append("its documents were labelled with domains in another way (annotate.domains)")
    if theirs["normalise"] != mine["normalise"]:
        reasons.append(f"mixture.normalise was {theirs['normalise']}, is {mine['normalise']}")
    before, now = theirs["domains"], mine["domains"]
    reasons += [f"domain {name!r} is new" for name in sorted(now.keys() - before.keys())]
    reasons += [f"domain {name!r} is gone" for name in sorted(before.keys() - now.keys())]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        ratio = max(old["tokens"], new["tokens"]) / max(min(old["tokens"], new["tokens"]), 1)
        if ratio > _TOKENS_APART:
            reasons.append(f"domain {name!r} had {old['tokens']:,} tokens, has {new['tokens']:,}")
        if old["quality"].keys() != new["quality"].keys():
            reasons.append(f"criteria were {', '.join(old['quality'])}, are {', '.join(new['quality'])}")
            break
        for criterion, value in new["quality"].items():
            was = old["quality"][criterion]
            if was is not None and value is not None and abs(was - value) > _QUALITY_APART:
                reasons.append(f"domain {name!r}: mean {criterion} was {was:.2f}, is {value:.2f}")
    return reasons
