"""`quadmix label`: draw a sample of the pool, have it rated, write the label file that `{kind: heads}` reads.

Not a stage of `quadmix run`, since it costs money: it runs when it is called. Answers are kept in `labels/` under the
output (see `labels.asking`). The label file belongs to the user: it is written whole at the end, and one that was
edited since, or that is somebody else's, is never written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quadmix.config import Columns, RunConfig
from quadmix.config_labels import LabelsConfig
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import sha256_file
from quadmix.labels.asking import Answer, Outcome, ask_all, spent_on
from quadmix.labels.costs import LabelCost, cost_of_questions
from quadmix.labels.endpoint import Endpoint
from quadmix.labels.questions import Question, cut, question, tokens_around
from quadmix.labels.rubrics import rubrics_of
from quadmix.pool.inventory import find_inputs, plan_units
from quadmix.pool.leakage import TargetIndex
from quadmix.pool.refusals import FileRefused, refused_error
from quadmix.progress import Progress
from quadmix.scorers.context import Document
from quadmix.scorers.tokens import Tokenizer, load_tokenizer
from quadmix.search.journal import Journal
from quadmix.stages.annotate import pool_to_read
from quadmix.stages.fit_context import PoolFitContext
from quadmix.stages.records import run_lock, write_atomically
from quadmix.stages.targets import load_targets

FOLDER = "labels"  # under the output
JOURNAL_FILE = "answers.jsonl"
WRITTEN_FILE = "written.json"  # path of a label file -> sha256 of what this command wrote there last
SAMPLE = "labels"  # what the sample's draws are for


@dataclass(frozen=True)
class Labelled:
    """What came of it. rows: one a dimension: how many answers, how many missing, mean and deviation."""

    file: str
    documents: int
    asked: int
    cost: float
    rows: tuple[dict[str, Any], ...]
    refused: tuple[str, ...]  # why, as the server says, of questions that it would not take; each reason once

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file, "documents": self.documents, "asked": self.asked, "cost": self.cost,
            "dimensions": list(self.rows), "refused": list(self.refused),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The table, and what to do next."""
        width = max(len(row["dimension"]) for row in self.rows)
        lines = [f"{'dimension':<{width}}  answers  missing   mean  deviation"]
        lines += [
            f"{row['dimension']:<{width}}  {row['answers']:>7,}  {row['missing']:>7,}  {_shown(row['mean']):>5}  "
            f"{_shown(row['deviation']):>9}"
            for row in self.rows
        ]
        lines += [f"refused by the server: {text}" for text in self.refused]
        lines.append(f"{self.documents:,} documents, {self.asked:,} questions asked now, {self.cost:,.4g} spent in all")
        if any(row["missing"] for row in self.rows):
            lines.append("documents that lack a label: fill them in, or give the heads scorer `incomplete: leave_out`")
        return [*lines, self.file]


def label(config: RunConfig, engine: Engine, progress: Progress) -> Labelled:
    """Raises ConfigError without the section `labels`, for a label file that is not ours to replace, for what the
    endpoint refuses and for costs beyond `max_cost`; ResourceError for an endpoint that stays away."""
    asked = _section(config)
    with run_lock(Path(config.output)):
        folder = Path(config.output) / FOLDER
        folder.mkdir(exist_ok=True)
        _must_be_ours(asked, folder)
        endpoint = Endpoint.of(asked.endpoint, threading.Event())
        assert config.tokenizer is not None  # the config's checks see to that
        tokenizer = load_tokenizer(config.tokenizer)
        documents = sample(config, engine, progress, asked.sample_docs)
        if not documents:
            raise InputError("labels: the pool holds no document that could be labelled; run annotate to see why")
        by_document = _questions(asked, documents, tokenizer, endpoint.identity)
        journal = Journal(folder / JOURNAL_FILE)
        every = [pair for pairs in by_document for pair in pairs.values()]
        estimate = _cost(asked, journal, len(documents), every)
        progress.say(f"labels: {estimate.line()}")
        estimate.check()
        outcome = ask_all(asked, endpoint, journal, every, progress)
        answers = [{name: outcome.answers[one.identity] for name, (one, _) in pairs.items()} for pairs in by_document]
        _write(asked, config.pool.columns, documents, answers, folder)
        return _labelled(asked, answers, outcome)


def answered_tokens(config: RunConfig) -> dict[str, int]:
    """Label file -> tokens that the endpoint read and wrote for all that was ever asked under this output, attempts and
    questions that are asked no more included; empty unless this command wrote that file."""
    folder = Path(config.output) / FOLDER
    if config.labels is None or str(Path(config.labels.file).absolute()) not in _written(folder):
        return {}
    entries = Journal(folder / JOURNAL_FILE).entries.values()
    return {config.labels.file: sum(entry["input_tokens"] + entry["output_tokens"] for entry in entries)}


def require_label_file(config: RunConfig) -> None:
    """Raises ConfigError where a scorer learns from a label file that nobody has asked for yet."""
    if config.labels is None or Path(config.labels.file).exists():
        return
    for index, scorer in enumerate(config.annotate.scorers):
        if scorer.kind == "heads" and config.labels.file in scorer.labelled:
            raise ConfigError(
                f"annotate.scorers.{index}.labelled: {config.labels.file} is not there yet; `quadmix label CONFIG` "
                "asks for it (`quadmix plan CONFIG` says what that costs)"
            )


def sample(config: RunConfig, engine: Engine, progress: Progress, docs: int) -> list[Document]:
    """The documents with the smallest draws, so that a larger sample holds a smaller one; none that is in a target."""
    pool, targets = pool_to_read(config), load_targets(config)
    inventory = find_inputs(pool)
    files = list(inventory.accepted(pool.skip_bad_files))
    folder = Path(config.output) / FOLDER
    index = TargetIndex.of([(target.name, target.guarded, target.doc_hash) for target in targets])
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        while True:
            units = plan_units(files, pool.unit_bytes)
            context = PoolFitContext(scratch, scratch, config.seed, None, engine, pool, units, targets, index)
            try:
                return context.sample(docs, SAMPLE)
            except FileRefused as refused:
                if not pool.skip_bad_files:
                    raise refused_error([refused.refusal]) from refused
                progress.say(f"left out: {refused.refusal.line()}")
                files = [file for file in files if file.shard != refused.refusal.shard]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _section(config: RunConfig) -> LabelsConfig:
    if config.labels is None:
        raise ConfigError("labels: missing, wanted the section that says whom to ask, about what, and at what price")
    return config.labels


def _questions(
    asked: LabelsConfig, documents: Sequence[Document], tokenizer: Tokenizer, endpoint: str
) -> list[dict[str, tuple[Question, int]]]:
    """Of each document: dimension -> (question, its tokens)."""
    rubrics = rubrics_of(asked)
    around = {name: tokens_around(name, rubric, tokenizer) for name, rubric in rubrics.items()}
    found = []
    for document in documents:
        text, tokens = cut(document.text, asked.max_tokens, tokenizer)
        found.append(
            {name: (question(name, rubric, text, endpoint), around[name] + tokens) for name, rubric in rubrics.items()}
        )
    return found


def _cost(
    asked: LabelsConfig, journal: Journal, documents: int, questions: Sequence[tuple[Question, int]]
) -> LabelCost:
    different = {one.identity: (one, tokens) for one, tokens in questions}
    answers = {identity: Answer.kept(journal, one) for identity, (one, _) in different.items()}
    pending = [different[identity][1] for identity, answer in answers.items() if not answer.settled(asked.attempts)]
    spent = spent_on(asked.price, list(answers.values()))
    return cost_of_questions(asked, documents, len(questions) // max(documents, 1), pending, spent)


def _must_be_ours(asked: LabelsConfig, folder: Path) -> None:
    file = Path(asked.file)
    if file.exists() and sha256_file(str(file)) not in _written(folder).get(str(file.absolute()), []):
        raise ConfigError(
            f"labels.file: {asked.file} was edited, or was not written by this command for this output; it stays as it "
            "is. Give labels.file another name (answers that are paid for are not asked again), or move it away"
        )


def _written(folder: Path) -> dict[str, list[str]]:
    try:
        found: dict[str, list[str]] = json.loads((folder / WRITTEN_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _write(
    asked: LabelsConfig,
    columns: Columns,
    documents: Sequence[Document],
    answers: Sequence[Mapping[str, Answer]],
    folder: Path,
) -> None:
    lines = []
    for document, found in zip(documents, answers, strict=True):
        row: dict[str, Any] = {}
        _put(row, columns.id or "id", document.id)
        _put(row, columns.text, document.text)
        row |= {name: answer.score for name, answer in found.items()}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    file = Path(asked.file)
    body = "".join(lines).encode()
    written, place = _written(folder), str(file.absolute())
    # the last one stays beside the new one: a kill between the two writes leaves a file that is known all the same
    written[place] = [*written.get(place, [])[-1:], hashlib.sha256(body).hexdigest()]
    write_atomically(folder / WRITTEN_FILE, json.dumps(written, indent=1, sort_keys=True).encode())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, body)


def _put(row: dict[str, Any], path: str, value: str) -> None:
    """At a dotted path, where the pool's own documents have it."""
    *outer, last = path.split(".")
    for name in outer:
        row = row.setdefault(name, {})
    row[last] = value


def _labelled(asked: LabelsConfig, answers: Sequence[Mapping[str, Answer]], outcome: Outcome) -> Labelled:
    rows = []
    for name in rubrics_of(asked):
        scores = [answer.score for found in answers if (answer := found[name]).score is not None]
        given = np.array(scores or [np.nan])
        rows.append(
            {
                "dimension": name,
                "answers": len(scores),
                "missing": len(answers) - len(scores),
                "mean": float(given.mean()) if scores else None,
                "deviation": float(given.std()) if scores else None,
            }
        )
    reasons = tuple(sorted(set(outcome.refused.values())))
    return Labelled(os.fspath(asked.file), len(answers), outcome.asked, outcome.cost, tuple(rows), reasons)
