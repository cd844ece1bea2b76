"""Every signal equals a plain loop over the document, and datatrove's filters decide as its thresholds say."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.config_annotate import HeuristicScorerConfig
from quadmix.errors import ConfigError
from quadmix.scorers.heuristics import OUTPUTS, SIGNALS, HeuristicScorer, heuristic_quality, measure
from tests.scorers import literal_rules

POOL = Path(__file__).resolve().parents[2] / "examples" / "pool"
PARTS = (
    *(
        "the",
        "of",
        "end",
        "The",
        "a",
        "42",
        "don't",
        "e.g.",
        "well-known",
        "javascript",
        "{",
        "é",
        "中文",
        "«a»",
        "_x_",
    ),
    *(". ", "... ", "? ", "…", "#", "- ", "• ", ", ", "[12]", "[edit]", "Lorem Ipsum", "terms of use", '."'),
    *("\n", "\n\n", "\n \n", "\r\n", "\u2028", " ", " ", " ", "x" * 1001),
)
DOCUMENTS = st.lists(st.sampled_from(PARTS), max_size=60).map("".join)


def agree(text: str, found: dict[str, float]) -> None:
    for name, value in literal_rules.signals(text).items():
        assert found[name] == pytest.approx(value, abs=1e-12), (name, text)


@given(st.lists(DOCUMENTS, min_size=1, max_size=4))
@settings(max_examples=120, deadline=None)
def test_signals_equal_plain_loops_on_awkward_text(texts):
    measured = measure(texts)
    for row, text in enumerate(texts):
        agree(text, {name: values[row] for name, values in measured.items()})


@given(st.lists(st.sampled_from("ab"), max_size=150).map(" ".join))
@settings(max_examples=60, deadline=None)
def test_repeated_ngrams_equal_plain_loops_where_nearly_everything_repeats(text):
    agree(text, {name: values[0] for name, values in measure([text]).items()})


def real_texts(n: int) -> list[str]:
    if not POOL.is_dir():
        pytest.skip("the example pool is not here")
    texts: list[str] = []
    for path in sorted(POOL.glob("*.jsonl.zst"))[:2]:
        with path.open("rb") as handle:
            stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(handle), encoding="utf-8")
            texts += [json.loads(line)["text"] for line in stream]
    return [texts[index] for index in random.Random(5).sample(range(len(texts)), n)]


def test_signals_equal_plain_loops_on_real_text():
    texts = real_texts(80)
    measured = measure(texts)
    for row, text in enumerate(texts):
        agree(text, {name: values[row] for name, values in measured.items()})


class Punctuation:
    def __contains__(self, character: str) -> bool:
        return not literal_rules.is_solid(character)


def single_rule_filters() -> dict[str, tuple[object, object]]:
    """name -> (a datatrove filter with one rule switched on, the same rule on our signals)."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    gopher = dict.fromkeys(
        ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length", "max_symbol_word_ratio",
         "max_bullet_lines_ratio", "max_ellipsis_lines_ratio", "max_non_alpha_words_ratio", "min_stop_words")
    )  # fmt: skip
    repetition = {
        **dict.fromkeys(("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")),
        "top_n_grams": (),
        "dup_n_grams": (),
    }
    fineweb = {"line_punct_thr": 0, "short_line_thr": 2, "char_duplicates_ratio": 2, "new_line_ratio": 1e9}
    c4 = {"filter_curly_bracket": False, "filter_lorem_ipsum": False}
    rules: dict[str, tuple[object, object]] = {
        "c4_sentence_count": (C4QualityFilter(**c4), lambda s: s["c4_sentence_count"] >= 5),
        "terminal_line_fraction": (
            FineWebQualityFilter(**fineweb | {"line_punct_thr": 0.12}),
            lambda s: s["terminal_line_fraction"] >= 0.12,
        ),
        "short_line_fraction": (
            FineWebQualityFilter(**fineweb | {"short_line_thr": 0.67}),
            lambda s: s["short_line_fraction"] <= 0.67,
        ),
        "line_duplicate_char_fraction": (
            FineWebQualityFilter(**fineweb | {"char_duplicates_ratio": 0.01}),
            lambda s: s["line_duplicate_char_fraction"] <= 0.01,
        ),
        "newline_word_ratio": (
            FineWebQualityFilter(**fineweb | {"new_line_ratio": 0.3}),
            lambda s: s["newline_word_ratio"] <= 0.3,
        ),
    }
    for key, limit, name, sign in (
        ("min_doc_words", 50, "word_count", 1),
        ("max_doc_words", 300, "word_count", -1),
        ("min_avg_word_length", 4, "mean_word_length", 1),
        ("max_avg_word_length", 6, "mean_word_length", -1),
        ("max_bullet_lines_ratio", 0.1, "bullet_line_fraction", -1),
        ("max_ellipsis_lines_ratio", 0.01, "ellipsis_line_fraction", -1),
        ("max_non_alpha_words_ratio", 0.8, "alpha_word_fraction", 1),
        ("min_stop_words", 2, "stop_word_count", 1),
    ):
        rules[key] = (
            GopherQualityFilter(**gopher | {key: limit}),
            lambda s, name=name, limit=limit, sign=sign: sign * s[name] >= sign * limit,
        )
    rules["max_symbol_word_ratio"] = (
        GopherQualityFilter(**gopher | {"max_symbol_word_ratio": 0.01}),
        lambda s: s["hash_word_ratio"] <= 0.01 and s["ellipsis_word_ratio"] <= 0.01,
    )
    for key, limit, name in (
        ("dup_line_frac", 0.30, "duplicate_line_fraction"),
        ("dup_para_frac", 0.10, "duplicate_paragraph_fraction"),
        ("dup_line_char_frac", 0.20, "duplicate_line_char_fraction"),
        ("dup_para_char_frac", 0.05, "duplicate_paragraph_char_fraction"),
    ):
        rules[key] = (
            GopherRepetitionFilter(**repetition | {key: limit}),
            lambda s, name=name, limit=limit: s[name] <= limit,
        )
    for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
        rules[f"top_{n}"] = (
            GopherRepetitionFilter(**repetition | {"top_n_grams": ((n, limit),)}),
            lambda s, n=n, limit=limit: s[f"top_{n}gram_char_fraction"] <= limit,
        )
    for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)):
        rules[f"duplicate_{n}"] = (
            GopherRepetitionFilter(**repetition | {"dup_n_grams": ((n, limit),)}),
            lambda s, n=n, limit=limit: s[f"duplicate_{n}gram_char_fraction"] <= limit,
        )
    return rules


def test_datatrove_decides_as_the_signals_say_on_real_text(monkeypatch):
    pytest.importorskip("datatrove")
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        c4_filters,
        fineweb_quality_filter,
        gopher_quality_filter,
        gopher_repetition_filter,
    )

    # the same words and punctuation on both sides: what is compared are the rules, not spaCy's tokeniser
    monkeypatch.setattr(gopher_quality_filter, "PUNCTUATION_SET", Punctuation())
    for module in (fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter):
        monkeypatch.setattr(module, "split_into_words", lambda text, language: literal_rules.words_of(text))
    monkeypatch.setattr(
        c4_filters, "split_into_sentences", lambda line, language: "." * literal_rules.sentences_of(line)
    )
    texts = real_texts(200)
    measured = measure(texts)
    by_row = [{name: values[row] for name, values in measured.items()} for row in range(len(texts))]
    decided: dict[str, list[bool]] = {}
    for name, (theirs, ours) in single_rule_filters().items():
        decided[name] = []
        for row, text in enumerate(texts):
            kept = theirs.filter(Document(text=text, id="x"))
            expected = kept if isinstance(kept, bool) else kept[0]
            assert bool(ours(by_row[row])) == expected, (name, text[:80])
            decided[name].append(expected)
    # the comparison can fail: nearly every rule keeps some of these documents and drops others
    split = sum(0 < sum(kept) < len(texts) for kept in decided.values())
    assert split >= len(decided) - 3


FAULTS = {
    "repeated lines": lambda text: "\n".join([text.split("\n")[0][:300]] * 12),
    "curly brackets": lambda text: text.replace(".", " {}"),
    "bullets": lambda text: "\n".join(f"- {word}..." for word in text.split()),
    "cut short": lambda text: " ".join(text.split()[:25]),
    "numbers": lambda text: " ".join(str(len(word) * 37) for word in text.split()),
    "placeholder": lambda text: text + " Lorem ipsum dolor.",
    "shuffled words": lambda text: " ".join(random.Random(3).sample(text.split(), len(text.split()))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_quality_falls_when_a_fault_is_put_into_good_text(fault):
    texts = real_texts(300)
    quality = measure(texts, ["heuristic_quality"])["heuristic_quality"]
    good = np.flatnonzero(quality > 0.8)
    assert len(good) >= 50
    spoilt = measure([FAULTS[fault](texts[row]) for row in good], ["heuristic_quality"])["heuristic_quality"]
    assert np.mean(spoilt < quality[good] - 0.02) > 0.9


def test_quality_is_the_harmonic_mean_of_families_within_the_unit_interval():
    ideal = {name: np.array([signal.rules[0].comfortable if signal.rules else 1.0]) for name, signal in SIGNALS.items()}
    ideal["word_count"] = np.array([1000.0])
    ideal["mean_word_length"] = np.array([5.0])
    assert heuristic_quality(ideal)[0] == 1.0
    families = len({signal.family for signal in SIGNALS.values() if signal.rules})
    at_threshold = ideal | {"stop_word_count": np.array([2.0])}
    expected = families / ((families - 1) / 1.1 + 1 / 0.6) - 0.1
    assert heuristic_quality(at_threshold)[0] == pytest.approx(expected)
    worst = {name: np.array([1e9 if not signal.higher_is_better else -1e9]) for name, signal in SIGNALS.items()}
    assert heuristic_quality(worst)[0] == 0.0


def test_only_wanted_signals_are_computed_and_equal_the_full_run():
    texts = ["The end. Or is it?\n\nThe end.", "a b a b a b", ""]
    full = measure(texts)
    for name in OUTPUTS:
        assert np.array_equal(measure(texts, [name])[name], full[name]), name


def test_a_null_text_scores_as_an_empty_one(context):
    import pyarrow as pa

    scorer = HeuristicScorer.from_config(HeuristicScorerConfig(kind="heuristics", outputs=tuple(OUTPUTS)), context)
    scored = scorer.score(pa.record_batch([pa.array([None, ""], pa.string())], names=["text"]))
    assert all(column[0] == column[1] for column in scored.columns)


def test_unknown_and_repeated_outputs_are_refused(context):
    with pytest.raises(ConfigError, match="wurd_count"):
        HeuristicScorer.from_config(HeuristicScorerConfig(kind="heuristics", outputs=("wurd_count",)), context)
    with pytest.raises(ConfigError, match="twice"):
        HeuristicScorer.from_config(HeuristicScorerConfig(kind="heuristics", outputs=("word_count",) * 2), context)
