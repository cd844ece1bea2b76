"""What the contest of Quad rests on: junk that is what it is called, selections by its rule, prices, words."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.quad_costs import Used, prices
from benchmarks.quad_foreign import foreign_texts
from benchmarks.quad_page import difference, junk, page, verdict
from benchmarks.quad_pool import CLEAN, COPIES, COPY, FOREIGN, JUNK, SHUFFLED, Planted, junk_of_each_kind, plant
from benchmarks.quad_selections import Pool, ScoreAll, all_benefits, best_documents, measure_quad, unscored
from proxy_models.data import write_segment
from proxy_models.model import Decoder
from quadmix.config import RunConfig
from quadmix.config_proxy import ProxyConfig
from quadmix.progress import Progress
from quadmix.scorers.context import Document
from quadmix.scorers.tokens import load_tokenizer
from quadmix.search.result import Interval
from quadmix.stages.annotate import annotate
from quadmix.stages.targets import load_targets
from tests.stages.inline_engine import InlineEngine
from tests.stages.quad.quad_runs import quad_values, some_documents, write_pool

WORDS = [f"word{index}" for index in range(60)]
DOCUMENTS = [Document(f"d{index}", " ".join([*WORDS, str(index)]), "domain", {}) for index in range(400)]
PAGES = [f"Seite {index}" for index in range(40)]


def planted(seed: int = 1) -> Planted:
    return plant(DOCUMENTS, PAGES, seed, 140, 0.1)


def test_every_kind_of_junk_is_a_tenth_and_is_what_it_is_called() -> None:
    found = planted()
    assert Counter(found.kinds.values()) == {CLEAN: 140, SHUFFLED: 20, COPY: 20, FOREIGN: 20}
    assert junk_of_each_kind(140, 0.1) == 20
    texts = {id_: text for id_, _, text in found.rows}
    assert len(texts) == len(found.rows)
    clean = [texts[id_] for id_, kind in found.kinds.items() if kind == CLEAN]
    known = {tuple(sorted(one.text.split())): one.text for one in DOCUMENTS}
    for id_, kind in found.kinds.items():
        if kind == SHUFFLED:
            original = known[tuple(sorted(texts[id_].split()))]
            assert texts[id_] != original
            assert original not in clean
    copies = Counter(texts[id_] for id_, kind in found.kinds.items() if kind == COPY)
    assert set(copies.values()) == {COPIES}
    assert set(copies) <= set(clean)
    assert {texts[id_] for id_, kind in found.kinds.items() if kind == FOREIGN} <= set(PAGES)
    assert not set(found.outside) & set(texts.values())


def test_a_seed_moves_all_that_is_planted_and_gives_it_again(tmp_path: Path) -> None:
    one, other = planted(1), planted(2)
    assert one == planted(1)
    for kind in (CLEAN, *JUNK):
        first, second = ({id_ for id_, what in found.kinds.items() if what == kind} for found in (one, other))
        assert first != second
    one.write(tmp_path)
    assert not any(kind in (tmp_path / "pool.jsonl").read_text() for kind in (SHUFFLED, FOREIGN))


def test_missing_pages_name_the_package(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="apt-get download manpages-de"):
        foreign_texts(tmp_path, 1, tmp_path)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_pages_are_rendered_to_lines_of_plain_text(tmp_path: Path) -> None:
    folder = tmp_path / "pages" / "man1"
    folder.mkdir(parents=True)
    body = "Eine lange Zeile über Größen, " * 20
    (folder / "ls.1.gz").write_bytes(
        gzip.compress(f".TH LS 1\n.SH BEZEICHNUNG\nls \\- \\fBlisten\\fP\n{body}\n".encode())
    )
    (folder / "dir.1.gz").write_bytes(gzip.compress(b".so man1/ls.1\n"))
    (found,) = foreign_texts(tmp_path / "pages", 1, tmp_path)
    assert "ls - listen" in found
    assert body.strip() in found
    with pytest.raises(SystemExit, match="1 parts, wanted 2"):
        foreign_texts(tmp_path / "pages", 2, tmp_path)


def test_prices_are_about_six_flops_a_weight_and_a_benefit_is_cheaper() -> None:
    small = ProxyConfig(preset="custom", d_model=16, layers=1, heads=2, d_ff=32, seq_len=32, batch=4)
    large = ProxyConfig(preset="custom", d_model=32, layers=2, heads=2, d_ff=96, seq_len=32, batch=4)
    found = prices(large, small, 256, 32)
    for config, price in ((small, found.proxy), (large, found.target)):
        weights = sum(one.numel() for one in Decoder(config, 256).parameters())
        assert 5 * weights < price < 8 * weights
    assert found.benefit < found.proxy < found.curvature
    used = Used(proxy=2, benefit=3, curvature=5, reference=7)
    wanted = 2 * found.proxy + 3 * found.benefit + 5 * found.curvature + 7 * found.reference
    assert used.flops(found) == pytest.approx(wanted)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("contest")
    values = quad_values(write_pool(folder / "pool", some_documents(), 2), folder / "out")
    config = RunConfig.model_validate({**values, "quad": {**values["quad"], "references": ["howto"]}})
    engine = InlineEngine()
    annotated = annotate(config, engine, Progress.silent())
    pool = Pool(annotated)
    return config, engine, pool, measure_quad(config, engine, annotated, pool), folder


def test_the_contest_takes_what_the_product_publishes(run: Any) -> None:
    config, _, pool, measured, _ = run
    np.testing.assert_array_equal(measured.selection.rows, pool.rows_of(measured.outcome, config.seed))
    for kind in ("random", "cluster_uniform"):
        other = unscored(pool, measured, kind, 60_000, config.seed)
        assert abs(int(pool.tokens[other.rows].sum()) - 60_000) <= pool.tokens.max()
        assert other.used == Used()


def test_all_that_the_selection_read_is_counted(run: Any) -> None:
    config, _, pool, measured, _ = run
    used = measured.selection.used
    assert 15_000 < used.proxy <= config.quad.model.train_tokens  # all that this small store holds
    half = next(one.search for one in load_targets(config) if one.name == "howto")
    lengths = [min(len(tokens), 32) for tokens in load_tokenizer(config.tokenizer).encode_batch(half.texts)]
    assert sum(lengths) < config.quad.reference_tokens  # so all of them are read; a first token is not predicted
    assert used.reference == sum(lengths) - len(lengths)
    assert 0 < used.curvature <= 32 * config.quad.factor_docs
    assert measured.selection.scored < used.benefit <= 32 * measured.selection.scored
    assert measured.selection.scored <= 0.3 * len(pool.ids)


def test_best_documents_are_those_of_a_plain_loop(run: Any) -> None:
    config, engine, pool, measured, folder = run
    tokenizer = load_tokenizer(config.tokenizer)
    texts = {one["id"]: one["text"] for one in some_documents()}
    segment = str(folder / "tokens.bin")
    write_segment(segment, tokenizer.encode_batch([texts[id_] for id_ in pool.ids]), pool.hashes, tokenizer.vocab_size)
    task = ScoreAll(measured.model, (measured.vector, measured.vector), segment, 32)
    benefits = all_benefits(engine, task, len(pool.ids), folder)
    np.testing.assert_array_equal(benefits[0], benefits[1])
    means = {one.name: one.raw_mean for one in measured.outcome.clusters if one.scored == one.documents}
    for name, mean in means.items():  # scored to the last document: the bandit saw all of these benefits
        mine = benefits[0][pool.cluster == pool.clusters.index(name)]
        assert mine.mean() == pytest.approx(mean, rel=1e-3, abs=1e-4)
    found = best_documents(pool, measured, benefits[0], 30_000, 32)
    rows, held = [], 0
    for row in sorted(range(len(pool.ids)), key=lambda one: -benefits[0][one]):
        if abs(held + pool.tokens[row] - 30_000) > abs(held - 30_000):
            break
        rows.append(row)
        held += pool.tokens[row]
    assert found.rows.tolist() == sorted(rows)
    assert found.scored == len(pool.ids)


def some_results() -> list[dict[str, Any]]:
    def contestant(base: float, share: float) -> dict[str, Any]:
        return {
            "junk": dict.fromkeys(JUNK, share), "clusters": 3, "scored": 0.2, "selection_flops": 1e12, "tokens": 1_000,
            "losses": {"reference": base, "unseen": base, "pool": base}
        }  # fmt: skip

    return [
        {
            "pool": {"documents": 9, "tokens": 99, "clusters": 5, "budget": 7, "shares": {CLEAN: 0.7}},
            "fill": {"ekfac": 0.5},
            "cpu_seconds": 1.0,
            "ranked": {"ekfac": dict.fromkeys(JUNK, 0.6)},
            "contestants": {
                "quad": contestant(5.0 + noise, 0.01),
                "random": contestant(5.5 + 1.1 * noise, 0.1),
                "top_clusters": contestant(5.0 - noise, 0.01),
                "random+": contestant(4.5 + noise, 0.1),
            },
        }
        for noise in (-0.1, 0.0, 0.2)
    ]


def test_words_follow_from_paired_intervals() -> None:
    results = some_results()
    assert difference(results, junk, "random").mean == pytest.approx(0.27)
    text = page(results)
    assert "- random documents against Quad, EK-FAC: junk: loses; reference: loses" in text
    assert "- top-k clusters against Quad, EK-FAC: junk: not told apart; reference: not told apart" in text
    assert "- random documents, more tokens against Quad, EK-FAC: junk: loses; reference: wins" in text
    assert "documents, 99 tokens" in page(results[:1])  # one seed has no intervals
    assert verdict(Interval(1.0, None, 1)) == "not told apart"
