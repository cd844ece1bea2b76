"""The documents of asked trials: each is selected from the trials' pool by the code of `select`, a manifest each.

Manifests name neither constraints nor a search: these are about proposals, and may change while a trial is trained.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from quadmix.config import RunConfig, SelectConfig
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError, QuadmixError
from quadmix.hashing import fingerprint, sha256_file
from quadmix.manifest.model import FOLDER, Manifest
from quadmix.manifest.publish import store
from quadmix.progress import Progress
from quadmix.selectors.base import SelectionPlan
from quadmix.selectors.baselines import natural_plan
from quadmix.stages.asked_trials import NATURAL, AskedTrial, AskedTrials, MadeTrial
from quadmix.stages.fitting import fit_theta
from quadmix.stages.records import record_digest
from quadmix.stages.select import manifest_of, packs, run_plan
from quadmix.stages.trial_pool import TrialPool, measured_mixture


def make_manifests(config: RunConfig, engine: Engine, progress: Progress, pool: TrialPool, trials: AskedTrials) -> None:
    """The manifest of every trial that waits and has none whose bytes still verify."""
    missing = [trial for trial in trials.open if not _is_whole(trials.root, trials.made.get(trial.name))]
    if not missing:
        return
    with progress.only("ask: selecting the trials' documents", len(missing)) as track:
        for trial in missing:
            try:
                trials.make(trial.name, _made(config, engine, pool, trials.root, trial))
            except BudgetError as error:  # as in the built-in swarm: a failed trial, never the end of the others
                progress.say(f"ask: {trial.name} cannot be selected and counts as failed: {error}")
                trials.tell(trial.name, None)
            track.advance()


def _made(config: RunConfig, engine: Engine, pool: TrialPool, root: Path, trial: AskedTrial) -> MadeTrial:
    annotated, mixture = pool.annotated, config.mixture
    plan: SelectionPlan
    if trial.theta is None:
        plan = natural_plan(annotated.summary.tokens, mixture.budget, mixture.max_copies)
        chosen = SelectConfig(mixture="natural")
    else:
        theta = trial.theta.as_config()
        plan = fit_theta(engine, packs(annotated.files), annotated.summary, mixture, theta, pool.maps)
        chosen = SelectConfig(mixture="theta", theta=theta)
    parts = {
        "annotations": record_digest(annotated.record),
        "config.mixture": mixture.model_dump_json(exclude={"space"}),
        "seed": str(config.seed),
        "theta": NATURAL if chosen.theta is None else chosen.theta.model_dump_json(),
    }
    work = root / "stages" / f"trial-{fingerprint(*parts.values())[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    provenance = f"{trial.name} of a search with one's own trainer"
    record = run_plan(config, engine, annotated, plan, work, parts, provenance)
    # what the losses are made into is no part of a trial
    own = config.model_copy(update={"select": chosen, "search": None})
    manifest = manifest_of(own, annotated, record)
    folder = store(root, manifest, {entry.path: work / entry.path for entry in record.files})
    shutil.rmtree(work)
    manifest = Manifest.load(folder)
    mixture_found = measured_mixture(engine, pool, manifest, mixture.criteria)
    return MadeTrial(f"{FOLDER}/{folder.name}", manifest.digest, manifest.documents, mixture_found)


def _is_whole(root: Path, made: MadeTrial | None) -> bool:
    """Whether a manifest is there with the bytes that it lists; an interrupted or damaged one is made again."""
    if made is None:
        return False
    try:
        manifest = Manifest.load(root / made.manifest)
        return manifest.digest == made.digest and all(
            sha256_file(str(manifest.part_path(part))) == part.sha256 for part in manifest.files
        )
    except (QuadmixError, OSError):
        return False
