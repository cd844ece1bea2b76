"""Is the annotated pool good enough to decide from? Thresholds, domains and leaks, judged with all counts at hand."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quadmix.config import RunConfig
from quadmix.config_annotate import ColumnDomainConfig, DomainConfig
from quadmix.core.summary import PoolSummary
from quadmix.errors import ConfigError, InputError
from quadmix.pool.column_paths import nearest
from quadmix.pool.quarantine import HARMLESS
from quadmix.pool.units import InputFile
from quadmix.schema import RowReason

_SHOWN = 20


@dataclass(frozen=True)
class Outcome:
    """All units together. quarantine: {reason: [docs, tokens]}, reasons in name order; unknown: domains that the
    config does not list, with their rows; digests: sha256 by shard where one was taken.
    """

    rows: int
    ok_docs: int
    quarantine: dict[str, list[int]]
    unknown: dict[str, int]
    fixes: dict[str, int]
    shared_target_ids: int
    digests: dict[str, str]

    @classmethod
    def of(cls, payloads: Sequence[Mapping[str, Any]], prepared: Mapping[str, Mapping[str, Any]]) -> Outcome:
        """From the pieces of all units and of the inputs that were prepared (by shard)."""
        quarantine: dict[str, list[int]] = {}
        unknown: Counter[str] = Counter()
        fixes: Counter[str] = Counter()
        digests = {shard: str(payload["sha256"]) for shard, payload in prepared.items()}
        for payload in payloads:
            for reason, (docs, tokens) in payload["quarantine"].items():
                held = quarantine.setdefault(reason, [0, 0])
                held[0] += docs
                held[1] += tokens
            unknown.update(payload["unknown_domains"])
            digests |= payload["sha256"]
        for payload in (*payloads, *prepared.values()):
            fixes.update(payload["fixes"])
        rows = sum(payload["rows"] for payload in payloads)
        ok_docs = sum(payload["ok"][0] for payload in payloads)
        if rows != ok_docs + sum(docs for docs, _ in quarantine.values()):
            raise AssertionError(f"annotate: {rows} rows are not {ok_docs} usable + quarantined {quarantine}")
        shared = sum(payload["shared_target_ids"] for payload in payloads)
        return cls(
            rows, ok_docs, dict(sorted(quarantine.items())), dict(sorted(unknown.items())), dict(sorted(fixes.items())),
            shared, digests,
        )  # fmt: skip

    def judge(self, config: RunConfig, summary: PoolSummary, where: str) -> None:
        """Raise InputError when the pool must not be used, ConfigError for domains without documents.

        where: the file that lists the quarantined rows.
        """
        next_step = f"the rows are listed in {where}; nothing was published"
        self._judge_leaks(config, next_step)
        self._judge_domains(config.annotate.domains, next_step)
        counts = ", ".join(f"{reason} {docs}" for reason, (docs, _) in self.quarantine.items())
        faulty = sum(docs for reason, (docs, _) in self.quarantine.items() if RowReason(reason) not in HARMLESS)
        limit = config.pool.max_quarantine_fraction
        if faulty > limit * self.rows:
            raise InputError(
                f"{faulty} of {self.rows} rows ({faulty / self.rows:.2%}) cannot be used, at most {limit:.2%} are "
                f"allowed (pool.max_quarantine_fraction): {counts}. {next_step}; repair the input or raise the limit"
            )
        if not self.ok_docs:
            raise InputError(
                f"no usable row is left of {self.rows} ({counts or 'the input holds no rows'}). {next_step}"
            )
        if isinstance(config.annotate.domains, ColumnDomainConfig):
            _require_documents(config.annotate.domains, summary)

    def as_json(self, config: RunConfig, summary: PoolSummary, warnings: Sequence[str]) -> dict[str, Any]:
        """The counts of the stage's record."""
        columns = zip(summary.domains, summary.docs, summary.tokens, summary.bytes, strict=True)
        return {
            "rows": self.rows,
            "ok_docs": self.ok_docs,
            "ok_tokens": summary.total_tokens,
            "domains": {
                name: {"docs": int(docs), "tokens": int(tokens), "bytes": int(n_bytes)}
                for name, docs, tokens, n_bytes in columns
            },
            "quarantine": {
                reason: {"docs": docs, "tokens": tokens} for reason, (docs, tokens) in self.quarantine.items()
            },
            "warnings": [*warnings, *self._warnings(config), *_confusable(summary.domains)],
        }

    def input_json(self, file: InputFile) -> dict[str, Any]:
        """One input of the stage's record: its sha256, or the digest of its end where pages carry checksums."""
        known = {"sha256": self.digests[file.shard]} if file.shard in self.digests else {"footer": file.footer}
        return {"shard": file.shard, "size": file.size, **known}

    def _judge_leaks(self, config: RunConfig, next_step: str) -> None:
        leaked = self.quarantine.get(RowReason.TARGET_LEAK, [0, 0])[0]
        if leaked and config.annotate.leakage == "refuse":
            raise InputError(
                f"TARGET_LEAK: {leaked} document(s) of the pool are documents of a target set or exact duplicates of "
                f"one; a proxy would be tested on what it was trained on. {next_step}; remove them, or set "
                "annotate.leakage: exclude to leave them out"
            )

    def _judge_domains(self, domains: DomainConfig, next_step: str) -> None:
        strangers = self.quarantine.get(RowReason.UNKNOWN_DOMAIN, [0, 0])[0]
        if strangers and isinstance(domains, ColumnDomainConfig) and domains.unknown == "error":
            raise InputError(
                f"UNKNOWN_DOMAIN: {strangers} document(s) have a domain that annotate.domains.allowed does not list: "
                f"{self._strangers()}. {next_step}; list the domains, or set annotate.domains.unknown: ignore | default"
            )

    def _strangers(self) -> str:
        return ", ".join(f"{name!r} {count}" for name, count in list(self.unknown.items())[:_SHOWN])

    def _warnings(self, config: RunConfig) -> list[str]:
        """Sentences for the report about what was put right or looks wrong."""
        warnings = [f"FIXED: {what}: {count} row(s)" for what, count in self.fixes.items()]
        if self.shared_target_ids:
            warnings.append(
                f"TARGET_ID: {self.shared_target_ids} usable document(s) share an id, though not the text, with a "
                "document of a target set"
            )
        domains = config.annotate.domains
        if self.unknown and isinstance(domains, ColumnDomainConfig) and domains.unknown == "default":
            warnings.append(f"UNKNOWN_DOMAIN: put into {domains.default!r}: {self._strangers()}")
        return warnings


def _require_documents(domains: ColumnDomainConfig, summary: PoolSummary) -> None:
    """Raise ConfigError for domains that the config lists and no document has (reliability.md, 77)."""
    empty = [name for name in domains.allowed or () if name not in summary.domains]
    if empty:
        raise ConfigError(
            [
                f"annotate.domains.allowed: EMPTY_DOMAIN {name!r} has no documents; the pool's domains are "
                f"{', '.join(summary.domains[:_SHOWN])}{nearest(name, summary.domains)}"
                for name in empty
            ]
        )


def _confusable(names: Sequence[str]) -> list[str]:
    """Domains that look alike and differ in bytes only (reliability.md, 48)."""
    looks: dict[str, list[str]] = {}
    for name in names:
        looks.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return [
        f"CONFUSABLE_DOMAIN: {' and '.join(ascii(name) for name in twins)} look alike but are counted apart"
        for twins in looks.values()
        if len(twins) > 1
    ]
