"""Somebody else's swarm: no pool and no proxies, only the regression and the proposal (`quadmix search --from-trials`).

Reads the runs, says how well held-out runs are ranked (beside shuffled losses), and proposes domain weights as RegMix
does. Nothing here was confirmed by fresh runs, and every output says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.config import RegressorConfig
from quadmix.errors import ConfigError
from quadmix.hashing import sha256_file
from quadmix.manifest.durable import resource_errors, write_atomically
from quadmix.progress import Progress
from quadmix.search.constraints import Kind
from quadmix.search.cross_validation import cross_validate
from quadmix.search.domain_weights import propose_weights
from quadmix.search.joint_intervals import intervals_by_name
from quadmix.search.listing import listed
from quadmix.search.objective import Objective
from quadmix.search.regressors import PRESETS, REGRESSORS, fit_targets, require_regressor
from quadmix.search.result import JOINT
from quadmix.search.trial_columns import ColumnChoice, matching
from quadmix.search.trial_files import (
    Swarm,
    read_swarm,
    swarm_files,
    table_csv,
)
from quadmix.stages.foreign_limits import Shares, ground_of

RESULT_FILE, WEIGHTS_FILE = "trials_search.json", "domain_weights.csv"
VERSION = 1
CANDIDATES = 100_000
AVERAGE_TOP = 100  # RegMix averages its top 100; QuaDMix, with fewer shares to blur, 10
_SHOWN = 12  # domains of a proposal that the terminal shows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrialsSearch:
    """What is asked. losses None: in the file of the mixtures, or `mixtures` is a directory of both.

    objective: metric -> weight, equal when empty; higher_is_better: patterns of metrics; domain_tokens, prior: files of
    two columns; budget: tokens of the run that repeats are counted for; regressor, preset: as the config's
    `search.regressor` has them; min_share, max_share, fixed_share: (domain or pattern, share) that every proposal but
    the prior keeps; kl: weight of KL(share || prior) in what is minimised, nats; worst_case: minimise
    the largest excess of a metric over what is predicted for the prior, instead of the weighted mean.
    """

    mixtures: Path
    losses: Path | None
    out: Path
    columns: ColumnChoice
    objective: tuple[tuple[str, float], ...] = ()
    higher_is_better: tuple[str, ...] = ()
    domain_tokens: Path | None = None
    budget: int | None = None
    max_copies: float | None = None
    prior: Path | None = None
    regressor: str = RegressorConfig().kind
    preset: str = RegressorConfig().preset
    min_share: Shares = ()
    max_share: Shares = ()
    fixed_share: Shares = ()
    kl: float = 0.0
    worst_case: bool = False
    candidates: int = CANDIDATES
    average_top: int = AVERAGE_TOP
    folds: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raises ConfigError for what can be seen without reading a file; all problems at once."""
        problems = []
        if self.budget is not None and self.domain_tokens is None:
            problems.append("--budget: repeats cannot be counted without --domain-tokens, the tokens of each domain")
        if self.max_copies is not None and self.budget is None:
            problems.append("--max-copies: a cap on repeats needs --budget, the tokens of the run")
        if self.max_copies is not None and not 0 < self.max_copies < math.inf:
            problems.append(
                f"--max-copies: found {self.max_copies:g}, wanted a number above 0; without a cap leave --budget out"
            )
        if not 1 <= self.average_top <= self.candidates:
            problems.append(f"--average-top: found {self.average_top}, wanted 1 to --candidates ({self.candidates:,})")
        if self.folds < 2:
            problems.append(f"--folds: found {self.folds}, wanted at least 2")
        if self.regressor not in REGRESSORS:
            problems.append(f"--regressor: found {self.regressor!r}, wanted one of {', '.join(sorted(REGRESSORS))}")
        if self.worst_case and self.objective:
            problems.append("--worst-case: weights play no part in a maximum; choose the metrics with --targets alone")
        if not 0 <= self.kl < math.inf:
            problems.append(f"--kl: found {self.kl:g}, wanted a number of at least 0")
        problems += [
            f"--{kind.replace('_', '-')}: {name}={share:g}, wanted a share from 0 to 1"
            for kind, asked in self.bounds.items()
            for name, share in asked
            if not 0 <= share <= 1
        ]
        if self.preset not in PRESETS:
            problems.append(f"--preset: found {self.preset!r}, wanted one of {', '.join(sorted(PRESETS))}")
        if self.out.exists() and (not self.out.is_dir() or (any(self.out.iterdir()) and not self._is_mine)):
            problems.append(f"--out: {self.out} holds something else; nothing was written; give a new directory")
        problems += [
            f"--objective: {name}={weight:g}, wanted a number above 0; leave a metric out that shall not count"
            for name, weight in self.objective
            if not 0 < weight < math.inf
        ]
        weighed = [name for name, _ in self.objective]
        problems += [
            f"--objective: {name} has {weighed.count(name)} weights, wanted one"
            for name in dict.fromkeys(weighed)
            if weighed.count(name) > 1
        ]
        if problems:
            raise ConfigError(problems)

    @property
    def bounds(self) -> dict[Kind, Shares]:
        """What bounds shares, by kind."""
        return {"min_share": self.min_share, "max_share": self.max_share, "fixed_share": self.fixed_share}

    @property
    def _is_mine(self) -> bool:
        """Whether a search may write here: its result is there, whatever was put beside it, or nothing but the file
        that it writes before its result. Only these two files are written over."""
        names = {path.name for path in self.out.iterdir()}
        return RESULT_FILE in names or names <= {RESULT_FILE, WEIGHTS_FILE}


def search_from_trials(asked: TrialsSearch, progress: Progress) -> dict[str, Any]:
    """Run it and write `trials_search.json` and `domain_weights.csv`; returns the JSON of the former.

    Raises ConfigError for flags and columns, InputError for files and rows.
    """
    asked.check()
    require_regressor(asked.regressor)
    files = [path for path in swarm_files(asked.mixtures, asked.losses) if path is not None]
    swarm = read_swarm(files[0], files[1] if len(files) == 2 else None, asked.columns)
    sign = _signs(swarm, asked.higher_is_better)
    factor = _weights(swarm, asked.objective)
    ground = ground_of(asked, swarm)
    limit, prior, within = ground.limit, ground.prior, ground.within
    notes = [*swarm.notes, *ground.notes]
    for note in notes:
        progress.say(f"trials: {note}")
    progress.say(
        f"trials: {len(swarm.ids)} runs, {len(swarm.domains)} domains, {len(swarm.targets)} metrics; "
        f"prior: {ground.prior_from}"
    )
    progress.say(f"trials: runs by {swarm.id_column!r}; columns taken as losses: {listed(swarm.targets)}")
    losses = swarm.losses * sign
    objective = Objective(dict(zip(swarm.targets, factor.tolist(), strict=True)))
    columns = [f"share:{domain}" for domain in swarm.domains]
    models = fit_targets(swarm.targets, swarm.shares, losses, asked.regressor, asked.preset, columns)
    if asked.worst_case:
        at_prior = models.predict(prior[None])[0].tolist()
        objective = replace(objective, rule="worst").against(dict(zip(swarm.targets, at_prior, strict=True)))
        progress.say("trials: the joint loss is the largest excess of a metric over its prediction for the prior")
    validation = cross_validate(
        swarm.targets,
        objective,
        swarm.shares,
        losses,
        folds=asked.folds,
        seed=asked.seed,
        kind=asked.regressor,
        preset=asked.preset,
        columns=columns,
    )
    for line in validation.in_words():
        progress.say(f"trials: {line}")
    proposals = propose_weights(
        models, objective, prior, limit, n=asked.candidates, top=asked.average_top, seed=asked.seed, within=within
    )
    joint = objective.joint(losses)
    best = int(np.argmin(joint))

    def named(values: Floats) -> dict[str, float]:
        own = dict(zip(swarm.targets, (values * sign).tolist(), strict=True))
        return {**own, JOINT: float(objective.joint(values[None])[0])}

    def described(weights: Floats) -> dict[str, Any]:
        found: dict[str, Any] = {"weights": dict(zip(swarm.domains, weights.tolist(), strict=True))}
        if limit is not None:
            repeats = zip(swarm.domains, limit.repeats(weights).tolist(), strict=True)
            # of a domain without tokens a run may have read some; how often is no number, and JSON has no infinity
            found["repeats"] = {name: times if math.isfinite(times) else None for name, times in repeats}
            found["within_cap"] = bool((weights <= limit.cap * (1 + 1e-9)).all())
        if within is not None:
            found["breaks"] = within.broken(weights)
            penalty = float(within.penalty(weights[None])[0])
            # a run may have read a domain that the prior has not: infinitely far from it, and JSON has no infinity
            found["kl_penalty"] = penalty if math.isfinite(penalty) else None
        return found

    def sure(weights: Floats) -> dict[str, list[float]]:
        """90 % intervals on the scale of the given metrics: a flipped metric's ends change places."""
        (found,) = intervals_by_name(models, weights[None], objective)
        flipped = _flipped(swarm, sign)
        return {name: [-ends[1], -ends[0]] if name in flipped else ends for name, ends in found.items()}

    rows = [
        {
            "origin": one.origin,
            **described(one.weights),
            "predicted": named(one.losses),
            "interval": sure(one.weights),
        }
        for one in proposals
    ]
    held_out = {name: validation.out_of_fold[name][best] for name in (*swarm.targets, JOINT)}
    observed = {
        "origin": "best_observed",
        "run": swarm.ids[best],
        **described(swarm.shares[best]),
        "predicted": {
            name: value * (-1.0 if name in _flipped(swarm, sign) else 1.0) for name, value in held_out.items()
        },
        "measured": named(losses[best]),
    }
    rows.insert(2, observed)
    result = {
        "version": VERSION,
        "confirmed": False,
        "note": "predicted from the given runs; no fresh run has confirmed any proposal",
        "inputs": {path.name: sha256_file(str(path)) for path in files},
        "runs": len(swarm.ids),
        "failed": list(swarm.failed),
        "id_column": swarm.id_column,
        "losses": list(swarm.targets),
        "notes": notes,
        "domains": list(swarm.domains),
        "objective": dict(zip(swarm.targets, factor.tolist(), strict=True)),
        "objective_rule": objective.rule,
        "higher_is_better": _flipped(swarm, sign),
        "prior": {"from": ground.prior_from, "weights": dict(zip(swarm.domains, prior.tolist(), strict=True))},
        "cap": ground.cap_facts(),
        "constraints": _constraints(asked),
        "regressor": asked.regressor,
        "preset": asked.preset,
        "models": models.shares_of_models(),
        "seed": asked.seed,
        "candidates": asked.candidates,
        "averaged": asked.average_top,
        "cross_validation": validation.facts(),
        "proposals": rows,
    }
    _write(asked.out, swarm, result)
    for line in _words(result):
        progress.say(line)
    return result


def _constraints(asked: TrialsSearch) -> dict[str, Any]:
    found: dict[str, Any] = {kind: dict(given) for kind, given in asked.bounds.items()}
    return found | {"kl": asked.kl}


def _words(result: Mapping[str, Any]) -> list[str]:
    """What is proposed, for a reader."""
    lines = []
    by_origin = {row["origin"]: row for row in result["proposals"]}
    for origin, row in by_origin.items():
        measured = f", measured {row['measured'][JOINT]:.4f} (run {row['run']})" if "measured" in row else ""
        capped = "" if row.get("within_cap", True) else ", over the cap on repeats"
        capped += f", breaks {'; '.join(row['breaks'])}" if row.get("breaks") else ""
        ends = row.get("interval", {}).get(JOINT)
        sure = f" (90 %: {ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
        lines.append(f"trials: {origin}: joint loss predicted {row['predicted'][JOINT]:.4f}{sure}{measured}{capped}")
    weights = sorted(by_origin["average"]["weights"].items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {share:.3f}" for name, share in weights[:_SHOWN] if share >= 5e-4)
    more = f" and {len(weights) - _SHOWN} more" if len(weights) > _SHOWN else ""
    lines.append(f"trials: proposed weights: {shown}{more}")
    lines.append(f"trials: {result['note']}")
    return lines


def _signs(swarm: Swarm, patterns: Sequence[str]) -> Floats:
    """(n_targets,) -1 for metrics where higher is better."""
    flipped = matching(patterns, swarm.targets, "--higher-is-better")
    return np.array([-1.0 if name in flipped else 1.0 for name in swarm.targets])


def _flipped(swarm: Swarm, sign: Floats) -> list[str]:
    return [name for name, one in zip(swarm.targets, sign, strict=True) if one < 0]


def _weights(swarm: Swarm, objective: Sequence[tuple[str, float]]) -> Floats:
    """(n_targets,) weights of the joint objective, summing to 1; metrics that an objective leaves out have none."""
    if not objective:
        return np.full(len(swarm.targets), 1.0 / len(swarm.targets))
    matching([name for name, _ in objective], swarm.targets, "--objective")
    given = dict(objective)
    unknown = [name for name in given if name not in swarm.targets]
    if unknown:
        raise ConfigError(f"--objective: {', '.join(unknown)}: wanted whole names of metrics, not patterns")
    found = np.array([given.get(name, 0.0) for name in swarm.targets])
    return np.asarray(found / found.sum())


def _write(out: Path, swarm: Swarm, result: Mapping[str, Any]) -> None:
    """Both files, once both are known to be writable as text: an error before leaves nothing behind."""
    rows = [[row["origin"], *row["weights"].values()] for row in result["proposals"]]
    table = table_csv([swarm.id_column, *swarm.domain_columns], rows)
    text = json.dumps(result, allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    with resource_errors(f"cannot make {out}"):
        out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / WEIGHTS_FILE, table)
    write_atomically(out / RESULT_FILE, text.encode("utf-8"))
