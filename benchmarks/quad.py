"""Does Quad keep junk out, and do models of what it selects become better? Against its rivals, on text with junk.

    apt-get download manpages-de && dpkg-deb -x manpages-de_*.deb pages
    python -m benchmarks.quad --work FOLDER --foreign pages [--seeds 5] [--workers 2]

The pool: documents of the shipped one (or of --pool) with planted junk, a tenth each: shuffled words, copies, another
language. The reference is one of the shipped targets (its search half, as in any run); the other is never seen.
Contestants at equal tokens: Quad by EK-FAC, Quad by the plain product of gradients, random documents, equal tokens of
every cluster, whole clusters by Quad's own measurements, documents by their own benefit (all of them scored). Then at
equal cost, selection counted (`quad_costs`): who selects for less reads more tokens. Each trains a target model larger
than the proxy that selected. A seed moves everything: documents, junk, clusters, proxy, pulls, draws, and the target
model's weights and order; contestants of one seed share the last two. Intervals are Student's t, 95 %, of differences
to Quad paired by seed. Finished steps are found again after a kill: run the same command.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.measuring import ROOT
from benchmarks.quad_costs import Prices, prices
from benchmarks.quad_foreign import foreign_texts
from benchmarks.quad_page import page
from benchmarks.quad_pool import CLEAN, JUNK, junk_of_each_kind, plant
from benchmarks.quad_selections import (
    CURVATURES,
    Floats,
    Measured,
    Pool,
    ScoreAll,
    Selection,
    all_benefits,
    best_clusters,
    best_documents,
    measure_quad,
    proxy_of,
    read_kinds,
    unscored,
)
from benchmarks.results import Costs
from proxy_models.data import EvalSet, TokenPool, write_segment
from proxy_models.train import train_proxy
from quadmix.config import RunConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.config_reader import read_config
from quadmix.engine.base import Engine
from quadmix.engine.local import LocalEngine
from quadmix.hashing import fingerprint, seed_for
from quadmix.manifest.durable import write_atomically
from quadmix.progress import Progress
from quadmix.scorers.tokens import load_tokenizer
from quadmix.search.journal import Journal
from quadmix.stages.annotate import Annotated, annotate
from quadmix.stages.records import run_lock
from quadmix.stages.side_documents import read_documents
from quadmix.stages.targets import load_targets

CONFIG = ROOT / "configs" / "quad.yaml"
TARGET_MODEL = ProxyConfig(
    preset="custom", d_model=96, layers=2, heads=3, d_ff=288, seq_len=128, batch=8, lr=0.015, warmup=40
)
EVAL_TOKENS = 30_000


@dataclass(frozen=True)
class Setting:
    """documents: clean ones of a pool; share: of the pool, of each kind of junk; budget: of the pool's tokens;
    docs_per_pull: half of the default, so that a first pull of every cluster takes no more of what may be scored than
    in a larger pool; train_tokens: of the proxy, half of the default; reference, unseen: names of targets."""

    pool: Path
    foreign: Path
    documents: int
    share: float = 0.1
    budget: float = 0.05
    docs_per_pull: int = 8
    train_tokens: int = 300_000
    reference: str = "encyclopedia"
    unseen: str = "howto"
    config: Path = CONFIG
    target_model: ProxyConfig = TARGET_MODEL

    @property
    def key(self) -> str:
        return fingerprint(repr(self), self.config.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class TrainTarget:
    """Task: rows -> losses of a target model that reads them once, nats per token. Everything but the rows is the
    same for all contestants of a seed."""

    segment: str
    evals: tuple[tuple[str, str], ...]
    model: ProxyConfig
    vocab_size: int
    seed: int

    def __call__(self, rows: tuple[int, ...]) -> dict[str, Any]:
        pool = TokenPool([self.segment])
        stream = pool.pack(np.array(rows), np.ones(len(rows), dtype=np.int64), self.seed)
        found = train_proxy(
            self.model, self.vocab_size, stream, init_seed=seed_for(self.seed, "target-init"),
            order_seed=seed_for(self.seed, "target-order"),
            eval_sets={name: EvalSet.load(path) for name, path in self.evals},
        )  # fmt: skip
        return {"losses": found.losses, "tokens": len(stream)}


class SeedRun:
    """One seed, from the pool to the target models."""

    def __init__(self, setting: Setting, work: Path, seed: int, workers: int) -> None:
        self.setting, self.seed, self.workers = setting, seed, workers
        self.folder = work / setting.key[:8] / f"seed-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.costs = Costs(self.folder / "costs.json")
        self.progress = Progress.for_terminal()

    def result(self) -> dict[str, Any]:
        path = self.folder / "result.json"
        if path.is_file() and (known := json.loads(path.read_bytes()))["key"] == self.setting.key:
            return dict(known)
        with run_lock(self.folder / "run"):
            found = {"key": self.setting.key, "seed": self.seed, **self._result()}
        write_atomically(path, json.dumps(found, indent=1).encode("utf-8"))
        return found

    def _result(self) -> dict[str, Any]:
        # workers end inside the step, so that their CPU seconds are known
        with self.costs.step("seed"), LocalEngine(self.workers, self.progress) as engine:
            found = self._contest(engine)
        return {**found, "cpu_seconds": self.costs.seconds["seed"]}

    def _contest(self, engine: Engine) -> dict[str, Any]:
        setting = self.setting
        kinds = self._planted()
        config = self._config(1)
        annotated = annotate(config, engine, self.progress)
        pool = Pool(annotated)
        budget = int(setting.budget * int(pool.tokens.sum()))
        measured = {one: measure_quad(self._config(budget, one), engine, annotated, pool) for one in CURVATURES}
        segment, evals, vocabulary = self._tokens(pool)
        quad = measured["ekfac"]
        most = config.quad.max_tokens
        vectors = tuple(measured[one].vector for one in CURVATURES)
        task = ScoreAll(quad.model, vectors, segment, most)
        benefits = dict(zip(CURVATURES, all_benefits(engine, task, len(pool.ids), self.folder), strict=True))
        costs = prices(setting.target_model, proxy_of(config).proxy, vocabulary, most)
        chosen = {
            "quad": quad.selection,
            "quad_identity": measured["identity"].selection,
            "random": unscored(pool, quad, "random", budget, self.seed),
            "cluster_uniform": unscored(pool, quad, "cluster_uniform", budget, self.seed),
            "top_clusters": best_clusters(pool, quad, self.seed),
            "top_documents": best_documents(pool, quad, benefits["ekfac"], budget, most),
            "top_documents_identity": best_documents(pool, measured["identity"], benefits["identity"], budget, most),
        }
        chosen |= self._at_equal_cost(engine, annotated, pool, measured, chosen, budget, costs)
        trained = self._train(engine, segment, evals, vocabulary, chosen)
        kind = np.array([kinds[id_] for id_ in pool.ids])
        return {
            "pool": {
                "documents": len(pool.ids), "tokens": int(pool.tokens.sum()), "clusters": len(pool.clusters),
                "budget": budget,
                "shares": {one: float(pool.tokens[kind == one].sum() / pool.tokens.sum()) for one in (CLEAN, *JUNK)},
            },
            "stop": {name: one.outcome.why for name, one in measured.items()},
            "fill": {name: one.outcome.fill_tokens / budget for name, one in measured.items()},
            "prices": {name: round(value) for name, value in vars(costs).items()},
            "ranked": {name: self._ranked(pool, values, kind) for name, values in benefits.items()},
            "contestants": {
                name: _facts(pool, one, kind, costs) | trained[name] for name, one in chosen.items()
            },
        }  # fmt: skip

    def _planted(self) -> dict[str, str]:
        """The pool's file, and what is junk in it, by id."""
        setting, folder = self.setting, self.folder
        facts = folder / "kinds.json"
        if not facts.is_file():
            config = read_config(setting.config)
            assert isinstance(config, RunConfig)
            every = read_documents(
                config.pool.model_copy(update={"inputs": (str(setting.pool),)}), (), f"--pool {setting.pool}"
            )
            junk = junk_of_each_kind(setting.documents, setting.share)
            texts = foreign_texts(setting.foreign, 2 * junk, folder.parent.parent)
            planted = plant(every, texts, self.seed, setting.documents, setting.share)
            planted.write(folder / "pool")
            write_atomically(folder / "outside.json", json.dumps(planted.outside).encode("utf-8"))
            write_atomically(facts, json.dumps(planted.kinds).encode("utf-8"))
        return read_kinds(facts)

    def _config(self, budget: int, curvature: str = "ekfac") -> RunConfig:
        """The shipped config on the planted pool, with one target as its reference."""
        given = read_config(self.setting.config)
        assert isinstance(given, RunConfig)
        assert given.tokenizer is not None
        model = proxy_of(given).model_copy(update={"train_tokens": self.setting.train_tokens})
        return given.model_copy(
            update={
                "output": str(self.folder / "run"),
                "seed": self.seed,
                "pool": given.pool.model_copy(update={"inputs": (str(self.folder / "pool"),)}),
                "targets": tuple(one.model_copy(update={"path": str(ROOT / one.path)}) for one in given.targets),
                "tokenizer": given.tokenizer.model_copy(update={"path": str(ROOT / given.tokenizer.path)}),
                "mixture": given.mixture.model_copy(update={"budget": budget}),
                "quad": given.quad.model_copy(
                    update={
                        "references": (self.setting.reference,),
                        "curvature": curvature,
                        "model": model,
                        "docs_per_pull": self.setting.docs_per_pull,
                    }
                ),
            }
        )  # fmt: skip

    def _tokens(self, pool: Pool) -> tuple[str, tuple[tuple[str, str], ...], int]:
        """(segment of all documents in the pool's order, held-out sets by name, vocabulary)."""
        config, folder = self._config(1), self.folder
        assert config.tokenizer is not None
        tokenizer = load_tokenizer(config.tokenizer)
        segment = folder / "tokens.bin"
        if not segment.is_file():
            with open(folder / "pool" / "pool.jsonl", "rb") as lines:
                texts = {row["id"]: row["text"] for row in map(json.loads, lines)}
            arrays = tokenizer.encode_batch([texts[id_] for id_ in pool.ids])
            write_segment(str(segment), arrays, pool.hashes, tokenizer.vocab_size)
        targets = {one.name: one.confirm.texts for one in load_targets(config)}
        held_out = {
            "reference": targets[self.setting.reference],
            "unseen": targets[self.setting.unseen],
            "pool": json.loads((folder / "outside.json").read_bytes()),
        }
        evals = []
        for name, texts in held_out.items():
            path = str(folder / f"{name}.bin")
            sizes = [len(text.encode("utf-8")) for text in texts]
            EvalSet.of_documents(tokenizer.encode_batch(texts), sizes, EVAL_TOKENS).save(path)
            evals.append((name, path))
        return str(segment), tuple(evals), tokenizer.vocab_size

    def _at_equal_cost(
        self,
        engine: Engine,
        annotated: Annotated,
        pool: Pool,
        measured: dict[str, Measured],
        chosen: dict[str, Selection],
        budget: int,
        costs: Prices,
    ) -> dict[str, Selection]:
        """Who selects for less than Quad, with as many more tokens to train on; at most half of the pool."""
        whole = chosen["quad"].used.flops(costs)
        most = int(pool.tokens.sum()) // 2

        def larger(name: str) -> int:
            return min(budget + int((whole - chosen[name].used.flops(costs)) / costs.target), most)

        identity = measure_quad(self._config(larger("quad_identity"), "identity"), engine, annotated, pool)
        return {
            "quad_identity+": identity.selection,
            **{
                f"{name}+": unscored(pool, measured["ekfac"], name, larger(name), self.seed)
                for name in ("random", "cluster_uniform")
            },
        }

    def _train(
        self,
        engine: Engine,
        segment: str,
        evals: tuple[tuple[str, str], ...],
        vocabulary: int,
        chosen: dict[str, Selection],
    ) -> dict[str, dict[str, Any]]:
        task = TrainTarget(segment, evals, self.setting.target_model, vocabulary, self.seed)
        journal = Journal(self.folder / "journal.jsonl")
        keys = {name: fingerprint(repr(task), one.rows.tobytes().hex()) for name, one in chosen.items()}
        missing = [name for name in chosen if keys[name] not in journal.entries]
        items = [tuple(chosen[name].rows.tolist()) for name in missing]
        for position, found in engine.map(task, items, label=f"seed {self.seed}: target models"):
            journal.append(keys[missing[position]], found)
        return {name: journal.entries[key] for name, key in keys.items()}

    def _ranked(self, pool: Pool, benefits: Floats, kind: Any) -> dict[str, float]:
        """Chance that a clean document's benefit is above that of one of a kind; of the reference's own domain in the
        pool above another clean one's, where there is such a domain."""
        found = {one: _above(benefits[kind == CLEAN], benefits[kind == one]) for one in JUNK}
        domains = pool.annotated.summary.domains
        if self.setting.reference in domains:
            own = pool.domain == domains.index(self.setting.reference)
            found["domain"] = _above(benefits[(kind == CLEAN) & own], benefits[(kind == CLEAN) & ~own])
        return found


def _above(one: Floats, other: Floats) -> float:
    return float(mannwhitneyu(one, other).statistic / (one.size * other.size))


def _facts(pool: Pool, one: Selection, kind: Any, costs: Prices) -> dict[str, Any]:
    tokens = pool.tokens[one.rows]
    taken = kind[one.rows]
    return {
        "documents": int(one.rows.size),
        "junk": {name: float(tokens[taken == name].sum() / tokens.sum()) for name in JUNK},
        "clusters": int(np.unique(pool.cluster[one.rows]).size),
        "scored": one.scored / len(pool.ids),
        "selection_flops": one.used.flops(costs),
        "training_flops": float(tokens.sum()) * costs.target,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--work", type=Path, required=True, help="where everything is kept; the same folder resumes")
    arguments.add_argument("--foreign", type=Path, default=Path("/usr/share/man/de"), help="folder of manual pages")
    arguments.add_argument("--pool", type=Path, default=ROOT / "examples" / "pool", help="documents with id and text")
    arguments.add_argument("--documents", type=int, default=1_500, help="clean ones in a pool")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    setting = Setting(given.pool.resolve(), given.foreign.resolve(), given.documents)
    results = []
    for seed in range(1, given.seeds + 1):
        results.append(SeedRun(setting, given.work.resolve(), seed, given.workers).result())
        print(f"\n{page(results)}", flush=True)


if __name__ == "__main__":
    main()
