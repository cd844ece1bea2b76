"""The counting proxy against a literal loop over every token of every copy."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import save_npz

from quadmix.search.counting import CountedSample, Known, load_counted, windows_of

VOCABULARY, END = 11, 0
PRIOR = np.array([3.0, 7.0, 2.5])
TARGET_TOKENS = (57, 23)


def texts(seed: int, lengths: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Documents of a few tokens' chain, so that n-grams recur; each ends with the end token."""
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths:
        steps = rng.choice([1, 1, 2, 5], size=length - 1)
        found.append(np.append(1 + np.cumsum(steps) % (VOCABULARY - 1), END).astype(np.int64))
    return found


DOCUMENTS = texts(1, (9, 1, 40, 22, 3, 17))
HELD_OUT = texts(2, TARGET_TOKENS)
COPIES = np.array([[1.0, 0, 2, 1, 0, 1], [0.25, 3, 0, 0.5, 1, 0], [0, 0, 0, 0, 0, 0]])


def by_hand(tokens: NDArray[np.int64], copies: NDArray[np.float64]) -> float:
    """Nats per token of the interpolated trigram model of weighted documents."""
    grams: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
    contexts: list[Counter[tuple[int, ...]]] = [Counter() for _ in range(3)]
    for document, weight in zip(DOCUMENTS, copies, strict=True):
        led = [END, END, *document.tolist()]
        for place in range(2, len(led)):
            for order in range(3):
                grams[order][tuple(led[place - order : place + 1])] += weight
                contexts[order][tuple(led[place - order : place])] += weight
    total, led = 0.0, [END, END, *tokens.tolist()]
    for place in range(2, len(led)):
        chance = 1.0 / VOCABULARY
        for order in range(3):
            whole, before = tuple(led[place - order : place + 1]), tuple(led[place - order : place])
            chance = (grams[order][whole] + PRIOR[order] * chance) / (contexts[order][before] + PRIOR[order])
        total -= math.log(chance)
    return total / len(tokens)


@pytest.fixture
def known() -> Known:
    return Known.of([windows_of(tokens, END) for tokens in HELD_OUT], VOCABULARY)


@pytest.fixture
def counted(known: Known) -> CountedSample:
    return CountedSample(known, known.count(DOCUMENTS, END).T.tocsr(), PRIOR)


def test_losses_are_those_of_a_literal_count(counted: CountedSample) -> None:
    wanted = [[by_hand(tokens, row) for tokens in HELD_OUT] for row in COPIES]
    assert counted.losses(COPIES) == pytest.approx(np.array(wanted), abs=1e-12)
    # nothing selected: the uniform distribution
    assert counted.losses(COPIES)[2] == pytest.approx(math.log(VOCABULARY))


def test_a_mixture_has_the_same_bits_alone_and_among_others(counted: CountedSample) -> None:
    many = np.random.default_rng(0).random((37, len(DOCUMENTS)))
    together = counted.losses(many)
    for row in (0, 15, 16, 36):
        assert np.array_equal(counted.losses(many[row : row + 1])[0], together[row])
    assert counted.losses(np.zeros((0, len(DOCUMENTS)))).shape == (0, 2)


def test_documents_counted_in_blocks_are_the_documents(known: Known, tmp_path: Path) -> None:
    files = []
    for index, block in enumerate((DOCUMENTS[:1], DOCUMENTS[1:4], DOCUMENTS[4:])):
        files.append(tmp_path / f"{index}.npz")
        save_npz(files[-1], known.count(block, END))
    joined = CountedSample.of(known, files, np.ones(len(DOCUMENTS)))
    whole = CountedSample(known, known.count(DOCUMENTS, END).T.tocsr(), joined.prior)
    assert np.array_equal(joined.losses(COPIES), whole.losses(COPIES))


def test_the_prior_is_the_best_for_the_given_mixture_and_survives_a_file(
    counted: CountedSample, tmp_path: Path
) -> None:
    natural = np.ones(len(DOCUMENTS))
    fitted = counted.fitted(natural)
    best = fitted.losses(natural[None]).mean()
    for order in range(3):
        for factor in (0.8, 1.25):
            moved = fitted.prior.copy()
            moved[order] *= factor
            assert CountedSample(fitted.known, fitted.matrix, moved).losses(natural[None]).mean() > best - 1e-6
    fitted.save(str(tmp_path / "counts.npz"))
    again = load_counted(str(tmp_path / "counts.npz"))
    assert np.array_equal(again.losses(COPIES), fitted.losses(COPIES))
