"""The comparison: annotate once, search once where an entry asks for it, select every entry, train, measure, tell.

What can be refused is refused before anything is trained: entries that need neither the search nor a model of their
own are selected first. Nothing here depends on the engine or on what was done before a kill: selections are stages of
their folders, target models lie in a journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quadmix.config import CompareConfig, RunConfig
from quadmix.engine.base import Engine, SchedulesGpus
from quadmix.errors import BudgetError, ConfigError
from quadmix.hashing import fingerprint
from quadmix.manifest.model import Manifest
from quadmix.progress import Progress
from quadmix.scorers.tokens import FileTokenizer, load_tokenizer
from quadmix.search.journal import Journal
from quadmix.search.result import SearchResult
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.compare.costs import Costs, parameters, training_flops
from quadmix.stages.compare.documents import Draw, Reading, reading_file, tokenised
from quadmix.stages.compare.entries import Contender, base_seeds, contenders, refuse_early, select_all
from quadmix.stages.compare.page import write_page
from quadmix.stages.compare.result import Bits, Comparison, Contestant, Cost, Target, in_words, judged, with_mean
from quadmix.stages.compare.tables import markdown
from quadmix.stages.compare.training import TargetJob, TrainTargets, train_targets, training_parts, write_halves
from quadmix.stages.diversity.facts import NothingToMeasure
from quadmix.stages.diversity.measuring import Selection
from quadmix.stages.diversity.stage import diversity_of
from quadmix.stages.label import answered_tokens
from quadmix.stages.page import require_report
from quadmix.stages.records import begin, run_lock, write_atomically
from quadmix.stages.swarm import Outcome
from quadmix.stages.targets import load_targets

STAGE = "compare"
RESULT_FILE = "compare.json"
MARKDOWN_FILE = "compare.md"


@dataclass
class CompareRun:
    """One comparison under the lock of its output. `stage` is where it stands, for the last line of an error."""

    config: RunConfig
    engine: Engine
    progress: Progress
    stage: str = "annotate"

    def run(self) -> Comparison:
        """Bring everything up to date, write the results; finished work that still fits is reused."""
        if self.config.compare is None:
            raise ConfigError("compare: missing, wanted a section with `entries`, each with `name` and `select`")
        if self.config.tokenizer is None:
            raise ConfigError("tokenizer: missing, but a comparison trains target models on tokens")
        require_report()  # a missing package is found now
        with run_lock(Path(self.config.output)):
            return self._run(self.config.compare, load_tokenizer(self.config.tokenizer))

    def _run(self, compare: CompareConfig, tokenizer: FileTokenizer) -> Comparison:
        annotated = annotate(self.config, self.engine, self.progress)
        self.stage = "select"
        chosen, seeds = contenders(self.config), base_seeds(self.config)
        refuse_early(chosen, annotated)
        at_once = [one for one in chosen if not one.asks_search and not one.trains]
        manifests, _ = self._select(at_once, annotated, None, seeds)
        search = self._search(chosen, annotated)
        self.stage = "select"
        late, unmet = self._select([one for one in chosen if one not in at_once], annotated, search, seeds)
        if compare.against in unmet:
            raise BudgetError(f"compare.against: {compare.against!r} cannot be built: {unmet[compare.against]}")
        manifests |= late
        unbuilt = [one for one in chosen if one.name in unmet]
        chosen = [one for one in chosen if one.name not in unmet]
        self.stage = STAGE
        training = _Training(self, compare, annotated, tokenizer)
        readings, outcomes, targets = training.run(chosen, manifests, seeds)
        costs = Costs(
            self.engine, annotated, search, tokenizer.vocab_size, self.config.annotate.scorers,
            answered_tokens(self.config),
        )  # fmt: skip
        bits = {one.name: _bits(outcomes[one.name], list(targets)) for one in chosen}
        entries = [
            _contestant(
                one, manifests[one.name], readings[one.name], outcomes[one.name], bits, compare,
                costs.of(one, manifests[one.name][0].plan.get("criteria", [])),
            )
            for one in chosen
        ]  # fmt: skip
        reference = bits[compare.against]
        entries += [
            _unbuilt(one, unmet[one.name], reference, compare, costs.of(one, [], built=False)) for one in unbuilt
        ]
        tokens = compare.train_tokens or self.config.mixture.budget
        found = Comparison(
            against=compare.against,
            seeds=compare.seeds,
            confidence=compare.confidence,
            budget=self.config.mixture.budget,
            train_tokens=tokens,
            pool_documents=int(annotated.summary.docs.sum()),
            pool_tokens=annotated.summary.total_tokens,
            targets=targets,
            model=compare.model.model_dump(mode="json"),
            model_parameters=parameters(compare.model, tokenizer.vocab_size),
            model_flops=tokens * training_flops(compare.model, tokenizer.vocab_size),
            entries=entries,
            diversity=self._diversity(annotated, {one.name: manifests[one.name][0] for one in chosen}),
        )
        self._write(found)
        return found

    def _diversity(self, annotated: Annotated, manifests: Mapping[str, Manifest]) -> dict[str, Any] | None:
        """Of the first selection of every entry; None where the config or the pool has none."""
        asked = self.config.diversity
        if asked is None:
            return None
        selections = [Selection.of_manifest(name, manifest) for name, manifest in manifests.items()]
        budget = self.config.mixture.budget
        try:
            facts = diversity_of(self.config, asked, self.engine, self.progress, annotated, selections, budget)
        except NothingToMeasure as nothing:
            self.progress.say(str(nothing))
            return None
        return facts.to_json()

    def _select(
        self, chosen: Sequence[Contender], annotated: Annotated, search: SearchResult | None, seeds: Sequence[int]
    ) -> tuple[dict[str, list[Manifest]], dict[str, str]]:
        return select_all(chosen, self.engine, self.progress, annotated, search, seeds)

    def _search(self, chosen: Sequence[Contender], annotated: Annotated) -> SearchResult | None:
        if not any(one.asks_search for one in chosen):
            return None
        from quadmix.stages.search import search

        self.stage = "search"
        return search(self.config, self.engine, self.progress, annotated)

    def _write(self, found: Comparison) -> None:
        output = Path(self.config.output)
        write_atomically(output / RESULT_FILE, found.to_json())
        write_atomically(output / MARKDOWN_FILE, ("\n".join(markdown(found)) + "\n").encode("utf-8"))
        self.progress.say(f"compare: {in_words(found)}")
        self.progress.say(f"compare: {write_page(output, found, self.config)}")


@dataclass(frozen=True)
class _Training:
    """Readings, tokens and target models of all contenders."""

    run_: CompareRun
    compare: CompareConfig
    annotated: Annotated
    tokenizer: FileTokenizer

    def run(
        self, chosen: Sequence[Contender], manifests: dict[str, list[Manifest]], seeds: Sequence[int]
    ) -> tuple[dict[str, list[Reading]], dict[str, list[Outcome]], dict[str, Target]]:
        """Readings and outcomes of every contender, one a seed, and what was measured on."""
        config, engine, progress = self.run_.config, self.run_.engine, self.run_.progress
        if isinstance(engine, SchedulesGpus):
            engine.require_gpus(STAGE)
        halves = load_targets(config)
        parts = training_parts(config, self.compare, self.annotated, self.tokenizer, halves)
        directory = begin(Path(config.output), STAGE, parts)
        evaluated = write_halves(halves, self.tokenizer, self.compare, config.seed, directory)
        # seed by seed: what is finished early compares all entries
        order = [(one, number) for number in range(len(seeds)) for one in chosen]
        readings = self._readings(directory, [manifests[one.name][number] for one, number in order], seeds, len(chosen))
        segments = tokenised(config, engine, progress, self.annotated, self.tokenizer, readings)
        task = TrainTargets(
            str(directory), fingerprint(*(text for item in sorted(parts.items()) for text in item)), segments,
            tuple((name, path) for name, (path, _, _) in evaluated.items()), self.compare.model,
            self.tokenizer.vocab_size,
        )  # fmt: skip
        jobs = [
            TargetJob(place, f"{one.name}-{number}", seeds[number], readings[place])
            for place, (one, number) in enumerate(order)
        ]
        journal = Journal(directory / "journal.jsonl")
        if journal.damaged:
            progress.say(f"compare: {journal.damaged} damaged lines of the journal are ignored and done again")
        trained = train_targets(engine, progress, task, jobs, journal)
        width = len(chosen)
        return (
            {one.name: readings[place::width] for place, one in enumerate(chosen)},
            {one.name: trained[place::width] for place, one in enumerate(chosen)},
            {name: Target(tokens, size) for name, (_, tokens, size) in evaluated.items()},
        )

    def _readings(
        self, directory: Path, manifests: Sequence[Manifest], seeds: Sequence[int], width: int
    ) -> list[Reading]:
        config = self.run_.config
        task = Draw(self.annotated.summary.domains, self.compare.train_tokens or config.mixture.budget)
        items = [
            (reading_file(directory, place), str(manifest.folder), seeds[place // width])
            for place, manifest in enumerate(manifests)
        ]
        done = dict(self.run_.engine.map(task, items, label="compare: drawing what is read"))
        return [done[place] for place in range(len(items))]


def _bits(outcomes: Sequence[Outcome], targets: Sequence[str]) -> Bits:
    return with_mean(
        {
            target: [one.bits_per_byte[target] if one.bits_per_byte is not None else None for one in outcomes]
            for target in targets
        }
    )


def _contestant(
    one: Contender,
    manifests: Sequence[Manifest],
    readings: Sequence[Reading],
    outcomes: Sequence[Outcome],
    bits: dict[str, Bits],
    compare: CompareConfig,
    costs: list[Cost],
) -> Contestant:
    reference = None if one.name == compare.against else bits[compare.against]
    level, lead, words = judged(bits[one.name], reference, compare.confidence)
    count, first = len(manifests), manifests[0]
    return Contestant(
        name=one.name,
        select=one.config.select.model_dump(mode="json", exclude_defaults=True),
        selector=first.selector,
        manifests=list(dict.fromkeys(manifest.digest for manifest in manifests)),
        documents=sum(manifest.documents for manifest in manifests) / count,
        copies=sum(manifest.copies for manifest in manifests) / count,
        tokens=sum(manifest.realised_tokens for manifest in manifests) / count,
        repeats=sum(
            manifest.realised_tokens / max(reading.unique_tokens, 1)
            for manifest, reading in zip(manifests, readings, strict=True)
        )
        / count,
        share={name: share.realised / first.realised_tokens for name, share in first.domains.items()},
        read_tokens=[reading.tokens for reading in readings],
        bits=bits[one.name],
        level=level,
        lead=lead,
        verdict=words,
        costs=costs,
        errors=sorted({outcome.error for outcome in outcomes if outcome.error}),
        note=_note(one),
    )


def _unbuilt(one: Contender, why: str, reference: Bits, compare: CompareConfig, costs: list[Cost]) -> Contestant:
    """An entry that cannot have the shares which the search found: nothing of it was trained."""
    bits: Bits = {key: [None] * compare.seeds for key in reference}
    level, lead, words = judged(bits, reference, compare.confidence)
    select = one.config.select
    return Contestant(
        name=one.name, select=select.model_dump(mode="json", exclude_defaults=True), selector=select.selector,
        manifests=[], documents=0.0, copies=0.0, tokens=0.0, repeats=0.0, share={}, read_tokens=[], bits=bits,
        level=level, lead=lead, verdict=words, costs=costs, errors=[why], note=_note(one),
    )  # fmt: skip


def _note(one: Contender) -> str:
    """What to know of an entry beside its numbers."""
    notes = []
    if one.trains:
        notes.append(
            "selected once: seeds vary its target models' initialisation, order and part of the selection alone"
        )
    if one.config.select.mixture == "winner":
        notes.append("`winner` was chosen on the halves that are measured here, among the search's contestants")
    if one.asks_search or one.entry.charge_proxies:
        notes.append("its mixture was searched for once: the intervals do not hold what another search would find")
    return "; ".join(notes)
