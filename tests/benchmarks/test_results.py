"""What the results page rests on: rivals that are what they are called, and words that follow from the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.results_corpus import TARGETS, cut, prepare_corpus
from benchmarks.results_jobs import WEIGHTS, WEIGHTS_TOPK, BestOfDomainsPlan, WeightsJob
from benchmarks.results_page import MEAN, judged, outcome, write_page
from benchmarks.results_schemes import SCHEMES, Scheme, Setting, draw_points, regmix_jobs, theta_jobs, tied
from benchmarks.results_setting import SCALES, TARGET_MODEL
from quadmix.config import MixtureConfig, ParamSpaceConfig, RegressorConfig, SearchConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.core.normalise import ScoreMap, order_key
from quadmix.core.param_space import ParamSpace, draw_cube, params_from_cube
from quadmix.hashing import uniform
from quadmix.search.features import QualitySample
from quadmix.search.objective import Objective
from quadmix.search.result import Interval
from quadmix.search.trials import draw_theta
from quadmix.selectors.base import DocBatch
from quadmix.selectors.in_memory import select

DOMAINS = ("code", "prose", "web")
CRITERIA = ("a", "b")


def setting(trials: int = 12) -> Setting:
    tokens = np.array([500_000, 40_000, 300_000])
    mixture = MixtureConfig.model_validate({"criteria": CRITERIA, "budget": 100_000})
    empty = np.zeros(0)
    quality = QualitySample(empty.astype(np.int32), empty.astype(np.int64), np.zeros((0, 2)), np.zeros((3, 2)))
    search = SearchConfig.model_validate({"trials": trials})
    return Setting(DOMAINS, tokens, mixture, search, Objective({"t": 1.0}), quality, 3)


def scheme(name: str) -> Scheme:
    return next(one for one in SCHEMES if one.name == name)


def test_trials_of_ours_are_those_of_the_shipped_search() -> None:
    found, ours = setting(), scheme("quadmix_no_counts")
    points = draw_points(found, ours)
    for index, point in enumerate(points):
        drawn = draw_theta(found.space(ours), index, found.seed, found.domain_tokens, found.mixture)
        assert drawn.params.cube is not None
        np.testing.assert_array_equal(point, drawn.params.cube[0])
    assert ours.space == ParamSpaceConfig()
    assert ours.regressor == RegressorConfig()


def test_uniform_alpha_merges_all_criteria_equally_and_leaves_the_sampling_functions() -> None:
    space = ParamSpace(3, 2)
    cube = draw_cube(space, 50, 1)
    free, found = params_from_cube(space, cube), params_from_cube(space, tied(space, "uniform_alpha", cube))
    np.testing.assert_array_equal(found.merge_weights, np.full((50, 3, 2), 0.5))
    for name in ("steepness", "cutoff", "exponent", "floor"):
        np.testing.assert_array_equal(getattr(found, name), getattr(free, name))


def test_global_beta_has_one_sampling_function_and_leaves_the_merge_weights() -> None:
    space = ParamSpace(3, 2)
    cube = draw_cube(space, 50, 1)
    found = params_from_cube(space, tied(space, "global_beta", cube))
    np.testing.assert_array_equal(found.merge_weights, params_from_cube(space, cube).merge_weights)
    for name in ("steepness", "cutoff", "exponent", "floor"):
        values = getattr(found, name)
        np.testing.assert_array_equal(values, np.broadcast_to(values[:, :1], values.shape))
        assert len(np.unique(values[:, 0])) == 50  # still searched


@pytest.mark.parametrize("name", ["uniform_alpha", "global_beta"])
def test_an_average_of_tied_points_is_tied(name: str) -> None:
    found = setting(40)
    space = found.space(scheme(name))
    mean = draw_points(found, scheme(name)).mean(axis=0, keepdims=True)
    np.testing.assert_allclose(tied(space, scheme(name).tie, mean), mean, rtol=0, atol=1e-15)


def test_the_paper_s_search_is_lightgbm_on_theta_within_its_ranges() -> None:
    assert (scheme("paper").regressor.kind, scheme("paper").regressor.features) == ("lightgbm", "theta")
    jobs = theta_jobs(setting(), scheme("paper"), draw_points(setting(), scheme("paper")))
    assert len(jobs) == setting().search.trials
    for job in jobs:
        assert job.theta is not None
        assert max(job.theta.cutoff.values()) <= 0.1


def test_regmix_asks_for_no_more_than_four_copies_of_a_domain() -> None:
    found = setting(60)
    shares = np.array([[job.weights[name] for name in DOMAINS] for job in regmix_jobs(found)])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert (shares * found.mixture.budget <= 4 * found.domain_tokens * (1 + 1e-9)).all()


def test_a_job_of_weights_is_known_by_them_and_not_by_their_order() -> None:
    one = WeightsJob(0, "x", WEIGHTS, "search", 1, weights={"code": 0.25, "web": 0.75})
    turned = WeightsJob(5, "y", WEIGHTS, "search", 1, weights={"web": 0.75, "code": 0.25})
    other = WeightsJob(0, "x", WEIGHTS, "search", 1, weights={"code": 0.75, "web": 0.25})
    topk = WeightsJob(0, "x", WEIGHTS_TOPK, "search", 1, criterion="a", weights={"code": 0.25, "web": 0.75})
    assert one.key("s") == turned.key("s")
    assert len({one.key("s"), other.key("s"), topk.key("s"), one.key("t")}) == 4


def pool(rng: np.random.Generator, n: int) -> DocBatch:
    return DocBatch(
        rng.choice(2**62, n, replace=False).astype(np.uint64),
        rng.integers(0, 3, n).astype(np.int32),
        rng.integers(50, 400, n).astype(np.int64),
        rng.normal(size=(n, 1)).astype(np.float32),
    )


def score_map(scores: np.ndarray[Any, Any]) -> ScoreMap:
    """Every score a class of its own."""
    keys = np.unique(order_key(np.ascontiguousarray(scores)))
    ranks = (np.arange(keys.size) + 0.5) / keys.size
    return ScoreMap("a", keys, ranks, np.zeros(keys.size, dtype=np.int64), 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_best_of_domains_meets_shares_and_budget_and_takes_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    batch = pool(rng, 900)
    available = np.bincount(batch.domain, weights=batch.n_tokens, minlength=3)
    quotas = (int(0.3 * available[0]), int(2.4 * available[1]), int(0.9 * available[2]))  # one repeats its domain
    plan = BestOfDomainsPlan(WEIGHTS_TOPK, DOMAINS, quotas, 4, ("a",), score_map=score_map(batch.scores[:, 0]))
    copies = select(plan, batch, uniform(batch.doc_hash, seed, "select"))
    taken = np.bincount(batch.domain, weights=batch.n_tokens * copies, minlength=3)
    longest = int(batch.n_tokens.max())
    assert abs(int(taken.sum()) - sum(quotas)) <= longest / 2
    assert (np.abs(taken - quotas) < longest).all()
    for domain in range(3):
        mine = batch.domain == domain
        assert copies[mine].max() - copies[mine].min() <= 1
        more, fewer = mine & (copies == copies[mine].max()), mine & (copies < copies[mine].max())
        assert batch.scores[more, 0].min() > batch.scores[fewer, 0].max()


def test_the_target_model_is_at_least_eight_times_the_shipped_proxy() -> None:
    model = pytest.importorskip("proxy_models.model")
    small, large = model.Decoder(ProxyConfig(), 2048), model.Decoder(TARGET_MODEL, 2048)
    sizes = [sum(one.numel() for one in decoder.parameters()) for decoder in (small, large)]
    bare = [size - decoder.embedding.numel() for size, decoder in zip(sizes, (small, large), strict=True)]
    assert sizes[1] >= 8 * sizes[0]
    assert bare[1] >= 8 * bare[0]
    assert all(scale.seeds >= 3 for scale in SCALES.values())


@pytest.mark.parametrize("text", ["", "short", "x" * 95, "word " * 40, "line one\nline two\n" * 9, "\n" * 50])
def test_cut_keeps_every_character_and_no_part_is_too_long(text: str) -> None:
    parts = cut(text, 30)
    assert "".join(parts) == text
    assert all(len(part) <= 30 for part in parts)
    assert all(part for part in parts) or not text


def test_targets_are_whole_sources_and_the_pool_has_no_text_twice(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for source in [*TARGETS.values(), "brown"]:
        rows = [{"id": f"{source}/{n}", "domain": "d", "text": f"{source} {n % 5} " * 40} for n in range(10)]
        (corpus / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = prepare_corpus(corpus, tmp_path / "work", 1.0)
    assert [path.name for path in found.pool.iterdir()] == ["brown.jsonl"]
    assert found.facts["pool"]["brown"]["documents"] == 5
    assert set(found.facts["targets"]) == set(TARGETS)
    assert prepare_corpus(corpus, tmp_path / "work", 1.0) == found


def stored(folder: Path) -> dict[str, Any]:
    """Three contestants: one that loses to ours for sure, one that beats it on one target only, ours."""
    bits = {
        "quadmix": {"x": [2.0, 2.1, 2.2], "y": [3.0, 3.1, 3.2]},
        "natural": {"x": [2.5, 2.6, 2.71], "y": [3.5, 3.6, 3.71]},
        "regmix_topk": {"x": [1.9, 2.0, 2.11], "y": [3.1, 3.2, 3.29]},
        "paper": {"x": [2.5, None, 2.6], "y": [3.5, None, 3.6]},
    }
    model = {
        "d_model": 8, "layers": 1, "seq_len": 8, "optimiser": "adamw", "lr": 0.1, "parameters": 100,
        "without_embedding": 50,
    }  # fmt: skip
    result = {
        "scale": "full",
        "code": "abc",
        "seed": 7,
        "workers": 2,
        "setting": {"budget": 1000, "trials": 9, "trial_tokens": 10, "target_tokens": 20, "seeds": 3},
        "machine": {"processor": "P", "cores": 2},
        "software": {"python": "3"},
        "cpu_seconds": {"annotate": 1.0, "proxies": 3599.0},
        "pool": {"documents": 3, "bytes": 10, "tokens": {"code": 5, "web": 7}},
        "targets": {
            name: {
                "source": "s", "documents": 4, "bytes": 5, "eval_tokens": 6, "unigram_entropy": 7.0
            }
            for name in ("x", "y")
        },
        "median_loss": {"x": 6.0, "y": 6.1},
        "criteria": ["a"],
        "proxy": model,
        "target_model": {**model, "parameters": 900, "without_embedding": 450},
        "searches": {
            "quadmix": {
                "regressor": "auto", "trials": 9, "predicted": 5.0, "best_seen": 5.1, "spearman": 0.9, "shuffled": 0.0
            }
        },
        "contestants": [
            {
                "name": name,
                "criterion": "a" if name == "regmix_topk" else None,
                "proxy": 5.0 + len(name),
                "tokens": [20, 20, 20],
                "share": {"code": 0.25, "web": 0.75},
                "repeats": {"code": 1.0, "web": 2.5},
                "bits_per_byte": values,
                "errors": [],
            }
            for name, values in bits.items()
        ],
    }  # fmt: skip
    folder.mkdir()
    (folder / "full.json").write_text(json.dumps(result), encoding="utf-8")
    return result


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    rows = {one.name: one for one in judged(stored(tmp_path / "results"))}
    lead = rows["natural"].lead["x"]
    assert lead.mean == pytest.approx(np.mean([0.5, 0.5, 0.51]))
    # Student's t with 2 degrees of freedom at 97.5 %: 4.3027
    assert lead.half_width == pytest.approx(4.3027 * np.std([0.5, 0.5, 0.51], ddof=1) / np.sqrt(3), rel=1e-4)
    assert rows["paper"].bits[MEAN][1] is None
    assert rows["paper"].level[MEAN].n == 2
    assert rows["quadmix"].lead[MEAN].mean == 0.0


def test_only_an_interval_that_leaves_zero_out_is_a_win_or_a_loss() -> None:
    assert outcome(Interval(0.2, 0.1, 3)) == "worse"
    assert outcome(Interval(-0.2, 0.1, 3)) == "better"
    assert outcome(Interval(0.1, 0.1, 3)) == "level"
    assert outcome(Interval(-0.2, None, 1)) == "level"


def test_the_page_says_where_quadmix_does_not_win_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder, page = tmp_path / "results", tmp_path / "results.md"
    stored(folder)
    write_page(folder, page)
    text = page.read_text(encoding="utf-8")
    assert "It cannot be told apart from `regmix_topk`" in text
    assert "It beats `natural`" in text
    assert "- *x*: the lowest is `regmix_topk`" in text
    assert "Better than ours: `regmix_topk`" in text
    assert "1.00 core-hours" in text
    assert "The small scale has no numbers yet" in text
    assert "75.0 ×2.5" in text
    first = (page.read_bytes(), (folder / "full.svg").read_bytes())
    write_page(folder, page)
    assert (page.read_bytes(), (folder / "full.svg").read_bytes()) == first


def test_another_seed_of_a_scale_stands_beside_the_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder, page = tmp_path / "results", tmp_path / "results.md"
    stored(folder)
    other = json.loads((folder / "full.json").read_bytes())
    other["seed"] = 8
    (ours,) = (one for one in other["contestants"] if one["name"] == "quadmix")
    ours["bits_per_byte"] = {
        name: [value and value + 1.0 for value in values] for name, values in ours["bits_per_byte"].items()
    }
    (folder / "full-seed-8.json").write_text(json.dumps(other))
    write_page(folder, page)
    text = page.read_text(encoding="utf-8")
    repeat = text[text.index("### The same under seed 8") : text.index("The small scale has no numbers")]
    places = [repeat.index(f"| `{name}` |") for name in ("regmix_topk", "natural", "quadmix")]
    assert places == sorted(places)  # ours is last under the other seed
    rows = len(other["contestants"])
    assert f"number {rows} of {rows}" in repeat
    assert "It loses to `regmix_topk`" in repeat
    assert "(the median; at most 1.000)" in repeat
