"""The dimensions of configs/odis.yaml tell their contrast sets apart and do not repeat one another."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contrast_sets import auc, contrasts
from benchmarks.odis import (
    CONFIG,
    CONTRAST_OF,
    LEAST_AUC,
    MOST_CORRELATION,
    correlations,
    fitted_scorers,
    scored,
    separations,
    shipped,
)
from quadmix.config import RunConfig
from quadmix.config_reader import read_config


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return read_config(CONFIG)


@pytest.fixture(scope="module")
def pool() -> list[dict[str, Any]]:
    return list(shipped())


def without(config: RunConfig, *kinds: str) -> RunConfig:
    scorers = tuple(section for section in config.annotate.scorers if section.kind not in kinds)
    return config.model_copy(update={"annotate": config.annotate.model_copy(update={"scorers": scorers})})


def test_there_are_eleven_in_three_groups_each_with_a_contrast_set(config: RunConfig) -> None:
    names = config.odis.dimensions
    assert len(names) == 11
    assert list(config.odis.groups) == ["language quality", "knowledge quality", "comprehension difficulty"]
    assert sorted(name for group in config.odis.groups.values() for name in group) == sorted(names)
    assert set(CONTRAST_OF) == set(names)
    for group, contrast in zip(config.odis.groups.values(), ("edited", "reference", "expert"), strict=True):
        assert all(CONTRAST_OF[name].startswith(contrast) for name in group)


def test_what_is_counted_separates_its_set_and_repeats_nothing(
    config: RunConfig, pool: list[dict[str, Any]], tmp_path: Path
) -> None:
    few = list(islice(pool, 0, None, 12))
    scorers = fitted_scorers(without(config, "perplexity", "linear"), tmp_path, few)
    found = separations(scorers, contrasts(pool, 60, 1))
    assert len(found) == 9
    assert min(found.values()) >= LEAST_AUC, found
    assert abs(correlations(scored(scorers, [row["text"] for row in few]))[0][0]) <= MOST_CORRELATION


@pytest.mark.long
def test_all_eleven_separate_their_sets_and_repeat_nothing(
    config: RunConfig, pool: list[dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    scorers = fitted_scorers(config, tmp_path, pool)
    found = separations(scorers, contrasts(pool, 150, 0))
    assert set(found) == set(config.odis.dimensions)
    assert min(found.values()) >= LEAST_AUC, found
    few = [row["text"] for row in islice(pool, 0, None, 4)]
    assert abs(correlations(scored(scorers, few))[0][0]) <= MOST_CORRELATION


def test_contrast_sets_share_no_document_and_have_their_size(pool: list[dict[str, Any]]) -> None:
    few = list(islice(pool, 0, None, 5))
    sets = contrasts(few, 40, 3)
    for name, contrast in sets.items():
        assert len(contrast.better) == len(contrast.worse) == 40, name
        assert not set(contrast.better) & set(contrast.worse), name
    assert contrasts(few, 40, 3) == sets
    assert contrasts(few, 40, 4) != sets


def test_auc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    better, worse = rng.integers(2, 9, 30).tolist(), rng.integers(0, 7, 25).tolist()
    pairs = [(a > b) + 0.5 * (a == b) for a in better for b in worse]
    assert auc(better, worse) == pytest.approx(float(np.mean(pairs)))
