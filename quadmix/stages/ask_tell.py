"""Bring your own trainer: `ask` writes trials as manifests, `tell` takes their losses back and proposes a mixture.

The first trials are Algorithm 1's, the thetas that the built-in swarm would draw without counts; once enough losses are
told, new ones come from the acquisition. Each trial is selected from the trials' pool by the code of `select`, with the
same draws of documents (common random numbers), and stored as a manifest that `verify`, `explain` and `export` read. No
fresh proxies confirm a proposal here, and everything that is written says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quadmix.config import LEAST_TRIALS, ConstraintsConfig, RunConfig, SearchConfig
from quadmix.engine.base import Engine
from quadmix.errors import ConfigError, InputError
from quadmix.progress import Progress
from quadmix.search.bookkeeping import is_constant
from quadmix.search.features import FeatureSet, Mixtures
from quadmix.search.noise import noise_in_words
from quadmix.search.proposals import params_of
from quadmix.search.regressors import require_regressor
from quadmix.search.result import JOINT
from quadmix.search.stopping import worth_in_words
from quadmix.search.trial_columns import SHARE
from quadmix.search.trial_files import ID, table_csv
from quadmix.stages.annotate import annotate
from quadmix.stages.asked_learning import Learned, Learner, constraints_of_study
from quadmix.stages.asked_manifests import make_manifests
from quadmix.stages.asked_trials import (
    ASK_FILE,
    LOSSES_FILE,
    MIXTURE,
    NATURAL,
    SEED,
    AskedTrials,
    Study,
    check_identity,
    check_template,
    load_study,
    new_losses,
    open_study,
    write_template,
)
from quadmix.stages.constraining import constraints_of
from quadmix.stages.records import record_digest, run_lock, write_atomically
from quadmix.stages.search_inputs import objective_weights
from quadmix.stages.trial_pool import QUALITY_FILE, load_quality, trial_pool

TRIALS_JSON, TRIALS_CSV = "trials.json", "trials.csv"
RESULT_FILE, PROPOSAL_FILE = "result.json", "proposal.json"


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
    begun: Callable[[], None] = lambda: None,
) -> Asked:
    """Bring the number of trials that wait for losses to `n`, and write every one's manifest. Under `objective_rule:
    worst` the natural mixture is one more trial, once.

    tokens: of a trial, None = the config's budget; targets: names of the losses, () = the config's targets. Repeating
    the call finishes what was interrupted and adds nothing. begun: called once the pool is annotated. Raises
    ConfigError (exit 2), and BudgetError for constraints that no mixture keeps, before any trial is made.
    """
    names = _checked(config, out, tokens, targets)
    with run_lock(Path(config.output)):
        annotated = annotate(config, engine, progress)
    begun()
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
        if config.search is not None and config.search.objective_rule == "worst":
            trials.ask_natural()
        new = max(n - sum(trial.theta is not None for trial in trials.open), 0)
        origin = "none"
        if new:
            learner = Learner(config, study, trials, pool.quality)
            if learner.waits_for_natural and len(trials.usable) >= LEAST_TRIALS:
                progress.say(f"ask: {_no_natural(trials, out)}; no other trial is chosen before that")
                new = 0
            else:
                batch = learner.next_trials(new, mixture)
                origin = batch[0].origin
                trials.ask(batch)
                progress.say(f"ask: {len(batch)} trials by {_by(origin, len(trials.usable))}")
        make_manifests(config.model_copy(update={"mixture": mixture}), engine, progress, pool, trials)
        _write_trials(out, study, trials)
        write_template(out, trials, names)
    return Asked(
        directory=str(out),
        waiting=len(trials.open),
        new=new,
        origin=origin,
        told=len(trials.told),
        tokens=size,
        trials=str(out / TRIALS_CSV),
        losses=str(out / LOSSES_FILE),
    )


def tell(
    config: RunConfig,
    engine: Engine,
    progress: Progress,
    out: Path,
    losses: Path,
    begun: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Take losses back (lower is better), fit, and write `result.json` and `proposal.json`; returns the former's JSON.

    With fewer than 8 finished trials the losses are kept and nothing is fitted. Raises ConfigError for a directory or
    config that does not fit, its constraints included, and InputError for rows, before any loss is kept; BudgetError
    where no candidate can be proposed. begun: called once the losses are in the journal.
    """
    study = load_study(out)
    check_identity(out, study, _identity(config, tuple(study.targets)))
    if problems := _objective_problems(config, study.targets):
        raise ConfigError(problems)
    settings = config.search or SearchConfig()
    require_regressor(settings.regressor.kind)
    constraints_of_study(config, study)
    with run_lock(out):
        trials = AskedTrials(out)
        found = new_losses(losses, trials, study.targets)
        _check_that_losses_differ(losses, [*trials.told.values(), *found.values()], study.targets)
        for (name, seed), values in found.items():
            trials.tell(name, values, seed)
        begun()
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
            "objective": objective_weights(settings, study.targets),
            "objective_rule": settings.objective_rule,
        }
        if len(trials.usable) < LEAST_TRIALS:
            progress.say(
                f"tell: {len(trials.usable)} finished trials, {LEAST_TRIALS} are needed to fit on; none proposed"
            )
            return result | {"proposals": []}
        learner = Learner(config, study, trials, load_quality(out / study.quality))
        if learner.waits_for_natural:
            progress.say(f"tell: {_no_natural(trials, out)}; none proposed")
            return result | {"proposals": []}
        learned = learner.learned(engine, progress)
        result |= learned.facts()
        _say_learned(progress, learned, settings)
        chosen = learned.proposed.proposals[0]
        provenance = (
            f"the proposal ({chosen.origin}) of {len(trials.usable)} trials of one's own trainer; "
            "no fresh proxies confirmed it"
        )
        _write_json(out / RESULT_FILE, result)
        _write_json(out / PROPOSAL_FILE, {"provenance": provenance, "confirmed": False, **asdict(chosen)})
        progress.say(
            f"tell: {provenance}. To publish it: quadmix select CONFIG --set select.mixture=theta "
            f"--set select.theta_file={out / PROPOSAL_FILE}"
        )
    return result


def _say_learned(progress: Progress, learned: Learned, settings: SearchConfig) -> None:
    lines = learned.validation.in_words()
    if learned.noise is not None:
        lines.append(noise_in_words(learned.noise, settings.confirm.seeds))
    lines.append(worth_in_words(learned.more))
    for one in learned.proposed.proposals:
        low, high = one.interval[JOINT]
        lines.append(f"{one.origin}: joint loss predicted {one.predicted[JOINT]:.4f} (90 %: {low:.4f} to {high:.4f})")
    for line in lines:
        progress.say(f"tell: {line}")


def _no_natural(trials: AskedTrials, out: Path) -> str:
    """Why the worst case cannot be judged, and what to do."""
    needs = f"`objective_rule: worst` is measured against the trial `{NATURAL}`"
    if all(trial.name != NATURAL for trial in trials.asked):
        return f"{needs}, which was not asked for; run `quadmix search ask` on {out} again with this objective"
    if NATURAL in trials.runs:
        return f"{needs}, which failed; train it again and tell its losses"
    return f"{needs}, whose losses were not told yet"


def _check_that_losses_differ(file: Path, told: Sequence[Mapping[str, float] | None], targets: Sequence[str]) -> None:
    """Raises InputError for a loss that is the same in all finished trials, once there are enough to fit on."""
    finished = [one for one in told if one is not None]
    if len(finished) < LEAST_TRIALS:
        return
    constant = [name for name in targets if is_constant(np.array([one[name] for one in finished]))]
    if constant:
        said = ", ".join(f"{name} ({finished[0][name]:g})" for name in constant)
        raise InputError(
            f"{file.name}: with it, these losses are the same in all {len(finished)} finished trials: {said}; nothing "
            "can be fitted to that, and nothing was told. Check what your trainer measured"
        )


# ---------------------------------------------------------------------------------------------- what is asked


def _checked(config: RunConfig, out: Path, tokens: int | None, targets: Sequence[str]) -> tuple[str, ...]:
    """The names of the losses; raises ConfigError for what cannot be, all at once."""
    problems = []
    names = tuple(targets) or tuple(target.name for target in config.targets)
    if not names:
        problems.append("targets: empty; name the losses that your trainer measures with --targets a,b")
    if taken := sorted({JOINT, ID, SEED} & set(names)):
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
    return names


def _objective_problems(config: RunConfig, targets: Sequence[str]) -> list[str]:
    given = (config.search.objective if config.search else None) or {}
    return [
        f"search.objective.{name}: found {name!r}, wanted one of the losses {', '.join(targets)} (of `ask --targets`)"
        for name in given
        if name not in targets
    ]


def _identity(config: RunConfig, targets: Sequence[str]) -> dict[str, str]:
    mixture = config.mixture.model_dump_json(exclude={"constraints"})
    return {MIXTURE: mixture, "seed": str(config.seed), "targets": ",".join(targets)}


def _by(origin: str, usable: int) -> str:
    if origin == "prior":
        return "Algorithm 1's draws"
    return f"expected improvement over {usable} finished trials"


# ---------------------------------------------------------------------------------------------- files


def _write_trials(out: Path, study: Study, trials: AskedTrials) -> None:
    """`trials.json` with every theta by name and its losses (`runs` by seed, `losses` their mean), and `trials.csv`: a
    row a trial, shares in columns `share:<domain>`."""
    described, told = [], trials.told
    for trial in trials.asked:
        made = trials.made.get(trial.name)
        described.append(
            {
                **{key: value for key, value in asdict(trial).items() if key != "cube"},
                "manifest": made.manifest if made else None,
                "digest": made.digest if made else None,
                "documents": made.documents if made else None,
                "mixture": asdict(made.mixture) if made else None,
                "told": trial.name in told,
                "losses": told.get(trial.name),
                "runs": trials.runs.get(trial.name, {}),
            }
        )
    _write_json(out / TRIALS_JSON, {"tokens": study.tokens, "targets": study.targets, "trials": described})
    realised = FeatureSet("realised", tuple(study.domains), tuple(study.criteria))
    drawn = replace(realised, kind="theta")
    rows = []
    for trial in trials.asked:
        if (made := trials.made.get(trial.name)) is None:
            continue
        mixture = Mixtures.of_names([made.mixture], realised.domains, realised.criteria)
        numbers: list[float | None] = [*realised.matrix(mixture, None)[0].tolist()]
        if trial.theta is None:
            numbers += [None] * len(drawn.names)
        else:
            params = params_of(trial.theta, realised.domains, realised.criteria)
            numbers += drawn.matrix(mixture, params)[0].tolist()
        head = [trial.name, trial.round, trial.origin, made.manifest, made.documents, int(made.mixture.tokens)]
        rows.append([*head, *numbers])
    assert realised.names[0].startswith(SHARE)  # what --from-trials takes for the domains
    header = [ID, "round", "origin", "manifest", "documents", "tokens", *realised.names, *drawn.names]
    write_atomically(out / TRIALS_CSV, table_csv(header, rows))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    write_atomically(path, text.encode("utf-8"))
