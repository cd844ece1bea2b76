"""Do benefits add up? Linear datamodeling score of influence on the shipped pool (Park et al., arXiv 2303.14186).

    python -m benchmarks.datamodels [--documents 1500] [--subsets 40] [--seeds 3] [--workers 2]

Random halves of the documents train a proxy each, under several seeds; the loss on the references (documents of both
targets' search halves, cut like those of the pool) is the mean over seeds. A half's predicted gain is the sum of its
documents' benefits, measured with proxies that were trained on all documents, one a seed, and averaged. The score is
the Spearman correlation of predicted gain and measured loss with its sign turned, over the halves, with a 95 %
bootstrap interval; differences between kinds are paired by half. The ceiling is what a perfect predictor would reach:
the root of the reliability of the mean over seeds (Spearman-Brown from the correlation between single seeds). Beside
EK-FAC: K-FAC, diagonal, identity (the plain product of gradients) and its cosine. Nothing is tuned on the halves.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.measuring import ROOT
from proxy_models.completions import CompletionSet
from proxy_models.data import Tokens
from proxy_models.influence import (
    Bases,
    Layers,
    corrected,
    covariances,
    curvature,
    eigenbases,
    reference_gradient,
    score,
)
from proxy_models.scoring import LanguageModel, fit_language_model
from proxy_models.train import evaluate
from quadmix.config import QuadConfig, RunConfig, TokenizerConfig, TrainedModelConfig
from quadmix.config_reader import read_config
from quadmix.engine.local import LocalEngine
from quadmix.hashing import doc_hash, seed_for, uniform
from quadmix.progress import Progress
from quadmix.scorers.tokens import load_tokenizer
from quadmix.stages.side_documents import read_documents
from quadmix.stages.targets import load_targets

Floats = NDArray[np.float64]

TOKENIZER = ROOT / "examples" / "tokenizer" / "tokenizer.json"
CONFIG = ROOT / "configs" / "quad.yaml"
KINDS = ("ekfac", "kfac", "diagonal", "identity")
COSINE = "cosine"
REFERENCE_DOCS = 150  # of each target
_BOOTSTRAP = 2_000


@dataclass(frozen=True)
class Setting:
    """docs: of the pool, cut; references: of the targets, cut; both as tokens."""

    docs: tuple[Tokens, ...]
    hashes: NDArray[np.uint64]
    references: tuple[Tokens, ...]
    model: TrainedModelConfig
    vocab_size: int
    end_id: int | None
    max_tokens: int

    def train(self, members: Sequence[int], seed: int) -> LanguageModel:
        """A proxy on those documents, in an order of the seed's."""
        chosen = np.array(members)
        order = np.argsort(uniform(self.hashes[chosen], seed, "datamodels-order"), kind="stable")
        return fit_language_model(
            [self.docs[index] for index in chosen[order]], self.model.proxy, self.vocab_size, end_id=self.end_id,
            max_tokens=self.max_tokens, seed=seed_for(seed, "datamodels"),
        )  # fmt: skip


@dataclass(frozen=True)
class TrainHalf:
    """Task: (members, seed) -> (loss on the references, nats per token; CPU seconds)."""

    setting: Setting

    def __call__(self, item: tuple[tuple[int, ...], int]) -> tuple[float, float]:
        started = time.process_time()
        members, seed = item
        model = self.setting.train(members, seed)
        # each reference by itself, its first token context: the loss whose gradient the benefits are about
        first, rest = ([part(one) for one in self.setting.references] for part in (lambda t: t[:1], lambda t: t[1:]))
        held_out = CompletionSet.of_pairs(first, rest, [1] * len(rest), sum(map(len, rest)))
        return evaluate(model.decoder, held_out), time.process_time() - started


@dataclass(frozen=True)
class Benefits:
    """Task: seed -> benefits of all documents by kind, measured with a proxy trained on all of them."""

    setting: Setting

    def __call__(self, seed: int) -> dict[str, list[float]]:
        setting = self.setting
        model = setting.train(range(len(setting.docs)), seed).decoder
        layers = Layers.of(model, "all")
        sizes = {"max_tokens": setting.max_tokens}
        labels = seed_for(seed, "datamodels-labels")
        bases = eigenbases(covariances(model, layers, setting.docs, setting.hashes, labels, **sizes))
        values = {
            "ekfac": (bases, corrected(model, layers, bases, setting.docs, setting.hashes, labels, **sizes)),
            "kfac": (bases, None),
            "diagonal": (
                None,
                corrected(model, layers, Bases.none(), setting.docs, setting.hashes, labels, **sizes),
            ),
            "identity": (None, None),
        }
        gradient = reference_gradient(model, layers, setting.references, **sizes)
        found: dict[str, list[float]] = {}
        for kind in KINDS:
            base, fixed = values[kind]
            solved = curvature(kind, layers, bases=base, corrected=fixed).solve(gradient)  # type: ignore[arg-type]
            found[kind] = score(model, layers, solved, setting.docs, **sizes).tolist()
        norms = [_norm(reference_gradient(model, layers, [doc], **sizes).mean()) for doc in setting.docs]
        found[COSINE] = [value / norm for value, norm in zip(found["identity"], norms, strict=True)]
        return found


def _norm(gradient: dict[str, Floats]) -> float:
    return float(np.sqrt(sum(float((part**2).sum()) for part in gradient.values())))


def make_setting(documents: int) -> Setting:
    """Documents of the shipped pool with at least half of their tokens full, by their draws."""
    config = read_config(CONFIG)
    assert isinstance(config, RunConfig)
    quad: QuadConfig = config.quad
    assert isinstance(quad.model, TrainedModelConfig)
    tokenizer = load_tokenizer(TokenizerConfig(path=str(TOKENIZER)))
    pool = config.pool.model_copy(update={"inputs": (str(ROOT / "examples" / "pool"),)})
    rows = read_documents(pool, (), "the shipped pool")
    order = np.argsort(uniform(doc_hash([row.id for row in rows]), 0, "datamodels"), kind="stable")
    most = quad.max_tokens

    def cut(texts: Sequence[str]) -> list[Tokens]:
        return [tokens[:most] for tokens in tokenizer.encode_batch([text[: 16 * most] for text in texts])]

    chosen = [rows[index] for index in order[: 3 * documents]]
    pairs = [(row, tokens) for row, tokens in zip(chosen, cut([row.text for row in chosen]), strict=True)]
    kept = [(row, tokens) for row, tokens in pairs if len(tokens) >= most // 2][:documents]
    targets = load_targets(config)
    references = [tokens for one in targets for tokens in cut(one.search.texts[:REFERENCE_DOCS]) if len(tokens) > 1]
    return Setting(
        tuple(tokens for _, tokens in kept), doc_hash([row.id for row, _ in kept]), tuple(references), quad.model,
        tokenizer.vocab_size, tokenizer.end_id, most,
    )  # fmt: skip


def halves(count: int, subsets: int) -> list[tuple[int, ...]]:
    """Random halves of 0..count-1."""
    rng = np.random.default_rng(seed_for(0, "datamodels-halves"))
    return [tuple(np.sort(rng.permutation(count)[: count // 2]).tolist()) for _ in range(subsets)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--documents", type=int, default=1_500)
    arguments.add_argument("--subsets", type=int, default=40)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    setting = make_setting(given.documents)
    parts = halves(len(setting.docs), given.subsets)
    items = list(itertools.product(parts, range(given.seeds)))
    with LocalEngine(given.workers, Progress.for_terminal()) as engine:
        measured = dict(engine.map(Benefits(setting), list(range(given.seeds)), label="benefits"))
        done: dict[int, Any] = dict(engine.map(TrainHalf(setting), items, label="proxies on halves"))
    losses = np.array([done[index][0] for index in range(len(items))]).reshape(given.subsets, given.seeds)
    seconds = sum(done[index][1] for index in range(len(items)))
    tokens = sum(map(len, setting.docs))
    print(
        f"{len(setting.docs)} documents, {tokens:,} tokens; {given.subsets} halves x {given.seeds} seeds, "
        f"{seconds:.0f} CPU s of training; loss {losses.mean():.3f}, sd over halves {losses.mean(axis=1).std():.4f}, "
        f"over seeds {losses.std(axis=1).mean():.4f}"
    )
    between = [
        spearmanr(losses[:, a], losses[:, b]).statistic for a, b in itertools.combinations(range(given.seeds), 2)
    ]
    single = float(np.mean(between))
    reliability = given.seeds * single / (1.0 + (given.seeds - 1) * single)
    print(f"one seed against another {single:.3f}; ceiling {np.sqrt(max(reliability, 0.0)):.3f}")
    inside = np.zeros((given.subsets, len(setting.docs)), dtype=bool)
    for row, members in enumerate(parts):
        inside[row, list(members)] = True
    rng = np.random.default_rng(0)
    draws = rng.integers(0, given.subsets, (_BOOTSTRAP, given.subsets))
    gain = -losses.mean(axis=1)
    first: Floats | None = None
    for kind in (*KINDS, COSINE):
        benefits = np.mean([measured[seed][kind] for seed in range(given.seeds)], axis=0)
        predicted = np.where(inside, benefits, 0.0).sum(axis=1)
        found = spearmanr(predicted, gain).statistic
        spread = np.array([spearmanr(predicted[rows], gain[rows]).statistic for rows in draws])
        low, high = np.quantile(spread, [0.025, 0.975])
        first = spread if first is None else first
        behind, ahead = np.quantile(spread - first, [0.025, 0.975])
        line = f"{kind:10} {found:6.3f}  ({low:.3f} to {high:.3f})"
        print(
            line if first is spread else f"{line}; less {KINDS[0]}, paired: {behind:+.3f} to {ahead:+.3f}", flush=True
        )


if __name__ == "__main__":
    main()
