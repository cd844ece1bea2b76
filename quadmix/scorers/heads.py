"""Quality dimensions that only a labelled sample has, learned from text: one head a dimension.

Ridge regression on embeddings, or a small transformer encoder, learns from four fifths of the labelled documents in
hash order. The rest says what the heads are worth, component by component, since that is
how ODiS uses them (arXiv 2510.18909): the labels' correlation matrix is taken apart on the first part, labels and
predictions of the rest are projected, and a component whose Spearman correlation is below `least_spearman` is refused.
A regression predicts less spread than there is, and the less, the less it knows; so every head's output is stretched
back to the mean and deviation of its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import HeadsScorerConfig
from quadmix.core.components import Components, principal_components
from quadmix.core.cross_moments import CrossMoments
from quadmix.errors import ConfigError, InputError
from quadmix.hashing import fingerprint, seed_for
from quadmix.scorers.base import Criterion, float32_column
from quadmix.scorers.context import Document, FitContext
from quadmix.scorers.encoder_heads import fit_encoder_heads, load_encoder_heads
from quadmix.scorers.model_files import ModelFile, load_model, save_model
from quadmix.scorers.ridge_heads import fit_ridge, load_ridge
from quadmix.scorers.tokens import Tokenizer

FORM = "heads"
_HELD_OUT = 5  # every fifth document in hash order
_LEAST_DOCS = 50  # ten held out: a rank correlation of fewer says nothing

Floats = NDArray[np.float64]


class HeadModel(Protocol):
    """What gives D numbers to every text."""

    def predict(self, texts: Sequence[str], tokenizer: Tokenizer | None) -> Floats:
        """(n, D), before they are stretched."""
        ...


@dataclass(frozen=True)
class HeadsScorer:
    """One criterion a label, named as the config says. names: in the order of the model's heads; tokenizer: that an
    encoder reads with."""

    names: tuple[str, ...]
    model: ModelFile
    tokenizer: Tokenizer | None = None
    name: str = "heads"
    version: str = "2"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: HeadsScorerConfig, context: FitContext) -> HeadsScorer:
        """Learn from the labelled documents. Raises ConfigError for labels that are no numbers, InputError for too few
        documents and for a component that the heads do not predict."""
        names = tuple(config.labels)
        every = context.read_paths(config.labelled, tuple(config.labels.values()))
        documents = _complete(every, config) if config.incomplete == "leave_out" else every
        left_out = len(every) - len(documents)
        labels = _labels(documents, config.labels)
        held = np.arange(len(documents)) % _HELD_OUT == _HELD_OUT - 1
        least = _LEAST_DOCS + 2 * len(names)
        if len(documents) < least:
            without = f" ({left_out} lack a label and were left out)" if left_out else ""
            raise InputError(
                f"heads scorer: {len(documents)} labelled documents for {len(names)} labels{without}, wanted at least "
                f"{least}"
            )
        fitted = _components(labels[~held], names, config)
        seed, texts = seed_for(context.seed, "heads"), [document.text for document in documents]
        tokenizer = context.tokenizer if config.model.kind == "encoder" else None
        if config.model.kind == "encoder":
            found = fit_encoder_heads(config.model, tokenizer, texts, labels, ~held, seed)
        else:
            found = fit_ridge(config.embedder, texts, labels, ~held, seed)
        described, arrays, raw = found
        scale, shift = _stretch(raw[held], labels[~held])
        checks = _validated(fitted, labels[held], raw[held] * scale + shift)
        weak = [check for check in checks if check["spearman"] < config.least_spearman]
        if weak:
            said = "; ".join(f"{one['name']}: Spearman {one['spearman']:.2f}, R2 {one['r2']:.2f}" for one in weak)
            raise InputError(
                f"heads scorer: of {int(held.sum())} held-out documents the heads do not predict {said}; wanted a "
                f"Spearman of at least {config.least_spearman:g}. Label more documents, use another embedder or model, "
                "or leave out the dimensions that text alone does not show"
            )
        facts = {
            **described, "model": config.model.kind, "labels": list(names), "held_out": int(held.sum()),
            "left_out": left_out, "checks": checks,
        }  # fmt: skip
        arrays = {**arrays, "scale": scale, "shift": shift}
        return cls(names, save_model(context.directory, "heads", FORM, arrays, facts), tokenizer)

    @property
    def outputs(self) -> tuple[Criterion, ...]:
        return tuple(Criterion(name) for name in self.names)

    @property
    def fingerprint(self) -> str:
        tokens = "none" if self.tokenizer is None else self.tokenizer.digest
        return fingerprint(FORM, self.version, self.model.sha256, tokens)

    def load(self) -> None:
        """Read the model file. Raises InputError when it is missing or changed."""
        _ready(self.model)

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What every head says of each `text`, in the units of its label."""
        heads, scale, shift = _ready(self.model)
        texts = [text or "" for text in batch.column("text").to_pylist()]
        values = heads.predict(texts, self.tokenizer) * scale + shift
        columns = [float32_column(values[:, place]) for place in range(len(self.names))]
        return pa.record_batch(columns, names=list(self.names))


def _complete(documents: Sequence[Document], config: HeadsScorerConfig) -> list[Document]:
    """Those that lack no label."""
    wanted = tuple(config.labels.values())
    return [one for one in documents if all(one.columns.get(column) is not None for column in wanted)]


def _labels(documents: Sequence[Document], columns: dict[str, str]) -> Floats:
    """(n, D) labels. Raises ConfigError naming the first document without a number."""
    found = np.empty((len(documents), len(columns)))
    for row, document in enumerate(documents):
        for place, (name, column) in enumerate(columns.items()):
            value = document.columns.get(column)
            number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else np.nan
            if not np.isfinite(number):
                hint = "; fill it in, or give `incomplete: leave_out`" if value is None else ""
                raise ConfigError(
                    f"heads scorer: document {document.id!r} has {value!r} in {column!r}, wanted a number for "
                    f"{name!r}{hint}"
                )
            found[row, place] = number
    return found


def _components(labels: Floats, names: tuple[str, ...], config: HeadsScorerConfig) -> Components:
    scores = np.asfortranarray(labels.astype(np.float32))
    exponents = tuple(int(np.frexp(np.abs(column).max())[1]) for column in scores.T)
    moments = CrossMoments.of(scores, exponents)
    try:
        return principal_components(moments, names, [True] * len(names), config.explained_variance, config.components)
    except ValueError as error:
        raise InputError(f"heads scorer: labels: {error}") from error


def _stretch(predicted: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """(scale, shift) that give predictions the labels' mean and deviation. A head that says the same of all
    documents keeps its spread: the validation refuses it."""
    spread = predicted.std(axis=0)
    scale = np.divide(labels.std(axis=0), spread, out=np.ones_like(spread), where=spread > 0)
    return scale, labels.mean(axis=0) - predicted.mean(axis=0) * scale


def _validated(fitted: Components, labels: Floats, predicted: Floats) -> list[dict[str, Any]]:
    """Of each component: R2 and Spearman correlation of held-out documents."""
    from scipy.stats import spearmanr

    truth, guess = (
        fitted.projection.apply(np.asfortranarray(values.astype(np.float32))).astype(np.float64)
        for values in (labels, predicted)
    )
    found = []
    for k in range(fitted.kept):
        told = bool(np.ptp(guess[:, k]) > 0 and np.ptp(truth[:, k]) > 0)  # labels that are all alike check nothing
        rank = float(spearmanr(truth[:, k], guess[:, k]).statistic) if told else 0.0
        error = float(((truth[:, k] - guess[:, k]) ** 2).sum())
        r2 = 1.0 - error / float(((truth[:, k] - truth[:, k].mean()) ** 2).sum()) if told else 0.0
        found.append({"name": f"component {k + 1}", "spearman": rank, "r2": r2})
    return found


@lru_cache(maxsize=2)
def _ready(file: ModelFile) -> tuple[HeadModel, Floats, Floats]:
    arrays, facts = load_model(file, FORM)
    heads: HeadModel = load_encoder_heads(facts, arrays) if facts["model"] == "encoder" else load_ridge(facts, arrays)
    return heads, arrays["scale"], arrays["shift"]
