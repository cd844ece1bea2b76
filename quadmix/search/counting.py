"""A counting proxy: the loss of any mixture on the targets, in milliseconds, from n-grams that were counted once.

Trigrams, bigrams, unigrams and the uniform distribution, each order with a Dirichlet prior of the order below:
p(w | h) = (c(h, w) + m p(w | shorter h)) / (c(h) + m) (MacKay and Peto 1995). Only n-grams of the held-out text
matter, so a pool is one sparse matrix (documents x what is counted), and the counts of a mixture are its copies times
that matrix. The three m are fitted on the natural mixture. It knows nothing of what a transformer learns beyond three
tokens, and still ranks mixtures as large proxies do (docs/decisions.md): a first fidelity, never a verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ORDERS = 3
LARGEST_VOCABULARY = 1 << 21  # three tokens fit into 63 bits
_START = (10.0, 100.0, 100.0)  # of the prior's fit
AT_ONCE = 16  # mixtures a product: the matrix is read once for all of them


@dataclass(frozen=True)
class Known:
    """The different n-grams and contexts of all targets, by order 1..3, sorted; the columns of what is counted.

    rows, context_rows: by target and order, (tokens,) which of them a held-out token is.
    """

    vocabulary: int
    grams: tuple[Ints, ...]
    contexts: tuple[Ints, ...]
    rows: tuple[tuple[Ints, ...], ...]
    context_rows: tuple[tuple[Ints, ...], ...]

    @staticmethod
    def of(targets: Sequence[Ints], vocabulary: int) -> Known:
        """targets: (n, 3) windows each, a held-out token behind the two before it."""
        every = np.concatenate(targets)
        cuts = np.cumsum([len(windows) for windows in targets])[:-1]
        grams: list[Ints] = []
        contexts: list[Ints] = []
        rows: list[list[Ints]] = []
        context_rows: list[list[Ints]] = []
        for order in range(1, ORDERS + 1):
            context, whole = _codes(every, order, vocabulary)
            for values, names, places in ((whole, grams, rows), (context, contexts, context_rows)):
                different, place = np.unique(values, return_inverse=True)
                names.append(different)
                places.append(np.split(place.astype(np.int64), cuts))
        return Known(
            vocabulary,
            tuple(grams),
            tuple(contexts),
            tuple(zip(*rows, strict=True)),
            tuple(zip(*context_rows, strict=True)),
        )

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
    """Documents counted. matrix: (docs, columns of `known`); prior: (orders,) the m of unigrams, bigrams, trigrams."""

    known: Known
    matrix: csr_matrix
    prior: Floats

    @staticmethod
    def of(known: Known, files: Sequence[Path], natural: Floats) -> CountedSample:
        """files: of `scipy.sparse.save_npz`, the documents' counts in turn; natural: (docs,) copies, to which the prior
        is fitted."""
        from scipy.sparse import load_npz, vstack

        matrix = vstack([load_npz(path) for path in files], format="csr")
        return CountedSample(known, matrix, np.array(_START)).fitted(natural)

    def losses(self, copies: Floats) -> Floats:
        """(k, docs) copies, fractions allowed -> (k, n_targets) nats per token."""
        parts = [self._block(copies[start : start + AT_ONCE]) for start in range(0, len(copies), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.known.rows)))

    def _block(self, copies: Floats) -> Floats:
        counted = self._counted(copies)
        return np.stack([_loss(found, self.prior, self.known.vocabulary) for found in counted], axis=1)

    def _counted(self, copies: Floats) -> list[list[tuple[Floats, Floats]]]:
        """By target and order: counts of every held-out token's n-gram and of its context, (tokens, k) each."""
        counts = np.asarray(self.matrix.T @ np.ascontiguousarray(copies.T))
        found = []
        for rows, context_rows in zip(self.known.rows, self.known.context_rows, strict=True):
            first, orders = 0, []
            for order in range(ORDERS):
                grams, contexts = len(self.known.grams[order]), len(self.known.contexts[order])
                orders.append((counts[first + rows[order]], counts[first + grams + context_rows[order]]))
                first += grams + contexts
            found.append(orders)
        return found

    def fitted(self, copies: Floats) -> CountedSample:
        """The same counts with the prior that gives this mixture, (docs,) copies, the lowest mean loss."""
        from scipy.optimize import minimize

        counted = self._counted(copies[None])

        def mean_loss(logs: Floats) -> float:
            return float(np.mean([_loss(one, np.exp(logs), self.known.vocabulary)[0] for one in counted]))

        found = minimize(mean_loss, np.log(self.prior), method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-5})
        return CountedSample(self.known, self.matrix, np.exp(found.x))

    def save(self, path: str) -> None:
        """One .npz file."""
        known = self.known
        arrays = {"vocabulary": np.array([known.vocabulary, len(known.rows)]), "prior": self.prior}
        for order in range(ORDERS):
            arrays |= {f"grams-{order}": known.grams[order], f"contexts-{order}": known.contexts[order]}
            for target in range(len(known.rows)):
                arrays[f"rows-{target}-{order}"] = known.rows[target][order]
                arrays[f"context-rows-{target}-{order}"] = known.context_rows[target][order]
        arrays |= {name: getattr(self.matrix, name) for name in ("data", "indices", "indptr")}
        with open(path, "wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)


@lru_cache(maxsize=2)
def load_counted(path: str) -> CountedSample:
    """What `save` wrote; kept for the next call in this process."""
    from scipy.sparse import csr_matrix

    with np.load(path, allow_pickle=False) as stored:
        vocabulary, targets = stored["vocabulary"].tolist()
        grams, contexts = (
            tuple(stored[f"{name}-{order}"] for order in range(ORDERS)) for name in ("grams", "contexts")
        )
        rows, context_rows = (
            tuple(tuple(stored[f"{name}-{target}-{order}"] for order in range(ORDERS)) for target in range(targets))
            for name in ("rows", "context-rows")
        )
        columns = sum(len(part) for part in (*grams, *contexts))
        parts = (stored["data"], stored["indices"], stored["indptr"])
        matrix = csr_matrix(parts, shape=(len(parts[2]) - 1, columns))
        return CountedSample(Known(vocabulary, grams, contexts, rows, context_rows), matrix, stored["prior"])


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


def _loss(counted: Sequence[tuple[Floats, Floats]], prior: Floats, vocabulary: int) -> Floats:
    """(k,) mean nats per token; fewer orders than were counted leave out the longer ones."""
    chance: Floats | float = 1.0 / vocabulary
    for strength, (whole, context) in zip(prior, counted, strict=False):
        chance = (whole + strength * chance) / (context + strength)
    # one mixture a row: a sum's last bits are then the same however many mixtures come together
    return np.asarray(-np.ascontiguousarray(np.log(chance).T).mean(axis=1))
