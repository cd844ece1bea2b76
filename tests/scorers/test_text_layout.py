"""Words, lines and paragraphs of many documents at once are those of each document alone, found by plain loops."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from quadmix.scorers import text_layout
from quadmix.scorers.text_layout import Layout, Spans, layouts
from tests.scorers.literal_rules import words_of

SIGNS = "ab Z9_.'’\n\r\t-#…“,!?{}\x0b\x1c\x85\u2028é中\u0301İ\u200d🙂\U00020000\U0010ffff"
TEXTS = st.lists(st.text(st.sampled_from(SIGNS), max_size=40), min_size=1, max_size=5)


def cut(layout: Layout, spans: Spans, document: int) -> list[str]:
    chosen = range(spans.first[document], spans.first[document + 1])
    return [layout.text[spans.start[index] : spans.end[index]] for index in chosen]


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_words_lines_and_paragraphs_are_those_of_plain_python(texts):
    layout = Layout(texts)
    for document, text in enumerate(texts):
        assert cut(layout, layout.words, document) == words_of(text)
        assert cut(layout, layout.blank_separated, document) == text.split()
        assert cut(layout, layout.lines, document) == text.split("\n")
        # a return before a newline stays at the end of its line
        assert [line.rstrip("\r") for line in cut(layout, layout.split_lines, document)] == [
            line.rstrip("\r") for line in text.splitlines()
        ]
        assert cut(layout, layout.paragraphs, document) == re.split(r"\n{2,}", text.strip())


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_hashes_are_equal_exactly_where_texts_are(texts):
    layout = Layout(texts)
    hashes = layout.hash(layout.words)
    words = [word for document in range(len(texts)) for word in cut(layout, layout.words, document)]
    assert len(set(hashes.tolist())) == len(set(words))
    assert len(set(zip(hashes.tolist(), words, strict=True))) == len(set(words))


def test_a_hash_does_not_depend_on_the_alphabet_of_the_neighbours():
    plain, mixed = Layout(["the end"]), Layout(["中文", "the end"])
    assert plain.hash(plain.words).tolist() == mixed.hash(mixed.words)[-2:].tolist()


def test_a_phrase_is_found_whatever_its_case_and_place():
    layout = Layout(["İ JavaScript javascript", "JAVAscript"])
    assert [layout.text[place : place + 10] for place in layout.find("javascript")] == [
        "JavaScript",
        "javascript",
        "JAVAscript",
    ]
    assert layout.per_document(layout.find("javascript")).tolist() == [2, 1]


def test_layouts_hold_every_text_once_and_cut_long_ones(monkeypatch):
    monkeypatch.setattr(text_layout, "CHUNK_CHARS", 50)
    texts = ["a" * 30, "é" * 30, "b" * 200, "", "c" * 10, "中" * 5]
    seen = {}
    for rows, layout in layouts(texts, max_chars=100):
        seen |= {row: int(n) for row, n in zip(rows, layout.n_chars, strict=True)}
    assert seen == {0: 30, 1: 30, 2: 100, 3: 0, 4: 10, 5: 5}


def test_sums_per_document_are_exact_with_empty_documents():
    layout = Layout(["", "a b", "", "c"])
    assert layout.words.total(np.array([1, 10, 100])).tolist() == [0, 11, 0, 100]
    assert layout.words.count.tolist() == [0, 2, 0, 1]
