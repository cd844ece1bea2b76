"""What asking will cost, before anything is asked: one attempt a question, answers as long as they may become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config_labels import LabelsConfig
from quadmix.errors import ConfigError
from quadmix.labels.asking import cost_of
from quadmix.labels.questions import tokens_around
from quadmix.labels.rubrics import rubrics_of
from quadmix.scorers.tokens import Tokenizer

_LIMITS = ("max_completion_tokens", "max_tokens")  # of an answer, as endpoints call it


@dataclass(frozen=True)
class LabelCost:
    """questions: to be asked; input_tokens, output_tokens, cost: of those. spent: on answers that are there."""

    documents: int
    dimensions: int
    questions: int
    input_tokens: int
    output_tokens: int
    cost: float
    spent: float
    max_cost: float

    @property
    def problem(self) -> str | None:
        """Why it is too much, or None."""
        if self.cost + self.spent <= self.max_cost:
            return None
        already = f" beside {self.spent:,.4g} spent already" if self.spent else ""
        return (
            f"labels.max_cost: {self.questions:,} questions would cost about {self.cost:,.4g}{already}, allowed are "
            f"{self.max_cost:,.4g}; lower labels.sample_docs or labels.max_tokens, ask fewer dimensions, or raise it"
        )

    def check(self) -> None:
        """Raises ConfigError when it is too much."""
        if self.problem is not None:
            raise ConfigError(self.problem)

    def line(self) -> str:
        """One sentence."""
        return (
            f"{self.documents:,} documents x {self.dimensions} dimensions, {self.questions:,} to ask, "
            f"{self.input_tokens:,} + at most {self.output_tokens:,} tokens, about {self.cost:,.4g} "
            f"(spent before: {self.spent:,.4g}; allowed: {self.max_cost:,.4g})"
        )

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def cost_of_questions(
    config: LabelsConfig, documents: int, dimensions: int, input_tokens: Sequence[int], spent: float
) -> LabelCost:
    """input_tokens: of every question that is to be asked."""
    read, written = sum(input_tokens), len(input_tokens) * _longest_answer(config)
    cost = cost_of(config.price, read, written)
    return LabelCost(documents, dimensions, len(input_tokens), read, written, cost, spent, config.max_cost)


def expected_cost(config: LabelsConfig, tokenizer: Tokenizer, lengths: NDArray[np.int64], documents: int) -> LabelCost:
    """For `quadmix plan`, before the sample is drawn. lengths: tokens of some documents of the pool, of `documents`."""
    asked = min(config.sample_docs, documents)
    rubrics = rubrics_of(config)
    around = sum(tokens_around(name, rubric, tokenizer) for name, rubric in rubrics.items())
    text = float(np.minimum(lengths, config.max_tokens).mean())
    read = round(asked * (around + len(rubrics) * text))
    questions = asked * len(rubrics)
    written = questions * _longest_answer(config)
    cost = cost_of(config.price, read, written)
    return LabelCost(asked, len(rubrics), questions, read, written, cost, 0.0, config.max_cost)


def _longest_answer(config: LabelsConfig) -> int:
    given = [value for name in _LIMITS if isinstance(value := config.endpoint.parameters.get(name), int) and value]
    return max(given) if given else config.endpoint.answer_tokens
