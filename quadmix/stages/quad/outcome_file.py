"""The bandit's outcome on disk, rounds included (the manifest leaves them out)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from quadmix.config import RunConfig
from quadmix.manifest.model import Manifest
from quadmix.selectors.quad_outcome import Outcome
from quadmix.selectors.quad_plan import outcome_within
from quadmix.stages.records import current, stage_directory, write_atomically

STAGE = "quad"
OUTCOME_FILE = "outcome.json"


def write_outcome(directory: Path, outcome: Outcome) -> None:
    """Write a finished bandit's outcome."""
    text = json.dumps(outcome.to_json(), sort_keys=True, allow_nan=False)
    write_atomically(directory / OUTCOME_FILE, text.encode("utf-8"))


def read_outcome(directory: Path) -> Outcome:
    """Raises VerificationError for a file that is none."""
    return Outcome.from_json(json.loads((directory / OUTCOME_FILE).read_bytes()))


def quad_outcome(config: RunConfig, manifest: Manifest) -> Outcome | None:
    """The outcome behind a manifest of Quad's, None for another selector's.

    Inside domain quotas, what clusters give is what the manifest says; the rounds are those of the bandit, which knows
    no domains.
    """
    if manifest.selector != STAGE:
        return None
    plan = manifest.plan
    found = Outcome.from_json({**plan["outcome"], "rounds": []})
    record = current(Path(config.output), STAGE)
    if record is not None:
        last = read_outcome(stage_directory(Path(config.output), STAGE, record.fingerprint))
        # removed since, or of a later run: then the rounds are lost, the clusters are in the manifest
        found = last if replace(last, rounds=()) == found else found
    if plan["domain_quotas"] is None:
        return found
    quotas = {name: stratum["quota"] for name, stratum in plan["strata"].items()}
    return outcome_within(found, plan["domain_quotas"].items(), quotas, plan["fill"])
