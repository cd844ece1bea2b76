"""CoLoR-Filter: prior less conditional loss, from two proxies, one going on from the other, or folders, or columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quadmix.config_annotate import ColorScorerConfig, PerplexityScorerConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.color import ColorScorer
from quadmix.scorers.language_models import beginnings
from quadmix.scorers.perplexity import PerplexityScorer
from tests.contracts.test_scorer_contract import make_context
from tests.scorers.list_context import ListContext, notices, speech

PROXY = ProxyConfig(preset="custom", d_model=32, layers=1, heads=2, d_ff=64, seq_len=64, batch=4, lr=1e-2, warmup=5)


def column(scorer, texts: list[str]) -> np.ndarray:
    scorer.load()
    return scorer.score(pa.record_batch({"text": pa.array(texts, pa.large_string())})).column(0).to_numpy()


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ListContext:
    pytest.importorskip("torch")
    base = make_context(tmp_path_factory.mktemp("color") / "run")
    return replace(base, pool=[*speech(200), *notices(200)], targets={"speech": speech(150, seed=1), "none": []})


@pytest.fixture(scope="module")
def trained(context: ListContext) -> ColorScorer:
    config = ColorScorerConfig(
        kind="color", targets=("target:speech",), train_tokens=20_000, target_tokens=10_000, max_tokens=64, proxy=PROXY
    )
    found = ColorScorer.from_config(config, context)
    assert isinstance(found, ColorScorer)
    return found


def test_the_score_is_the_difference_of_the_two_losses(trained: ColorScorer) -> None:
    texts = [document.text for document in [*speech(8, seed=8), *notices(8, seed=8)]]
    tokens = beginnings(texts, trained.tokenizer, 64)
    losses = [model.load().score(tokens) for model in (trained.prior, trained.conditional)]
    assert column(trained, texts).tolist() == (losses[0] - losses[1]).tolist()


def test_documents_like_the_targets_gain_and_others_do_not(trained: ColorScorer) -> None:
    good, bad = (column(trained, [d.text for d in side]) for side in (speech(30, seed=8), notices(30, seed=8)))
    assert good.min() > 0.0
    assert good.min() > bad.max()


def test_the_conditional_model_goes_on_from_the_prior(trained: ColorScorer) -> None:
    prior, conditional = (model.load().decoder.state_dict() for model in (trained.prior, trained.conditional))
    assert prior["frequency"].equal(conditional["frequency"])
    moved = float((prior["embedding"] - conditional["embedding"]).norm() / prior["embedding"].norm())
    assert 0.0 < moved < 0.5


def test_folders_of_this_scorer_and_of_perplexity_will_do(trained: ColorScorer, context: ListContext) -> None:
    models = {"prior": trained.prior.directory, "conditional": trained.conditional.directory}
    config = ColorScorerConfig(kind="color", models=models, max_tokens=64)
    assert ColorScorer.from_config(config, context) == trained
    fluent = PerplexityScorer.from_config(
        PerplexityScorerConfig(kind="perplexity", train_on=("target:speech",), train_tokens=5_000, proxy=PROXY), context
    )
    mixed = ColorScorerConfig(kind="color", models={**models, "conditional": fluent.model.directory}, max_tokens=64)
    assert ColorScorer.from_config(mixed, context).fingerprint != trained.fingerprint


def test_two_loss_columns_are_subtracted_and_nulls_stay_null(context: ListContext) -> None:
    config = ColorScorerConfig(kind="color", columns={"prior": "loss.prior", "conditional": "loss.books"})
    scorer = ColorScorer.from_config(config, context)
    assert scorer.inputs == ("loss.prior", "loss.books")
    batch = pa.record_batch({"loss.prior": [3.5, None, 2.0], "loss.books": [3.0, 1.0, 2.5]})
    assert scorer.score(batch).column(0).to_pylist() == [0.5, None, -0.5]
    with pytest.raises(InputError, match=r"'loss\.books' is not in the input"):
        scorer.score(batch.select(["loss.prior"]))


def test_what_cannot_be_scored_is_refused(context: ListContext, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no text"):
        ColorScorer.from_config(ColorScorerConfig(kind="color", targets=("target:none",), proxy=PROXY), context)
    untokenised = replace(context, tokenizer=None)
    with pytest.raises(ConfigError, match="needs the section `tokenizer`, unless"):
        ColorScorer.from_config(ColorScorerConfig(kind="color", targets=("target:speech",)), untokenised)
    models = {"prior": str(tmp_path), "conditional": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"no model\.json"):
        ColorScorer.from_config(ColorScorerConfig(kind="color", models=models), context)
    for given in ({}, {"targets": ("a",), "columns": {"prior": "a", "conditional": "b"}}):
        with pytest.raises(ValueError, match="give one of targets"):
            ColorScorerConfig(kind="color", **given)
