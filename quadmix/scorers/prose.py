"""How hard and how dense running text is, by rule: nothing is learned, everything is counted.

`reading_grade`: the automated readability index (Smith and Senter, 1967), 4.71 letters a word + 0.5 words a sentence -
21.43, about a school year. `clause_depth`: commas, semicolons, colons, opening brackets and subordinating words, a
sentence. `fact_density`: numbers and names (words with a capital inside a sentence), of all words. `lexical_density`
(Ure, 1971): words that are no function words, of all words. `impersonality`: words that speak of neither writer nor
reader, of all words (first and second person mark involved rather than informational text, Biber 1988).

A sentence ends at terminal punctuation before a blank, and at an empty line; one of more than 50 words counts as 50,
since tables and listings have none. Words are those of `text_layout`; a word counts when it has a letter, or, for
facts, a digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from quadmix.config_annotate import ProseScorerConfig
from quadmix.hashing import fingerprint
from quadmix.scorers.base import Criterion, chosen_outputs, float32_column
from quadmix.scorers.context import FitContext
from quadmix.scorers.text_layout import ALPHA, LOWER, TERMINAL, Bool, Int, Layout, index_in, layouts

LONGEST_SENTENCE = 50.0
MOST_CLAUSES = 20.0
_CLAUSE_MARKS = tuple(map(ord, ",;:(—–"))
_SUBORDINATORS = (
    *("that", "which", "who", "whom", "whose", "because", "although", "though", "while", "whereas", "if", "unless"),
    *("since", "when", "where", "whether", "until", "whenever", "wherever", "thus", "hence", "provided"),
)
_FUNCTION_WORDS = (
    *("a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "no", "all", "both", "such"),
    *("i", "me", "my", "mine", "we", "us", "our", "ours", "you", "your", "yours", "he", "him", "his", "she", "her"),
    *("hers", "it", "its", "they", "them", "their", "theirs", "who", "whom", "whose", "which", "what", "one", "ones"),
    *("myself", "yourself", "himself", "herself", "itself", "themselves", "something", "anything", "nothing"),
    *("am", "is", "are", "was", "were", "be", "been", "being", "do", "does", "did", "done", "doing", "have", "has"),
    *("had", "having", "can", "could", "may", "might", "must", "shall", "should", "will", "would", "ought", "let"),
    *("not", "n't", "don't", "didn't", "doesn't", "isn't", "wasn't", "can't", "won't", "it's", "i'm", "that's"),
    *("and", "or", "but", "nor", "so", "yet", "if", "then", "than", "because", "while", "when", "where", "why", "how"),
    *("of", "to", "in", "on", "at", "by", "for", "with", "from", "into", "onto", "about", "as", "after", "before"),
    *("over", "under", "out", "up", "down", "off", "through", "between", "against", "during", "without", "within"),
    *("upon", "until", "since", "though", "although", "unless", "whether", "also", "too", "very", "just", "only"),
    *("there", "here", "now", "again", "ever", "never", "always", "even", "still", "more", "most", "much", "many"),
    *("few", "less", "least", "other", "another", "same", "own", "well", "yes", "oh", "ok", "okay", "like", "really"),
)
_PERSONAL = (
    *("i", "me", "my", "mine", "myself", "we", "us", "our", "ours", "ourselves", "you", "your", "yours", "yourself"),
    *("i'm", "i'll", "i've", "i'd", "we're", "we'll", "we've", "you're", "you'll", "you've", "let's"),
)
# as they are and at the beginning of a sentence
_FUNCTION_FORMS = (*_FUNCTION_WORDS, *sorted({word.capitalize() for word in _FUNCTION_WORDS} - set(_FUNCTION_WORDS)))
_PERSONAL_FORMS = (*_PERSONAL, *(word.capitalize() for word in _PERSONAL))
_SUBORDINATOR_FORMS = (*_SUBORDINATORS, *(word.capitalize() for word in _SUBORDINATORS))

Values = NDArray[np.float64]

OUTPUTS: dict[str, Criterion] = {
    "reading_grade": Criterion("reading_grade", (-21.43, 60.0)),
    "clause_depth": Criterion("clause_depth", (0.0, MOST_CLAUSES)),
    "fact_density": Criterion("fact_density", (0.0, 1.0)),
    "lexical_density": Criterion("lexical_density", (0.0, 1.0)),
    "impersonality": Criterion("impersonality", (0.0, 1.0)),
}


@dataclass(frozen=True)
class ProseScorer:
    """`outputs` picks from `OUTPUTS`."""

    outputs: tuple[Criterion, ...]
    name: str = "prose"
    version: str = "1"
    inputs: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: ProseScorerConfig, context: FitContext) -> ProseScorer:
        """Nothing is learned. Raises ConfigError for an unknown or repeated output."""
        return cls(chosen_outputs("prose", config.outputs, OUTPUTS))

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, repr(self.outputs))

    def load(self) -> None:
        """Nothing to load."""

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """One float32 column per output; needs the column `text`. A null text is scored as an empty one."""
        texts = [text or "" for text in batch.column("text").to_pylist()]
        measured = measure(texts)
        names = [criterion.name for criterion in self.outputs]
        return pa.record_batch([float32_column(measured[name]) for name in names], names=names)


def measure(texts: Sequence[str]) -> dict[str, Values]:
    """name -> (n,) values of all outputs of n documents."""
    result = {name: np.zeros(len(texts)) for name in OUTPUTS}
    for rows, layout in layouts(texts):
        for name, values in _measure_chunk(layout).items():
            result[name][rows] = values
    return result


def _measure_chunk(layout: Layout) -> dict[str, Values]:
    words = layout.words
    first_code = layout.codes[words.start]
    lettered = (layout.word_flags & ALPHA) != 0
    digit = (first_code >= ord("0")) & (first_code <= ord("9"))
    n_words = np.maximum(words.total(lettered), 1)
    ends = _sentence_ends(layout)
    sentences = np.maximum(words.total(ends & _after_words(ends, lettered)), 1)
    letters = words.total(np.where(lettered, words.length, 0))
    per_sentence = np.minimum(n_words / sentences, LONGEST_SENTENCE)
    grade = 4.71 * (letters / n_words) + 0.5 * per_sentence - 21.43

    hashes = layout.hash(words)
    marks = np.isin(first_code, _CLAUSE_MARKS) & layout.word_is_punctuation
    clauses = words.total(marks | (index_in(hashes, _SUBORDINATOR_FORMS) >= 0))

    # a capital inside a sentence: the word before is no sentence end, and there is one in the same document
    capital = lettered & ~digit & ((layout.flags[words.start] & LOWER) == 0)
    inside = np.zeros(len(words.start), dtype=bool)
    inside[1:] = (words.document[1:] == words.document[:-1]) & ~ends[:-1]
    facts = words.total((capital & inside) | digit)
    content = words.total(lettered & (index_in(hashes, _FUNCTION_FORMS) < 0))
    personal = words.total(index_in(hashes, _PERSONAL_FORMS) >= 0)
    counted = np.maximum(words.total(lettered | digit), 1)
    return {
        "reading_grade": np.minimum(grade, 60.0),
        "clause_depth": np.minimum(clauses / np.maximum(sentences, n_words / LONGEST_SENTENCE), MOST_CLAUSES),
        "fact_density": facts / counted,
        "lexical_density": content / n_words,
        "impersonality": 1.0 - personal / n_words,
    }


def _sentence_ends(layout: Layout) -> Bool:
    """(words,) terminal punctuation before a blank, and the last word before an empty line or the document's end."""
    words = layout.words
    ends: Bool = layout.word_is_punctuation & ((layout.flags[words.start] & TERMINAL) != 0)
    ends[:-1] &= words.end[:-1] < words.start[1:]
    lines = layout.lines
    empty = lines.start[layout.words_of(lines)[0] == layout.words_of(lines)[1]]
    before: Int = np.searchsorted(words.start, empty) - 1
    ends[before[before >= 0]] = True
    last = words.first[1:][words.count > 0] - 1
    ends[last] = True
    return ends


def _after_words(ends: Bool, lettered: Bool) -> Bool:
    """(words,) ends with a lettered word between them and the end before: an end after an end ends nothing."""
    seen = np.concatenate([[0], np.cumsum(lettered)])
    here = np.flatnonzero(ends)
    begin = np.zeros(here.size, dtype=np.int64)
    begin[1:] = here[:-1] + 1
    found = np.zeros(ends.size, dtype=bool)
    found[here] = seen[here + 1] > seen[begin]
    return found
