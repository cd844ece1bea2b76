"""A proxy repeats a domain as often as the real run would: thinning keeps documents with all of their copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.core.fine_histogram import FineHistogram
from quadmix.core.normalise import fit_score_map, heavy_bins
from quadmix.core.param_space import Params
from quadmix.core.sketch import TokenHistogram, order_key
from quadmix.core.summary import COARSE_SHIFT
from quadmix.hashing import hash_words, uniform
from quadmix.search.proposals import theta_by_name
from quadmix.search.trials import realised
from quadmix.stages.proxy_pool import ProxyPool, Sample
from quadmix.stages.swarm import ProxyJob, TrainJobs, sample_budget

DOMAINS, CRITERIA = ("large", "middle", "small"), ("score",)
DOCS = (6000, 2500, 500)
BUDGET = 1_200_000
THINNED = 8  # a proxy sees an eighth of its selection

Floats = NDArray[np.float64]


def sample_of(docs: tuple[int, ...] = DOCS, seed: int = 0) -> Sample:
    """Log-normal documents of 270 tokens on average, whose scores say nothing of their lengths."""
    rng = np.random.default_rng(seed)
    n = sum(docs)
    domain = np.repeat(np.arange(3, dtype=np.int32), docs)
    doc_hash = hash_words(np.arange(n, dtype=np.uint64), seed)
    tokens = (rng.lognormal(5.3, 0.8, n) + 1).astype(np.int64)
    scores = rng.normal(size=n).astype(np.float32)
    sketch = TokenHistogram.of(order_key(scores) >> np.uint32(COARSE_SHIFT), tokens)
    maps = (fit_score_map("score", sketch, FineHistogram.of(scores, tokens, heavy_bins(sketch))),)
    normalised = maps[0].normalised[maps[0].classes(scores)][:, None]
    by_domain = np.bincount(domain, weights=tokens, minlength=3).astype(np.int64)
    return Sample(
        doc_hash, domain, tokens, scores[:, None], np.arange(n), tokens, maps, normalised,
        np.array(docs, dtype=np.int64), by_domain, np.full((3, 1), 0.5),
    )  # fmt: skip


def task_of(sample: Sample, tokens: int, budget: int = BUDGET) -> TrainJobs:
    pool = ProxyPool("", 1, DOMAINS, CRITERIA, sample.doc_hash.size, int(sample.n_tokens.sum()), "")
    mixture = MixtureConfig(criteria=CRITERIA, budget=budget, max_copies=4)
    return TrainJobs("", "", pool, "", (), ProxyConfig(), 100, mixture, budget, tokens)


def theta(cutoff: tuple[float, ...], exponent: float, floor: float = 0.0) -> ProxyJob:
    ones = np.ones((1, 3))
    params = Params(np.ones((1, 3, 1)), ones * 30.0, np.array([cutoff]), ones * exponent, ones * floor)
    return ProxyJob(0, "theta", "theta", "search", 1, theta=theta_by_name(params, DOMAINS, CRITERIA))


JOBS = {
    "natural": ProxyJob(0, "natural", "natural", "search", 1),
    "uniform, which repeats the small domain": ProxyJob(0, "uniform", "uniform", "search", 1),
    "top-k": ProxyJob(0, "topk", "topk", "search", 1, criterion="score"),
    "a theta without repeats": theta((0.6, 0.6, 0.6), 0.0),
    "a theta of nearly two copies": theta((0.3, 0.2, 0.9), 0.9),
    "a theta that lives off the small domain": theta((0.02, 0.3, 1.0), 1.0),
    "a theta with a floor": theta((0.1, 0.3, 0.5), 0.7, 0.001),
}


def repeats(task: TrainJobs, job: ProxyJob, sample: Sample) -> tuple[Floats, Floats, Floats]:
    """By domain: repeats, tokens and the standard error that repeats of a random part of the documents have."""
    copies = task.draw(job, sample)
    found = realised(copies, sample.lengths, sample.domain, sample.normalised, sample.whole_quality)
    error = np.zeros(3)
    for m in range(3):
        mine = (sample.domain == m) & (copies > 0)
        lengths, ratio = sample.lengths[mine].astype(np.float64), found.repeats[0, m]
        # a ratio estimator: sd of sum n (copies - ratio) over documents, over the sum of n
        error[m] = np.sqrt(((lengths * (copies[mine] - ratio)) ** 2).sum()) / max(lengths.sum(), 1.0)
    return found.repeats[0], found.share[0] * found.tokens[0], error


@pytest.mark.parametrize("name", list(JOBS))
def test_a_proxy_repeats_every_domain_as_often_as_the_selection_does(name: str) -> None:
    sample = sample_of()
    whole, proxy = task_of(sample, BUDGET), task_of(sample, BUDGET // THINNED)
    offs = []
    for seed in range(4):
        job = replace(JOBS[name], seed=seed)
        wanted, of_domain, _ = repeats(whole, job, sample)
        found, tokens, error = repeats(proxy, job, sample)
        assert np.allclose(tokens, of_domain / THINNED, rtol=0.02, atol=400)
        # one document more or less at a quota's end is no sampling: 0.02
        assert (np.abs(found - wanted) <= 4.0 * error + 0.02).all()
        offs.append(found - wanted)
    assert np.abs(np.mean(offs, axis=0)).max() < 0.1  # no domain is repeated less throughout


def test_what_is_repeated_is_repeated_as_often_and_once_more_is_not_made_up() -> None:
    sample = sample_of()
    job = JOBS["a theta that lives off the small domain"]
    whole, proxy = (task_of(sample, tokens).draw(job, sample) for tokens in (BUDGET, BUDGET // THINNED))
    assert set(proxy[proxy > 0].tolist()) <= {1, 2, 3, 4}
    assert (proxy[proxy > 0] == whole[proxy > 0]).all()
    parts = [np.bincount(copies, weights=copies * sample.lengths, minlength=5) for copies in (whole, proxy)]
    shares = [part / part.sum() for part in parts]
    assert np.abs(shares[0] - shares[1]).max() < 0.05  # tokens of documents that are seen once, twice, ...


def test_a_budget_of_the_proxys_own_size_would_repeat_other_domains_and_fewer() -> None:
    sample = sample_of()
    job = JOBS["uniform, which repeats the small domain"]
    thinned, _, _ = repeats(task_of(sample, BUDGET // THINNED), job, sample)
    small = BUDGET // THINNED
    own, _, _ = repeats(task_of(sample, small, budget=small), job, sample)
    assert thinned[2] > 2.5
    assert own.tolist() == [1.0, 1.0, 1.0]


def test_a_sample_of_the_pool_with_its_part_of_the_budget_repeats_as_the_whole_pool_does() -> None:
    pool = sample_of()
    keep = uniform(pool.doc_hash, 5, "proxy-pool") < 0.4
    docs = tuple(int((pool.domain[keep] == m).sum()) for m in range(3))
    part = replace(
        pool,
        **{name: getattr(pool, name)[keep] for name in ("doc_hash", "domain", "n_tokens", "scores", "lengths")},
        normalised=pool.normalised[keep],
        place=np.arange(int(keep.sum())),
        docs_by_domain=np.array(docs),
        tokens_by_domain=np.bincount(pool.domain[keep], weights=pool.n_tokens[keep], minlength=3).astype(np.int64),
    )
    budget = sample_budget(BUDGET, int(part.n_tokens.sum()), int(pool.n_tokens.sum()))
    for name in ("uniform, which repeats the small domain", "a theta of nearly two copies"):
        wanted, _, _ = repeats(task_of(pool, BUDGET), JOBS[name], pool)
        found, _, error = repeats(task_of(part, BUDGET // THINNED, budget), JOBS[name], part)
        # the sample's domains are not exactly in the pool's proportion: a twentieth beside the error
        assert (np.abs(found - wanted) <= 4.0 * error + 0.05 * wanted).all()


def test_a_domain_whose_part_is_below_one_document_is_left_out_and_its_tokens_go_elsewhere() -> None:
    sample = sample_of((6000, 2500, 3))
    proxy = task_of(sample, 20_000)
    job = theta((0.5, 0.5, 1.0), 0.0)
    found = realised(proxy.draw(job, sample), sample.lengths, sample.domain, sample.normalised, sample.whole_quality)
    whole = task_of(sample, BUDGET).draw(job, sample)
    quota = (whole * sample.lengths)[sample.domain == 2].sum() * 20_000 / BUDGET
    assert 0 < quota < sample.lengths[sample.domain == 2].min()
    assert found.share[0, 2] == 0.0
    assert found.repeats[0, 2] == 1.0
    assert found.tokens[0] > 19_900
