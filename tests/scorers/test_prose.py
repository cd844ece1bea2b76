"""Difficulty, density and rarity against plain loops, and on sentences where the answer is known."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.config_annotate import ProseScorerConfig, RarityScorerConfig
from quadmix.errors import ConfigError
from quadmix.scorers.prose import OUTPUTS, ProseScorer, measure
from quadmix.scorers.rarity import RarityScorer
from quadmix.scorers.registry import make_scorer
from tests.scorers.list_context import ListContext, notices, speech
from tests.scorers.literal_rules import words_of

WORDS = ("the", "The", "a", "because", "Which", "river", "Paris", "12", "x9", "re-read", "NASA", "ok", "you", "I", "We")
SIGNS = (".", "!", "?", ",", ";", "(", ")", "...", "\n", "\n\n", "|")
TEXTS = st.lists(st.sampled_from((*WORDS, *SIGNS)), max_size=30).map(" ".join)


def literal_sentences(text: str) -> list[list[str]]:
    """Words of each sentence: it ends at a terminal sign before a blank, at an empty line and at the end."""
    sentences: list[list[str]] = [[]]
    for paragraph in re.split(r"\n[ \t]*\n", text):
        place = 0
        for word in words_of(paragraph):
            at = paragraph.index(word, place)
            place = at + len(word)
            sentences[-1].append(word)
            if word[0] in ".!?" and (place == len(paragraph) or paragraph[place].isspace()):
                sentences.append([])
        sentences.append([])
    return [one for one in sentences if one]


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_densities_and_grade_are_those_of_a_loop(text: str) -> None:
    found = {name: values[0] for name, values in measure([text]).items()}
    sentences = literal_sentences(text)
    words = [word for sentence in sentences for word in sentence if any(c.isalpha() for c in word)]
    numbers = [word for sentence in sentences for word in sentence if word[0].isdigit()]
    names = [
        word
        for sentence in sentences
        for word in sentence[1:]
        if any(c.isalpha() for c in word) and not word[0].isdigit() and word[0].isupper()
    ]
    counted = max(len(words) + sum(not any(c.isalpha() for c in word) for word in numbers), 1)
    assert found["fact_density"] == pytest.approx((len(numbers) + len(names)) / counted)
    function = {"the", "a", "because", "which", "ok", "you", "i", "we"}
    assert found["lexical_density"] == pytest.approx(
        sum(word.lower() not in function for word in words) / max(len(words), 1)
    )
    personal = sum(word in ("you", "I", "We") for word in words)
    assert found["impersonality"] == pytest.approx(1 - personal / max(len(words), 1))
    spoken = max(sum(any(any(c.isalpha() for c in w) for w in sentence) for sentence in sentences), 1)
    long = min(max(len(words), 1) / spoken, 50)
    letters = sum(len(word) for word in words) / max(len(words), 1)
    assert found["reading_grade"] == pytest.approx(4.71 * letters + 0.5 * long - 21.43)


def test_hard_text_is_harder_than_easy_text() -> None:
    easy = "The dog ran. It saw a cat. The cat ran up a tree. The dog sat down."
    hard = (
        "Although the committee, which had deliberated for months, recommended ratification, several delegations "
        "(notably those representing maritime jurisdictions) questioned whether enforcement provisions sufficed."
    )
    found = measure([easy, hard])
    for name in ("reading_grade", "clause_depth", "lexical_density"):
        assert found[name][1] > found[name][0], name
    assert found["clause_depth"].tolist() == [0.0, 7.0]


def test_the_outputs_are_chosen_and_checked(tmp_path: Path) -> None:
    context = ListContext(tmp_path, pool=speech(2))
    scorer = make_scorer(ProseScorerConfig(kind="prose", outputs=("clause_depth",)), context)
    assert isinstance(scorer, ProseScorer)
    assert [criterion.name for criterion in scorer.outputs] == ["clause_depth"]
    for outputs in ((), ("depth",), ("clause_depth", "clause_depth")):
        with pytest.raises(ConfigError, match="prose scorer: outputs"):
            make_scorer(ProseScorerConfig(kind="prose", outputs=outputs), context)
    assert list(OUTPUTS) == ["reading_grade", "clause_depth", "fact_density", "lexical_density", "impersonality"]


def rarity(tmp_path: Path, buckets: int = 2**20) -> RarityScorer:
    context = ListContext(tmp_path, pool=[*speech(40), *notices(40)])
    return RarityScorer.from_config(RarityScorerConfig(kind="rarity", buckets=buckets), context)


def scores(scorer: RarityScorer, texts: list[str]) -> np.ndarray:
    return scorer.score(pa.record_batch({"text": pa.array(texts)})).column(0).to_numpy()


def test_rarity_is_the_mean_information_of_the_words(tmp_path: Path) -> None:
    scorer = rarity(tmp_path)
    counts = Counter(
        word for document in (*speech(40), *notices(40)) for word in words_of(document.text.lower()) if word.isalpha()
    )
    total = sum(counts.values()) + 2**20
    text = "The river, the winter and a zeppelin!"
    bits = [-math.log2((counts[word] + 1) / total) for word in re.findall(r"[a-z]+", text.lower())]
    assert scores(scorer, [text])[0] == pytest.approx(np.mean(bits), abs=1e-3)
    assert scores(scorer, ["", "12 % |"]).tolist() == [0.0, 0.0]
    assert scores(scorer, ["zeppelin"])[0] == pytest.approx(math.log2(total), abs=1e-3)


def test_a_model_file_gives_the_same_scores(tmp_path: Path) -> None:
    scorer = rarity(tmp_path, 2**12)
    again = RarityScorer.from_config(
        RarityScorerConfig(kind="rarity", model=scorer.model.path), ListContext(tmp_path, pool=[])
    )
    assert again.fingerprint == scorer.fingerprint
    texts = [document.text for document in speech(5)]
    assert scores(again, texts).tolist() == scores(scorer, texts).tolist()
    with pytest.raises(ConfigError, match="the pool's sample has no words"):
        RarityScorer.from_config(RarityScorerConfig(kind="rarity"), ListContext(tmp_path, pool=[]))
