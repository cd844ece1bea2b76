"""Heads learned from a labelled sample: they find what the text shows and refuse what it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from quadmix.config_annotate import HeadsScorerConfig
from quadmix.errors import ConfigError, InputError
from quadmix.scorers.context import Document
from quadmix.scorers.heads import HeadsScorer
from quadmix.scorers.model_files import load_model
from tests.scorers.list_context import ListContext

TOPICS = (
    "river trout water harbour",
    "subscribe cookies login press",
    "theorem proof lemma axiom",
    "flour oven sugar egg",
)


def documents(n: int, seed: int, noise: float) -> list[Document]:
    """Mixtures of four topics' words; two labels are linear in the mixture, `coin` is not in the text at all."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        share = rng.dirichlet(np.full(4, 0.6))
        words = [rng.choice(TOPICS[topic].split()) for topic in rng.choice(4, 80, p=share)]
        labels = {
            "depth": 10.0 * share[2] - 4.0 * share[1] + noise * rng.normal(),
            "care": 3.0 * share[0] + share[3] + noise * rng.normal(),
            "coin": float(rng.normal()),
        }
        found.append(Document(f"doc-{seed}-{index}", " ".join(words), None, labels))
    return found


def fit(tmp_path: Path, pool: list[Document], *labels: str, **changes: object) -> HeadsScorer:
    tmp_path.mkdir(exist_ok=True)
    config = HeadsScorerConfig(
        kind="heads", labelled=("labelled",), labels={name: name for name in labels},
        embedder={"kind": "lsa", "dimensions": 8}, explained_variance=1.0, **changes,
    )  # fmt: skip
    return HeadsScorer.from_config(config, ListContext(tmp_path, pool=[], paths={"labelled": pool}))


def scores(scorer: HeadsScorer, pool: list[Document]) -> dict[str, np.ndarray]:
    batch = scorer.score(pa.record_batch({"text": pa.array([document.text for document in pool])}))
    return {name: batch[name].to_numpy().astype(np.float64) for name in batch.schema.names}


def test_fresh_documents_get_their_labels_with_the_spread_that_labels_have(tmp_path: Path) -> None:
    scorer = fit(tmp_path, documents(400, 0, 0.3), "depth", "care")
    fresh = documents(300, 1, 0.3)
    found = scores(scorer, fresh)
    for name in ("depth", "care"):
        labels = np.array([document.columns[name] for document in fresh])
        assert spearmanr(found[name], labels).statistic > 0.8
        assert found[name].std() == pytest.approx(labels.std(), rel=0.2)
        assert found[name].mean() == pytest.approx(labels.mean(), abs=0.3 * labels.std())
    _, facts = load_model(scorer.model, "heads")
    assert facts["held_out"] == 80
    assert [check["name"] for check in facts["checks"]] == ["component 1", "component 2"]
    assert all(check["spearman"] > 0.7 and check["r2"] > 0.4 for check in facts["checks"])


def test_the_checks_are_made_on_documents_that_nothing_was_learned_from(tmp_path: Path) -> None:
    pool = documents(60, 2, 0.3)
    with pytest.raises(InputError, match=r"of 12 held-out documents the heads do not predict component \d: Spearman"):
        fit(tmp_path, [Document(one.id, one.text, None, {**one.columns, "care": one.columns["coin"]}) for one in pool],
            "coin", "care", components=1)  # fmt: skip


def test_a_component_that_the_text_does_not_show_is_refused_unless_asked_for(tmp_path: Path) -> None:
    pool = documents(400, 3, 0.3)
    with pytest.raises(InputError, match=r"wanted a Spearman of at least 0\.5"):
        fit(tmp_path, pool, "depth", "care", "coin", components=3)
    assert fit(tmp_path, pool, "depth", "care", "coin", components=3, least_spearman=-1.0).names[2] == "coin"


def test_held_out_labels_that_are_all_alike_check_nothing(tmp_path: Path) -> None:
    """A correlation with them is no number, and no number is not below a bound either."""
    read = ListContext(tmp_path, pool=[], paths={"labelled": documents(200, 5, 0.3)}).read_paths(("labelled",), ())
    alike = {one.id for one in read[4::5]}  # every fifth is held out
    pool = [
        Document(one.id, one.text, None, {**one.columns, "depth": 1.0, "care": 2.0} if one.id in alike else one.columns)
        for one in documents(200, 5, 0.3)
    ]
    with pytest.raises(InputError, match=r"do not predict component 1: Spearman 0\.00, R2 0\.00"):
        fit(tmp_path, pool, "depth", "care")


def test_labels_that_are_missing_or_too_few_are_refused(tmp_path: Path) -> None:
    pool = documents(50, 4, 0.3)
    broken = [*pool[:-1], Document(pool[-1].id, pool[-1].text, None, {**pool[-1].columns, "care": None})]
    with pytest.raises(ConfigError, match=rf"document '{pool[-1].id}' has None in 'care'"):
        fit(tmp_path, broken, "depth", "care")
    with pytest.raises(InputError, match="4 labelled documents for 2 labels"):
        fit(tmp_path, pool[:4], "depth", "care")


def test_documents_that_lack_a_label_are_left_out_when_that_is_asked_for(tmp_path: Path) -> None:
    pool = documents(400, 5, 0.3)
    for place in range(0, 400, 10):
        pool[place] = Document(pool[place].id, pool[place].text, None, {**pool[place].columns, "care": None})
    with pytest.raises(ConfigError, match=r"fill it in, or give `incomplete: leave_out`"):
        fit(tmp_path, pool, "depth", "care")
    scorer = fit(tmp_path, pool, "depth", "care", incomplete="leave_out")
    _, facts = load_model(scorer.model, "heads")
    assert (facts["left_out"], facts["held_out"]) == (40, 72)
    whole = fit(tmp_path, [one for one in pool if one.columns["care"] is not None], "depth", "care")
    assert scores(scorer, pool[:5])["depth"].tolist() == scores(whole, pool[:5])["depth"].tolist()
    with pytest.raises(InputError, match=r"49 labelled documents for 2 labels \(6 lack a label"):
        fit(tmp_path, pool[:55], "depth", "care", incomplete="leave_out")
