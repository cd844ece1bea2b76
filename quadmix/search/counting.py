"""A counting proxy: the loss of any mixture on the targets, in milliseconds, from n-grams that were counted once.

Trigrams, bigrams, unigrams and the uniform distribution, each order with a Dirichlet prior of the order below:
p(w | h) = (c(h, w) + m p(w | shorter h)) / (c(h) + m) (MacKay and Peto 1995). Only n-grams of the held-out text
matter, so a pool is one sparse matrix (documents x what is counted), and the counts of a mixture are its copies times
that matrix. The three m are fitted on the natural mixture. It knows nothing of what a transformer learns beyond three
tokens, and still ranks mixtures as large proxies do (docs/decisions.md): a first fidelity, never a verdict.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quadmix.manifest.durable import write_atomically

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = 3
LARGEST_VOCABULARY = 1 << 21  # three tokens fit into 63 bits; one entry stays free
START = (10.0, 100.0, 100.0)  # of the prior's fit
AT_ONCE = 16  # mixtures a product: the matrix is read once for all of them


@dataclass(frozen=True)
class Known:
    """What is counted: the different n-grams of all targets and their contexts, by order 1..3, as sorted codes.

    context: by order, (n-grams,) each one's context; shorter: by order, (n-grams,) the n-gram without its first token,
    among those of the order below (of unigrams: nothing); weights: (n_targets, trigrams) how often a target holds each.
    """

    vocabulary: int
    grams: tuple[Ints, ...]
    contexts: tuple[Ints, ...]
    context: tuple[Ints, ...]
    shorter: tuple[Ints, ...]
    weights: Floats

    @staticmethod
    def of(targets: Sequence[Ints], vocabulary: int) -> Known:
        """targets: (n, 3) windows each, a held-out token behind the two before it."""
        windows, place = np.unique(np.concatenate(targets), axis=0, return_inverse=True)
        ends = np.cumsum([0, *(len(one) for one in targets)])
        parts = [place.reshape(-1)[first:last] for first, last in itertools.pairwise(ends.tolist())]
        weights = np.stack([np.bincount(part, minlength=len(windows)) / len(part) for part in parts])
        coded = [_codes(windows, order, vocabulary) for order in range(1, ORDERS + 1)]
        grams = [np.unique(gram) for _, gram in coded]
        contexts = [np.unique(context) for context, _ in coded]
        shorter, context = [np.zeros(0, dtype=np.int64)], []
        for order, known in enumerate(grams):
            context.append(np.searchsorted(contexts[order], known // vocabulary))
            if order:
                shorter.append(np.searchsorted(grams[order - 1], known % vocabulary**order))
        # windows are sorted as their trigram codes are
        return Known(vocabulary, tuple(grams), tuple(contexts), tuple(context), tuple(shorter), weights)

    @property
    def columns(self) -> int:
        return sum(len(part) for part in (*self.grams, *self.contexts))

    def count(self, documents: Sequence[Ints], end: int) -> csr_matrix:
        """(documents, columns): how often each document holds what is known. `end` stands before a document."""
        from scipy.sparse import csr_matrix

        windows = np.concatenate([windows_of(tokens, end) for tokens in documents])
        owner = np.repeat(np.arange(len(documents)), [len(tokens) for tokens in documents])
        rows: list[Ints] = []
        columns: list[Ints] = []
        first = 0
        for order, (grams, contexts) in enumerate(zip(self.grams, self.contexts, strict=True), start=1):
            context, whole = _codes(windows, order, self.vocabulary)
            place, hit = _find(contexts, context)
            rows.append(owner[hit])
            columns.append(first + len(grams) + place[hit])
            # an n-gram is known only where its context is
            inside = np.flatnonzero(hit)
            place, hit = _find(grams, whole[inside])
            rows.append(owner[inside[hit]])
            columns.append(first + place[hit])
            first += len(grams) + len(contexts)
        row, column = np.concatenate(rows), np.concatenate(columns)
        found = csr_matrix((np.ones(row.size), (row, column)), shape=(len(documents), first))
        found.sum_duplicates()
        return found


def windows_of(tokens: Ints, end: int) -> Ints:
    """(n, 3): every token behind the two before it; before the first stands `end`."""
    if not len(tokens):
        return np.zeros((0, ORDERS), dtype=np.int64)
    led = np.concatenate([np.full(ORDERS - 1, end, dtype=np.int64), np.asarray(tokens, dtype=np.int64)])
    return np.lib.stride_tricks.sliding_window_view(led, ORDERS)


def _codes(windows: Ints, order: int, vocabulary: int) -> tuple[Ints, Ints]:
    """(context, n-gram) of every window, as numbers in base `vocabulary`."""
    context = np.zeros(len(windows), dtype=np.int64)
    for column in range(ORDERS - order, ORDERS - 1):
        context = context * vocabulary + windows[:, column]
    return context, context * vocabulary + windows[:, -1]


def _find(known: Ints, values: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Place of each value among the sorted known ones, and whether it is one of them."""
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return place.astype(np.int64), np.asarray(known[place] == values)


@dataclass(frozen=True)
class CountedSample:
    """Documents counted. matrix: (columns of `known`, docs); prior: (orders,) the m of unigrams, bigrams, trigrams."""

    known: Known
    matrix: csr_matrix
    prior: Floats

    @staticmethod
    def of(known: Known, files: Sequence[Path], natural: Floats) -> CountedSample:
        """files: of `scipy.sparse.save_npz`, the documents' counts in turn; natural: (docs,) copies, to which the prior
        is fitted."""
        from scipy.sparse import load_npz, vstack

        # by columns of what is counted: a product then runs through the copies in order, three times faster
        matrix = vstack([load_npz(path) for path in files], format="csc").T
        return CountedSample(known, matrix, np.array(START)).fitted(natural)

    def losses(self, copies: Floats) -> Floats:
        """(k, docs) copies, fractions allowed -> (k, n_targets) nats per token."""
        parts = [copies[start : start + AT_ONCE] for start in range(0, len(copies), AT_ONCE)]
        found = [self._losses(self._counted(part), self.prior) for part in parts]
        return np.concatenate(found) if found else np.zeros((0, len(self.known.weights)))

    def fitted(self, copies: Floats) -> CountedSample:
        """The same counts with the prior that gives this mixture, (docs,) copies, the lowest mean loss."""
        from scipy.optimize import minimize

        counted = self._counted(copies[None])

        def mean_loss(logs: Floats) -> float:
            return float(self._losses(counted, np.exp(logs)).mean())

        found = minimize(mean_loss, np.log(self.prior), method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-5})
        return CountedSample(self.known, self.matrix, np.exp(found.x))

    def _counted(self, copies: Floats) -> list[tuple[Floats, Floats]]:
        """By order: counts of every n-gram and of its context, (n-grams, k) each."""
        counts = np.asarray(self.matrix @ np.ascontiguousarray(copies.T))
        found, first = [], 0
        for grams, contexts, context in zip(self.known.grams, self.known.contexts, self.known.context, strict=True):
            behind = first + len(grams)
            found.append((counts[first:behind], counts[behind + context]))
            first = behind + len(contexts)
        return found

    def _losses(self, counted: Sequence[tuple[Floats, Floats]], prior: Floats) -> Floats:
        """(k, n_targets) mean nats per token."""
        chance: Floats | float = 1.0 / self.known.vocabulary
        for strength, (whole, context), shorter in zip(prior, counted, self.known.shorter, strict=True):
            below = chance[shorter] if isinstance(chance, np.ndarray) else chance
            chance = (whole + strength * below) / (context + strength)
        # one mixture a row: a sum's last bits are then the same however many mixtures come together
        logs = np.ascontiguousarray(np.log(chance).T)
        return np.stack([-(logs * weights).sum(axis=1) for weights in self.known.weights], axis=1)

    def save(self, path: str) -> None:
        """One .npz file."""
        known = self.known
        arrays = {"vocabulary": np.array([known.vocabulary]), "prior": self.prior, "weights": known.weights}
        for name in _BY_ORDER:
            arrays |= {f"{name}-{order}": part for order, part in enumerate(getattr(known, name))}
        arrays |= {name: getattr(self.matrix, name) for name in _SPARSE} | {"docs": np.array(self.matrix.shape[1:])}
        held = io.BytesIO()
        np.savez(held, allow_pickle=False, **arrays)
        write_atomically(Path(path), held.getvalue())


_BY_ORDER = ("grams", "contexts", "context", "shorter")
_SPARSE = ("data", "indices", "indptr")


@lru_cache(maxsize=2)
def load_counted(path: str) -> CountedSample:
    """What `save` wrote; kept for the next call in this process."""
    from scipy.sparse import csr_matrix

    with np.load(path, allow_pickle=False) as stored:
        lists = {name: tuple(stored[f"{name}-{order}"] for order in range(ORDERS)) for name in _BY_ORDER}
        known = Known(int(stored["vocabulary"][0]), **lists, weights=stored["weights"])
        matrix = csr_matrix(tuple(stored[name] for name in _SPARSE), shape=(known.columns, int(stored["docs"][0])))
        return CountedSample(known, matrix, stored["prior"])


@dataclass(frozen=True)
class Counts:
    """The counting proxy of a search, as tasks carry it. path: of a `CountedSample`; targets: names of its columns;
    places: (docs,) its documents' rows in the sample on which mixtures are measured."""

    path: str
    targets: tuple[str, ...]
    places: Ints

    def losses(self, copies: Floats) -> Floats:
        """(k, n) copies of the sample's documents -> (k, n_targets)."""
        return load_counted(self.path).losses(copies[:, self.places])
