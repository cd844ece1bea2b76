"""Trials of earlier searches (`search.warm_start`): which may be read at all, and which of them are believed.

An earlier search is an output folder whose search is finished. Its trials are read when what its losses mean is the
same: tokenizer, targets, proxies, tokens per trial, criteria and labelling. Which of its domains are this pool's is
told by `quadmix.search.domain_match`: a trial with text of others is left out, and one whose pool lacked a domain of
this pool had none of it. Anything else is refused with all reasons. What cannot be seen from outside is judged by
prediction (`quadmix.search.warm_start`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from quadmix.config import RunConfig, SearchConfig
from quadmix.errors import ConfigError
from quadmix.hashing import fingerprint
from quadmix.progress import Progress
from quadmix.search.domain_match import match_domains
from quadmix.search.result import SearchResult
from quadmix.search.warm_start import Earlier, Floats
from quadmix.stages.annotate import Annotated
from quadmix.stages.records import StageRecord, current, peek, stage_directory

DOMAINS_FILE = "domains.json"
RESULT_FILE = "result.json"
_STAGE = "search"
_LEAVE_OUT = "search.warm_start: leave out what does not match; its trials say nothing here"
_SAME_PARTS = {
    "tokenizer": "tokenizer",
    "targets": "targets (their texts, or how they are halved)",
    "config.search.proxy": "search.proxy",
    "config.search.tokens_per_trial": "search.tokens_per_trial",
    "config.search.eval_tokens": "search.eval_tokens",
}


@dataclass(frozen=True)
class Source:
    """A finished search in another output, its files verified."""

    path: str
    directory: Path
    record: StageRecord

    @cached_property
    def result(self) -> SearchResult:
        """What it found, read once."""
        return SearchResult.from_json((self.directory / RESULT_FILE).read_bytes())


def domain_facts(config: RunConfig, annotated: Annotated, whole_quality: Floats) -> bytes:
    """What identifies each domain, as JSON. whole_quality: (n_domains, n_criteria), of whole domains, normalised."""
    summary = annotated.summary
    facts = {
        "labels": labels_of(config, annotated.record),
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


def labels_of(config: RunConfig, annotations: StageRecord) -> str:
    """Identity of how documents come to their domains. Columns and labelled examples give names that mean the same in
    another pool; clusters' names are numbers of one fitted model."""
    section = config.annotate.domains
    if section.kind == "column":
        return fingerprint("column", str(config.pool.columns.domain))
    if section.kind == "clusters":
        return str(annotations.summary["labeler"]["fingerprint"])
    return fingerprint(section.model_dump_json())


def sources(
    config: RunConfig, settings: SearchConfig, parts: Mapping[str, str], targets: Sequence[str]
) -> list[Source]:
    """The searches that `search.warm_start` names, their losses of the same kind as this one's. parts: of this search.

    Raises ConfigError with everything that does not match, before anything is trained or tokenised.
    """
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
            source = Source(path, stage_directory(root, _STAGE, record.fingerprint), record)
            problems += [f"search.warm_start: {path}: {reason}" for reason in _other_losses(source, parts, targets)]
            found.append(source)
    if problems:
        raise ConfigError([*problems, _LEAVE_OUT])
    return found


def _other_losses(source: Source, parts: Mapping[str, str], targets: Sequence[str]) -> list[str]:
    """Why its losses mean something else than this search's."""
    reasons = [f"another {what}" for part, what in _SAME_PARTS.items() if source.record.parts.get(part) != parts[part]]
    if not (source.directory / DOMAINS_FILE).is_file():
        reasons.append(f"it has no {DOMAINS_FILE}")
    theirs = source.result.targets
    if sorted(theirs) != sorted(targets):
        reasons.append(f"its targets are {', '.join(theirs)}")
    return reasons


def earlier_trials(found: Sequence[Source], facts: bytes, targets: Sequence[str], progress: Progress) -> list[Earlier]:
    """Their finished thetas and baselines, as mixtures of this pool's domains. facts: `domain_facts` of this pool.

    Says which domains differ and how many trials that costs. Raises ConfigError where criteria or labels differ, or
    none are left of a search.
    """
    mine = json.loads(facts)
    problems: list[str] = []
    earlier = []
    for source in found:
        match = match_domains(json.loads((source.directory / DOMAINS_FILE).read_bytes()), mine)
        done = [(one.mixture, one.losses) for one in source.result.trials if one.mixture and one.losses]
        kept = [(match.translated(mixture), losses) for mixture, losses in done if match.holds(mixture)]
        reasons = [*match.refused]
        if not reasons and not kept:
            reasons = [
                *match.differences,
                f"each of its {len(done)} trials has text of domains that are gone or others",
            ]
        problems += [f"search.warm_start: {source.path}: {reason}" for reason in reasons]
        if reasons:
            continue
        if match.differences:
            progress.say(
                f"search: {source.path}: {'; '.join(match.differences)}. {len(kept)} of its {len(done)} trials can be "
                "read as mixtures of this pool"
            )
        losses = np.array([[measured[name] for name in targets] for _, measured in kept])
        earlier.append(Earlier(source.path, [mixture for mixture, _ in kept], losses))
    if problems:
        raise ConfigError([*problems, _LEAVE_OUT])
    return earlier
