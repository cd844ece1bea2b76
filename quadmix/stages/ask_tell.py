"""Bring your own trainer: `ask` writes trials as manifests, `tell` takes their losses back and proposes a mixture.

The first trials are Algorithm 1's, the thetas that the built-in swarm would draw without counts; once enough losses are
told, new ones come from the acquisition. Each trial is selected from the trials' pool by the code of `select`, with the
same draws of documents (common random numbers), and stored as a manifest that `verify`, `explain` and `export` read. No
fresh proxies confirm a proposal here, and everything that is written says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config import LEAST_TRIALS, ConstraintsConfig, MixtureConfig, RunConfig, SearchConfig, SelectConfig
from quadmix.core.param_space import ParamSpace, params_from_cube
from quadmix.engine.base import Engine
from quadmix.errors import BudgetError, ConfigError, QuadmixError
from quadmix.hashing import fingerprint, seed_for, sha256_file
from quadmix.manifest.model import FOLDER, Manifest
from quadmix.manifest.publish import store
from quadmix.progress import Progress
from quadmix.search.acquisition import candidates
from quadmix.search.features import FeatureSet, Mixtures, QualitySample, closed_form
from quadmix.search.learning import Trained, feature_sets, learn
from quadmix.search.objective import Objective
from quadmix.search.proposals import params_of, proposal, propose, theta_by_name
from quadmix.search.regressors import require_regressor
from quadmix.search.result import JOINT, CrossValidation, Proposal, Worth
from quadmix.search.rounds import CANDIDATES, NextRound, Tried, best_points
from quadmix.search.screening import penalised, predict, screen
from quadmix.search.stopping import MORE, worth_in_words, worth_of_more
from quadmix.search.trial_files import ID, SHARE, table_csv
from quadmix.search.trials import draw_theta, param_space
from quadmix.stages.annotate import annotate
from quadmix.stages.asked_trials import (
    ASK_FILE,
    LOSSES_FILE,
    MIXTURE,
    AskedTrial,
    AskedTrials,
    MadeTrial,
    Study,
    check_identity,
    check_template,
    load_study,
    new_losses,
    open_study,
    write_template,
)
from quadmix.stages.constraining import Constraints, constraints_of
from quadmix.stages.fitting import fit_theta
from quadmix.stages.records import record_digest, run_lock, write_atomically
from quadmix.stages.search_inputs import objective_weights
from quadmix.stages.select import manifest_of, packs, run_plan
from quadmix.stages.trial_pool import QUALITY_FILE, TrialPool, load_quality, measured_mixture, trial_pool

TRIALS_JSON, TRIALS_CSV = "trials.json", "trials.csv"
RESULT_FILE, PROPOSAL_FILE = "result.json", "proposal.json"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What an `ask` left: trials that wait for losses, of which `new` were asked now."""

    directory: str
    waiting: int
    new: int
    origin: str
    told: int
    tokens: int
    trials: str
    losses: str


def ask(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    out: Path,
    n: int,
    tokens: int | None = None,
    targets: Sequence[str] = (),
) -> Asked:
    """Bring the number of trials that wait for losses to `n`, and write every one's manifest.

    tokens: of a trial, None = the config's budget; targets: names of the losses, () = the config's targets. Repeating
    the call finishes what was interrupted and adds nothing. Raises ConfigError (exit 2) before anything is made.
    """
    names = _checked(config, out, tokens, targets)
    with run_lock(Path(config.output)):
        annotated = annotate(config, engine, progress)
    constraints_of(config, annotated.summary)  # said now, not after the trials were trained
    size = tokens or config.mixture.budget
    # trials are not held to constraints, so nothing of theirs may depend on them
    mixture = config.mixture.model_copy(update={"budget": size, "constraints": ConstraintsConfig()})
    with run_lock(out):
        identity = {**_identity(config, names), "pool": record_digest(annotated.record), "tokens": str(size)}
        if (out / ASK_FILE).is_file():
            check_identity(out, load_study(out), identity)
        pool = trial_pool(
            out, engine, progress, annotated, mixture, min(size / config.mixture.budget, 1.0), config.seed
        )
        summary = pool.annotated.summary
        study = Study(
            identity=identity,
            domains=list(summary.domains),
            criteria=list(mixture.criteria),
            targets=list(names),
            tokens=size,
            pool_tokens=dict(zip(annotated.summary.domains, annotated.summary.tokens.tolist(), strict=True)),
            trial_tokens=dict(zip(summary.domains, summary.tokens.tolist(), strict=True)),
            quality=str((pool.annotated.directory / QUALITY_FILE).relative_to(out)),
        )
        open_study(out, study)
        trials = AskedTrials(out)
        check_template(out, trials, names)
        new = n - len(trials.open)
        origin = "none"
        if new > 0:
            learner = _Learner(config, study, trials, pool.quality)
            batch = learner.next_trials(new, mixture)
            origin = batch[0].origin
            trials.ask(batch)
            progress.say(f"ask: {len(batch)} trials by {_by(origin, len(trials.usable))}")
        _make(config.model_copy(update={"mixture": mixture}), engine, progress, pool, trials)
        _write_trials(out, study, trials)
        write_template(out, trials, names)
    return Asked(
        directory=str(out),
        waiting=len(trials.open),
        new=max(new, 0),
        origin=origin,
        told=len(trials.told),
        tokens=size,
        trials=str(out / TRIALS_CSV),
        losses=str(out / LOSSES_FILE),
    )


def tell(config: RunConfig, progress: Progress, out: Path, losses: Path) -> dict[str, Any]:
    """Take losses back (lower is better), fit, and write `result.json` and `proposal.json`; returns the former's JSON.

    With fewer than 8 finished trials the losses are kept and nothing is fitted. Raises ConfigError for a directory or
    config that does not fit, its constraints included, and InputError for rows, before any loss is kept.
    """
    study = load_study(out)
    check_identity(out, study, _identity(config, tuple(study.targets)))
    weights = _weights(config, study)
    require_regressor((config.search or SearchConfig()).regressor.kind)
    _constraints_of(config, study)
    with run_lock(out):
        trials = AskedTrials(out)
        found = new_losses(losses, trials, study.targets)
        for name, values in found.items():
            trials.tell(name, values)
        failed = sorted(name for name, values in trials.told.items() if values is None)
        progress.say(
            f"tell: {len(found)} new losses; {len(trials.told)} of {len(trials.asked)} trials told, {len(failed)} of "
            f"them failed, {len(trials.open)} wait"
        )
        result: dict[str, Any] = {
            "confirmed": False,
            "told": len(trials.told),
            "failed": failed,
            "waiting": [trial.name for trial in trials.open],
            "objective": weights,
        }
        if len(trials.usable) < LEAST_TRIALS:
            progress.say(
                f"tell: {len(trials.usable)} finished trials, {LEAST_TRIALS} are needed to fit on; none proposed"
            )
            return result | {"proposals": []}
        learner = _Learner(config, study, trials, load_quality(out / study.quality))
        validation, proposals = learner.learned()
        for line in validation.in_words():
            progress.say(f"tell: {line}")
        more = learner.more()
        progress.say(f"tell: {worth_in_words(more)}")
        chosen = proposals[0]
        provenance = (
            f"the proposal ({chosen.origin}) of {len(trials.usable)} trials of one's own trainer; "
            "no fresh proxies confirmed it"
        )
        result |= {
            "cross_validation": validation.facts(),
            "proposals": [asdict(one) for one in proposals],
            "more": asdict(more),
        }
        said = {"provenance": provenance, "confirmed": False, **asdict(chosen)}
        _write_json(out / RESULT_FILE, result)
        _write_json(out / PROPOSAL_FILE, said)
        for one in proposals:
            low, high = one.interval[JOINT]
            progress.say(
                f"tell: {one.origin}: joint loss predicted {one.predicted[JOINT]:.4f} (90 %: {low:.4f} to {high:.4f})"
            )
        progress.say(
            f"tell: {provenance}. To publish it: quadmix select CONFIG --set select.mixture=theta "
            f"--set select.theta_file={out / PROPOSAL_FILE}"
        )
    return result


# ---------------------------------------------------------------------------------------------- what is asked


def _checked(config: RunConfig, out: Path, tokens: int | None, targets: Sequence[str]) -> tuple[str, ...]:
    """The names of the losses; raises ConfigError for what cannot be, all at once."""
    problems = []
    names = tuple(targets) or tuple(target.name for target in config.targets)
    if not names:
        problems.append("targets: empty; name the losses that your trainer measures with --targets a,b")
    if taken := sorted({JOINT, ID} & set(names)):
        problems.append(f"--targets: the names {', '.join(taken)} are taken; give others")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"--targets: {', '.join(twice)} twice; wanted each once")
    if tokens is not None and tokens > config.mixture.budget:
        problems.append(
            f"--tokens: found {tokens:,}, wanted at most mixture.budget, which is {config.mixture.budget:,}"
        )
    place = out.resolve()
    if place == Path(config.output).resolve():
        problems.append(f"--out: {out} is the run's own output; give a directory of its own")
    elif out.exists() and not out.is_dir():
        problems.append(f"--out: {out} is a file; wanted a directory")
    elif (
        out.is_dir()
        and not (out / ASK_FILE).is_file()
        and {path.name for path in out.iterdir()} - {"run.lock", "stages"}
    ):
        problems.append(f"--out: {out} holds files of something else; nothing was written; give a new directory")
    problems += _objective_problems(config, names)
    if config.search is not None and config.search.warm_start:
        problems.append("search.warm_start: only a search with proxies of its own reads it; remove it for ask and tell")
    if problems:
        raise ConfigError(problems)
    require_regressor((config.search or SearchConfig()).regressor.kind)  # a missing library is found now
    return names


def _objective_problems(config: RunConfig, targets: Sequence[str]) -> list[str]:
    given = (config.search.objective if config.search else None) or {}
    rule = config.search.objective_rule if config.search else "mean"
    wrong = [
        f"search.objective_rule: found {rule!r}, wanted 'mean': the worst case is measured against the natural "
        "mixture's loss, which is not among the trials that are asked"
    ]
    return (wrong if rule != "mean" else []) + [
        f"search.objective.{name}: found {name!r}, wanted one of the losses {', '.join(targets)} (of `ask --targets`)"
        for name in given
        if name not in targets
    ]


def _weights(config: RunConfig, study: Study) -> dict[str, float]:
    if problems := _objective_problems(config, study.targets):
        raise ConfigError(problems)
    return objective_weights(config.search or SearchConfig(), study.targets)


def _identity(config: RunConfig, targets: Sequence[str]) -> dict[str, str]:
    mixture = config.mixture.model_dump_json(exclude={"constraints"})
    return {MIXTURE: mixture, "seed": str(config.seed), "targets": ",".join(targets)}


def _constraints_of(config: RunConfig, study: Study) -> Constraints:
    """Of proposals for the whole pool. Raises as `Constraints.of` does."""
    domains = tuple(study.domains)
    space = param_space(config.mixture.space, len(domains), len(study.criteria))
    tokens = np.array([study.pool_tokens[name] for name in domains], dtype=np.int64)
    return Constraints.of(config.mixture, space, domains, tokens, config.seed)


def _by(origin: str, usable: int) -> str:
    if origin == "prior":
        return "Algorithm 1's draws"
    return f"expected improvement over {usable} finished trials"


class _Learner:
    """What the finished trials say: the next trials, or a proposal."""

    def __init__(self, config: RunConfig, study: Study, trials: AskedTrials, quality: QualitySample) -> None:
        self.seed, self.study, self.trials, self.quality = config.seed, study, trials, quality
        self.settings = config.search or SearchConfig()
        self.mixture = config.mixture
        self.domains, self.criteria = tuple(study.domains), tuple(study.criteria)
        self.space: ParamSpace = param_space(config.mixture.space, len(self.domains), len(self.criteria))
        self.targets = tuple(study.targets)
        self.objective = Objective(_weights(config, study))
        self.full, self.cheap = feature_sets(self.settings.regressor.features, self.domains, self.criteria)
        self.usable = trials.usable
        self.constraints = _constraints_of(config, study)

    def next_trials(self, n: int, mixture: MixtureConfig) -> list[AskedTrial]:
        """Algorithm 1's draws until enough losses are there, then the acquisition's choice. mixture: of a trial."""
        tokens = np.array([self.study.trial_tokens[name] for name in self.domains], dtype=np.int64)
        first, round_ = len(self.trials.asked), self.trials.round + 1
        if len(self.usable) < LEAST_TRIALS:
            return [self._drawn(index, round_, tokens, mixture) for index in range(first, first + n)]
        cube, mean = self._acquire(n, tokens, mixture)
        return [
            AskedTrial(
                name=_name(first + place),
                round=round_,
                origin="acquisition",
                theta=theta_by_name(params_from_cube(self.space, point[None]), self.domains, self.criteria),
                cube=point.tolist(),
                attempts=1,
                predicted=float(guess),
            )
            for place, (point, guess) in enumerate(zip(cube, mean, strict=True))
        ]

    def _drawn(self, index: int, round_: int, tokens: NDArray[np.int64], mixture: MixtureConfig) -> AskedTrial:
        drawn = draw_theta(self.space, index, self.seed, tokens, mixture)
        assert drawn.params.cube is not None
        theta = theta_by_name(drawn.params, self.domains, self.criteria)
        return AskedTrial(_name(index), round_, "prior", theta, drawn.params.cube[0].tolist(), drawn.attempts, None)

    def _acquire(self, n: int, tokens: NDArray[np.int64], mixture: MixtureConfig) -> tuple[Floats, Floats]:
        """(n, dim) cube points and (n,) joint losses expected of them."""
        at_most = min(CANDIDATES, self.settings.candidates)
        asking = NextRound(self.space, mixture, tokens, self.cheap, self.full, self.quality, at_most)
        waiting = [trial for trial in self.trials.open if trial.name in self.trials.made]
        running = self._tried(waiting, np.full(len(waiting), np.nan)) if waiting else None
        tried = self._tried(self.usable, self.objective.joint(self._losses()))
        return asking.choose(tried, n, seed_for(self.seed, "acquisition", self.trials.round), running)

    def _tried(self, trials: Sequence[AskedTrial], joint: Floats) -> Tried:
        made = [self.trials.made[trial.name].mixture for trial in trials]
        cube = np.array([trial.cube for trial in trials])
        return Tried(cube, Mixtures.of_names(made, self.domains, self.criteria), joint)

    def _losses(self) -> Floats:
        told = [self.trials.told[trial.name] or {} for trial in self.usable]
        return np.array([[one[name] for name in self.targets] for one in told])

    def learned(self) -> tuple[CrossValidation, list[Proposal]]:
        """Held-out scores, and proposals for the whole pool at the config's budget, the first to be published."""
        losses = self._losses()
        made = [self.trials.made[trial.name].mixture for trial in self.usable]
        trained = Trained(made, [trial.theta for trial in self.usable], losses)
        models, validation = learn(
            self.settings.regressor, self.objective, (self.full, self.cheap), trained, self.quality, self.seed
        )
        tokens = np.array([self.study.pool_tokens[name] for name in self.domains], dtype=np.int64)
        around = best_points(self._tried(self.usable, self.objective.joint(losses)))
        cube = candidates(self.space, self.settings.candidates, seed_for(self.seed, "proposal"), around)
        limits = self.constraints.active
        feasible, matrix, share = screen(params_from_cube(self.space, cube), tokens, self.mixture, self.cheap, limits)
        rows = np.flatnonzero(feasible)
        found: list[Proposal] = []
        if rows.size:
            joint = penalised(self.objective.joint(models.screening.predict(matrix[rows])), share[rows], limits)
            cube = cube[rows[np.argsort(joint, kind="stable")[: self.settings.finalists]]]
            guess = predict(params_from_cube(self.space, cube), tokens, self.mixture, models, limits)
            joint = penalised(self.objective.joint(guess.losses), guess.mixtures.share, limits)
            top = min(self.settings.average_top, len(joint))
            found = propose(self.space, cube, joint, top, tokens, self.mixture, models, limits)
        best = self.usable[int(np.argmin(self.objective.joint(losses)))]
        params = params_of(best.theta, self.domains, self.criteria)
        if bool(closed_form(params, tokens, self.mixture, limits).feasible[0]):
            found.append(proposal("best_observed", params, tokens, self.mixture, models, limits))
        if not found:
            raise ConfigError(
                f"mixture.budget: not one of {self.settings.candidates:,} candidates can meet {self.mixture.budget:,} "
                "tokens within mixture.constraints; lower it, loosen them or raise mixture.max_copies"
            )
        return validation, found

    def more(self) -> Worth:
        """What the next trials that `ask` would choose are worth to a proposal for the whole pool."""
        tokens = np.array([self.study.pool_tokens[name] for name in self.domains], dtype=np.int64)
        at_most = min(CANDIDATES, self.settings.candidates)
        asking = NextRound(self.space, self.mixture, tokens, self.cheap, self.full, self.quality, at_most)
        tried, seed = self._tried(self.usable, self.objective.joint(self._losses())), seed_for(self.seed, "more")
        limits = self.constraints.active
        return worth_of_more(asking, tried, asking.choose(tried, MORE, seed)[0], seed, limits=limits)


def _name(index: int) -> str:
    return f"trial-{index:05d}"


# ---------------------------------------------------------------------------------------------- manifests


def _make(config: RunConfig, engine: Engine, progress: Progress, pool: TrialPool, trials: AskedTrials) -> None:
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
    theta = trial.theta.as_config()
    plan = fit_theta(engine, packs(annotated.files), annotated.summary, mixture, theta, pool.maps)
    parts = {
        "annotations": record_digest(annotated.record),
        "config.mixture": mixture.model_dump_json(exclude={"space"}),
        "seed": str(config.seed),
        "theta": theta.model_dump_json(),
    }
    work = root / "stages" / f"trial-{fingerprint(*parts.values())[:16]}"
    work.mkdir(parents=True, exist_ok=True)
    provenance = f"{trial.name} of a search with one's own trainer"
    record = run_plan(config, engine, annotated, plan, work, parts, provenance)
    # what the losses are made into is no part of a trial
    own = config.model_copy(update={"select": SelectConfig(mixture="theta", theta=theta), "search": None})
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


# ---------------------------------------------------------------------------------------------- files


def _write_trials(out: Path, study: Study, trials: AskedTrials) -> None:
    """`trials.json` with every theta by name, and `trials.csv`: one row a trial, shares in columns `share:<domain>`."""
    described = []
    for trial in trials.asked:
        made = trials.made.get(trial.name)
        described.append(
            {
                **{key: value for key, value in asdict(trial).items() if key != "cube"},
                "manifest": made.manifest if made else None,
                "digest": made.digest if made else None,
                "documents": made.documents if made else None,
                "mixture": asdict(made.mixture) if made else None,
                "told": trial.name in trials.told,
                "losses": trials.told.get(trial.name),
            }
        )
    _write_json(out / TRIALS_JSON, {"tokens": study.tokens, "targets": study.targets, "trials": described})
    realised = FeatureSet("realised", tuple(study.domains), tuple(study.criteria))
    drawn = replace(realised, kind="theta")
    rows = []
    for trial in trials.asked:
        if (made := trials.made.get(trial.name)) is None:
            continue
        params = params_of(trial.theta, realised.domains, realised.criteria)
        mixture = Mixtures.of_names([made.mixture], realised.domains, realised.criteria)
        numbers = [*realised.matrix(mixture, None)[0].tolist(), *drawn.matrix(mixture, params)[0].tolist()]
        head = [trial.name, trial.round, trial.origin, made.manifest, made.documents, int(made.mixture.tokens)]
        rows.append([*head, *numbers])
    assert realised.names[0].startswith(SHARE)  # what --from-trials takes for the domains
    header = [ID, "round", "origin", "manifest", "documents", "tokens", *realised.names, *drawn.names]
    write_atomically(out / TRIALS_CSV, table_csv(header, rows))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    write_atomically(path, text.encode("utf-8"))
