"""What a run of the results page is: two scales of one setting, and the run config that the product's stages read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT
from benchmarks.results_corpus import TARGETS, Prepared
from quadmix.config import RunConfig
from quadmix.config_proxy import ProxyConfig

TOKENIZER = ROOT / "examples" / "tokenizer" / "tokenizer.json"
CRITERIA = ("heuristic_quality", *(f"like_{name}" for name in TARGETS), "fluency")
# at least 8 times the shipped proxy, with or without the embedding
TARGET_MODEL = ProxyConfig(
    preset="custom", d_model=160, layers=4, heads=5, d_ff=416, seq_len=128, batch=8, lr=0.008, warmup=40
)


@dataclass(frozen=True)
class Scale:
    """corpus_share: of the corpus' documents; budget: tokens of a selection; trials: proxies of each search;
    trial_tokens, target_tokens: that a proxy and a target model read; seeds: of target models; eval_tokens: that a loss
    is measured on, at most, a target and half."""

    corpus_share: float
    budget: int
    trials: int
    trial_tokens: int
    target_tokens: int
    seeds: int
    eval_tokens: int


SCALES = {
    "small": Scale(0.125, 1_200_000, 16, 100_000, 100_000, 3, 20_000),
    "full": Scale(1.0, 10_000_000, 32, 200_000, 240_000, 3, 30_000),
}


def run_config(scale: Scale, corpus: Prepared, folder: Path, seed: int, workers: int) -> RunConfig:
    """Annotation and search as the quick start has them, with one linear scorer a target."""
    values: dict[str, Any] = {
        "output": str(folder / "run"),
        "seed": seed,
        "engine": {"kind": "local", "workers": workers},
        "pool": {
            "inputs": [str(corpus.pool)],
            "columns": {"id": "id", "text": "text", "domain": "domain"},
            "unit_bytes": "32MiB",
        },
        "targets": [{"name": name, "path": str(corpus.target(name))} for name in TARGETS],
        "tokenizer": {"path": str(TOKENIZER)},
        "annotate": {
            "leakage": "exclude",
            "domains": {"kind": "column"},
            "scorers": [
                {"kind": "heuristics", "outputs": ["heuristic_quality"]},
                *({"kind": "linear", "name": f"like_{name}", "positives": [f"target:{name}"]} for name in TARGETS),
                {"kind": "perplexity", "name": "fluency", "train_on": ["pool"], "max_tokens": 128},
            ],
        },
        "mixture": {"criteria": list(CRITERIA), "budget": scale.budget, "max_copies": 4},
        "search": {
            "trials": scale.trials,
            "tokens_per_trial": scale.trial_tokens,
            "eval_tokens": scale.eval_tokens,
            "noise": {"seeds": 0},  # trials more than the rivals have
            "confirm": {"seeds": 3, "rivals": ["natural"]},  # decides nothing here: the page judges the proposal
        },
    }
    return RunConfig.model_validate(values)
