"""A finished fit of ODiS on disk: its outcome, quantile maps, tokens by domain, and examples."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quadmix.config import RunConfig
from quadmix.core.normalise import ScoreMap, load_score_maps, save_score_maps
from quadmix.manifest.model import Manifest
from quadmix.selectors.odis_outcome import Outcome
from quadmix.stages.odis.examples import ComponentEnds, Example
from quadmix.stages.records import current, stage_directory, write_atomically

STAGE = "odis"
OUTCOME_FILE, MAPS_FILE, TOKENS_FILE, EXAMPLES_FILE = "outcome.json", "quantiles.npz", "tokens.npy", "examples.json"
FILES = (OUTCOME_FILE, MAPS_FILE, TOKENS_FILE, EXAMPLES_FILE)


def write_fit(
    directory: Path,
    outcome: Outcome,
    maps: tuple[ScoreMap, ...],
    tokens: NDArray[np.int64],
    ends: tuple[ComponentEnds, ...],
) -> None:
    """tokens: (n_domains, K) of each component in each domain."""
    _write_json(directory / OUTCOME_FILE, outcome.to_json())
    _write_json(directory / EXAMPLES_FILE, [asdict(one) for one in ends])
    save_score_maps(str(directory / MAPS_FILE), maps)
    np.save(directory / TOKENS_FILE, tokens, allow_pickle=False)


def read_outcome(directory: Path) -> Outcome:
    """Raises VerificationError for a file that is none."""
    return Outcome.from_json(json.loads((directory / OUTCOME_FILE).read_bytes()))


def read_maps(directory: Path, outcome: Outcome) -> tuple[ScoreMap, ...]:
    """The quantile map of each component."""
    return load_score_maps(str(directory / MAPS_FILE), tuple(one.name for one in outcome.components))


def read_tokens(directory: Path) -> NDArray[np.int64]:
    tokens: NDArray[np.int64] = np.load(directory / TOKENS_FILE, allow_pickle=False)
    return tokens


def read_examples(directory: Path) -> tuple[ComponentEnds, ...]:
    found = json.loads((directory / EXAMPLES_FILE).read_bytes())
    return tuple(
        ComponentEnds(*(tuple(Example(**one) for one in side) for side in (ends["low"], ends["high"])))
        for ends in found
    )


def fit_behind(config: RunConfig, manifest: Manifest) -> tuple[Outcome, tuple[ComponentEnds, ...]] | None:
    """The outcome behind a manifest of ODiS's and its examples (none where they were removed since), None for another
    selector's manifest."""
    if manifest.selector != STAGE:
        return None
    outcome = Outcome.from_json(manifest.plan["odis"])
    record = current(Path(config.output), STAGE)
    if record is None:
        return outcome, ()
    return outcome, read_examples(stage_directory(Path(config.output), STAGE, record.fingerprint))


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, sort_keys=True, allow_nan=False).encode("utf-8"))
