"""Documents per CPU second and peak memory of influence against kronfluence: scoring and factors, on the same models.

    python -m benchmarks.influence [--shapes small,1m,10m,llama] [--rounds 3]

Needs kronfluence (infra/no_deps.txt), and transformers for `llama`. Both sides get the same model, the same generated
documents (log-normal lengths, cut to 512 tokens) sorted by length, EK-FAC, damping a tenth of the mean eigenvalue, and
one thread. kronfluence aggregates the queries' gradients, so that it scores against one vector as we do, and is
given its faster batch size of those tried (BATCHES). Timed are its own loops alone: no query gradient, no disk, no data
loader's start. Its loss is the cross-entropy of the model's logits, summed; padding is masked.

CPU time, the sides taking turns, the median of the rounds; memory of fresh processes, beside one that only builds the
model. Before anything is timed, both must give the same benefits: with no curvature to 1e-3 of the largest, with each
side's own EK-FAC factors (labels drawn by each, S of ours by layer and not by stack) at Spearman .9. The exit code is 1
where they do not, or where a bar is missed: scoring and factors at least as fast (goal for scoring: 1.5 times).
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from benchmarks.measuring import measure
from proxy_models.curvature import Vector
from proxy_models.data import Tokens
from proxy_models.influence import (
    Layers,
    corrected,
    covariances,
    curvature,
    eigenbases,
    reference_gradient,
    score,
)
from proxy_models.model import Decoder
from proxy_models.train import one_thread
from quadmix.config_proxy import ProxyConfig

MAX_TOKENS = 512
BAR, GOAL = 1.0, 1.5
QUERIES = 4


@dataclass(frozen=True)
class Shape:
    """docs: scored in a round; batches: documents in a batch of kronfluence, the faster is used."""

    d_model: int
    layers: int
    heads: int
    d_ff: int
    vocab: int
    docs: int
    batches: tuple[int, ...]
    llama: bool = False

    def model(self) -> nn.Module:
        """With weights as after some training: no product is zero, and its losses are above chance."""
        if self.llama:
            from transformers import LlamaConfig, LlamaForCausalLM

            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=self.vocab,
                hidden_size=self.d_model,
                intermediate_size=self.d_ff,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                max_position_embeddings=MAX_TOKENS,
            )
            return LlamaForCausalLM(config).eval()
        config = ProxyConfig(
            preset="custom",
            d_model=self.d_model,
            layers=self.layers,
            heads=self.heads,
            d_ff=self.d_ff,
            seq_len=MAX_TOKENS,
            batch=8,
        )
        model = Decoder(config, self.vocab, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            model.embedding.normal_(std=0.1, generator=generator)
            for block in model.blocks:
                for matrix in (block.out, block.down):
                    matrix.weight.normal_(std=0.5 * matrix.in_features**-0.5, generator=generator)
        return model


SHAPES = {
    "small": Shape(64, 2, 2, 192, 4096, 96, (8, 32)),
    "1m": Shape(256, 2, 8, 512, 32_768, 24, (2, 8)),
    "10m": Shape(512, 4, 8, 1024, 32_768, 10, (2, 8)),
    "llama": Shape(256, 2, 8, 512, 4096, 48, (8, 16), llama=True),
}


def documents(shape: Shape) -> list[Tokens]:
    generator = np.random.Generator(np.random.PCG64(0))
    lengths = np.sort(np.clip(generator.lognormal(5.3, 0.8, shape.docs), 8, MAX_TOKENS).astype(int))
    weights = 1.0 / (np.arange(shape.vocab) + 8.0)
    return [generator.choice(shape.vocab, n, p=weights / weights.sum()).astype(np.uint16) for n in lengths.tolist()]


class Ours:
    """What a run of this project does, in the same two steps."""

    def __init__(self, shape: Shape, way: str = "auto") -> None:
        self._model, self._docs, self._way = shape.model(), documents(shape), way
        self._layers = Layers.of(self._model)
        self._hashes = np.arange(len(self._docs), dtype=np.uint64)
        self.vector = self.solved("identity")

    def solved(self, kind: Any) -> Vector:
        gradient = reference_gradient(self._model, self._layers, self._docs[-QUERIES:], max_tokens=MAX_TOKENS)
        factors = self.factors() if kind == "ekfac" else {}
        return curvature(kind, self._layers, **factors).solve(gradient)

    def factors(self) -> dict[str, Any]:
        given = (self._docs, self._hashes, 0)
        bases = eigenbases(covariances(self._model, self._layers, *given, max_tokens=MAX_TOKENS))
        return {
            "bases": bases,
            "corrected": corrected(self._model, self._layers, bases, *given, max_tokens=MAX_TOKENS),
        }

    def score(self) -> NDArray[np.float64]:
        way: Any = self._way
        return score(self._model, self._layers, self.vector, self._docs, way=way, max_tokens=MAX_TOKENS)


class Theirs:
    """kronfluence on the same model and documents."""

    def __init__(self, shape: Shape, batch: int) -> None:
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.utils.dataset import DataLoaderKwargs

        self._batch, self._docs = batch, documents(shape)
        task = task_of(Layers.of(shape.model()))
        self._folder = tempfile.TemporaryDirectory()
        self._analyzer = Analyzer(
            "benchmark",
            prepare_model(shape.model(), task),
            task,
            cpu=True,
            disable_tqdm=True,
            disable_model_save=True,
            output_dir=self._folder.name,
        )
        self._analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collate))
        self.seconds = dict.fromkeys(("score", "factors"), 0.0)
        self._time_its_loops()

    def _time_its_loops(self) -> None:
        from kronfluence.computer import factor_computer
        from kronfluence.score import pairwise

        for module, name, kind in (
            (pairwise, "compute_dot_products_with_loader", "score"),
            (factor_computer, "fit_covariance_matrices_with_loader", "factors"),
            (factor_computer, "perform_eigendecomposition", "factors"),
            (factor_computer, "fit_lambda_matrices_with_loader", "factors"),
        ):
            inner = getattr(module, name)
            inner = getattr(inner, "inner", inner)

            def timed(*given: Any, inner: Callable[..., Any] = inner, kind: str = kind, **named: Any) -> Any:
                started = time.process_time()
                found = inner(*given, **named)
                self.seconds[kind] += time.process_time() - started
                return found

            timed.inner = inner  # type: ignore[attr-defined]
            setattr(module, name, timed)

    def factors(self, strategy: str = "ekfac") -> None:
        from kronfluence.arguments import FactorArguments

        self._analyzer.fit_all_factors(
            strategy,
            self._docs,
            per_device_batch_size=self._batch,
            factor_args=FactorArguments(strategy=strategy),
            overwrite_output_dir=True,
        )

    def score(self, strategy: str = "ekfac") -> NDArray[np.float64]:
        """Of the documents' mean losses against the queries' mean loss, as ours are."""
        from kronfluence.arguments import ScoreArguments

        queries = self._docs[-QUERIES:]
        self._analyzer.compute_pairwise_scores(
            "scores",
            factors_name=strategy,
            query_dataset=queries,
            train_dataset=self._docs,
            per_device_query_batch_size=QUERIES,
            per_device_train_batch_size=self._batch,
            score_args=ScoreArguments(damping_factor=None, aggregate_query_gradients=True),
            overwrite_output_dir=True,
        )
        by_sum = self._analyzer.load_pairwise_scores("scores")["all_modules"][0].double().numpy()
        lengths = np.array([len(doc) - 1 for doc in self._docs])
        return by_sum / lengths / sum(len(query) - 1 for query in queries)

    def timed(self, kind: str) -> float:
        """CPU seconds of its own loops in one run."""
        self._time_its_loops()
        self.seconds[kind] = 0.0
        self.factors() if kind == "factors" else self.score()
        return self.seconds[kind]


def task_of(layers: Layers) -> Any:
    """A kronfluence task: language modelling over the same linear modules."""
    from kronfluence.task import Task

    class LanguageModelling(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            out = model(batch["inputs"])
            logits = getattr(out, "logits", out).flatten(0, 1)
            targets = batch["targets"].flatten()
            if sample:
                with torch.no_grad():
                    drawn = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
                targets = torch.where(targets < 0, targets, drawn)
            return F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return [layer.module for layer in layers.layers]

        def get_attention_mask(self, batch: Any) -> Tensor:
            mask: Tensor = batch["mask"]
            return mask

    return LanguageModelling()


def collate(docs: list[Tokens]) -> dict[str, Tensor]:
    lengths = np.array([len(doc) - 1 for doc in docs])
    table = np.zeros((len(docs), int(lengths.max()) + 1), dtype=np.int64)
    for row, doc in enumerate(docs):
        table[row, : len(doc)] = doc
    real = np.arange(table.shape[1] - 1) < lengths[:, None]
    targets = np.where(real, table[:, 1:], -100)
    return {
        "inputs": torch.from_numpy(table[:, :-1].copy()),
        "targets": torch.from_numpy(targets),
        "mask": torch.from_numpy(real.astype(np.int64)),
    }


def agree(ours: Ours, theirs: Theirs) -> bool:
    """Both give the same benefits."""
    ours.vector = ours.solved("identity")
    theirs.factors("identity")
    mine, other = ours.score(), theirs.score("identity")
    gap = float(np.abs(mine - other).max() / np.abs(other).max())
    ours.vector = ours.solved("ekfac")
    theirs.factors()
    rank = float(spearmanr(ours.score(), theirs.score()).statistic)
    print(f"same benefits: identity within {gap:.1e} of the largest, EK-FAC at Spearman {rank:.4f}")
    return gap < 1e-3 and rank > 0.9


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(name: str, shape: Shape, rounds: int) -> bool:
    """Time one shape; whether results agree and the bars are met."""
    ours, ways = Ours(shape), {way: Ours(shape, way) for way in ("hooks", "forward_mode")}
    tried = {batch: Theirs(shape, batch) for batch in shape.batches}
    parameters = sum(int(np.prod(s)) for s in Layers.of(shape.model()).shapes().values())
    tokens = sum(map(len, documents(shape)))
    print(f"\n{name}: {parameters:,} parameters in layers, d {shape.d_model}, {shape.layers} layers, ", end="")
    print(
        f"vocabulary {shape.vocab:,}; {shape.docs} documents of {tokens / shape.docs:.0f} tokens on average", flush=True
    )
    alike = agree(ours, tried[shape.batches[0]])
    for batch, other in tried.items():
        if batch != shape.batches[0]:
            other.factors()
    times: dict[str, list[float]] = {}

    def note(side: str, seconds: float) -> None:
        times.setdefault(side, []).append(seconds)

    for _ in range(rounds):
        for way, side in ways.items():
            note(f"score, ours by {way}", cpu_seconds(side.score))
        for batch, other in tried.items():
            note(f"score, kronfluence in batches of {batch}", other.timed("score"))
    for _ in range(max(1, rounds - 1)):
        note("factors, ours", cpu_seconds(ours.factors))
        for batch, other in tried.items():
            note(f"factors, kronfluence in batches of {batch}", other.timed("factors"))
    middle = {side: statistics.median(seconds) for side, seconds in times.items()}
    for side, seconds in middle.items():
        spread = f"{shape.docs / max(times[side]):.1f} to {shape.docs / min(times[side]):.1f}"
        print(
            f"{side:45s} {shape.docs / seconds:8.1f} documents/s ({spread}), {1e3 * seconds / shape.docs:.2f} ms each"
        )
    met = alike
    for kind, goal in (("score", GOAL), ("factors", BAR)):
        rivals = [seconds for side, seconds in middle.items() if side.startswith(f"{kind}, kron")]
        mine = middle["score, ours by hooks" if kind == "score" else "factors, ours"]
        ratio = min(rivals) / mine
        verdict = "goal met" if ratio >= goal else "bar met" if ratio >= BAR else "MISSED"
        print(f"{kind}: {ratio:.2f} times kronfluence at its faster batch size (bar {BAR}, goal {goal}): {verdict}")
        met &= ratio >= BAR
    fastest = min(shape.batches, key=lambda b: middle[f"score, kronfluence in batches of {b}"])
    for what in ("nothing", "score hooks", "score forward_mode", f"score {fastest}", "factors", f"factors {fastest}"):
        command = [sys.executable, "-m", "benchmarks.influence", "--shapes", name, "--one", what]
        side = f"kronfluence, {what}" if what[-1].isdigit() else f"ours, {what}"
        print(f"peak memory {side:40s} {measure(command, {'OMP_NUM_THREADS': '1'}).peak:7.0f} MiB", flush=True)
    return met


def one(shape: Shape, what: str) -> None:
    """A process whose memory is measured: one run of one side."""
    kind, _, side = what.partition(" ")
    if what == "nothing":
        shape.model()
    elif side.isdigit():
        theirs = Theirs(shape, int(side))
        theirs.factors("ekfac" if kind == "factors" else "identity")
        if kind == "score":
            theirs.score("identity")
    elif kind == "factors":
        Ours(shape).factors()
    else:
        Ours(shape, side).score()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without kronfluence's and accelerate's messages."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="small,1m,10m,llama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", metavar="WHAT", help="one process whose memory is measured")
    asked = parser.parse_args()
    chosen = {name: SHAPES[name] for name in asked.shapes.split(",")}
    with quiet(), one_thread():
        if asked.one:
            for shape in chosen.values():
                one(shape, asked.one)
            return 0
        met = [compare(name, shape, asked.rounds) for name, shape in chosen.items()]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
