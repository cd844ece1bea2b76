"""The check by fresh proxies: intervals, and in words who won by how much.

All mixtures of one seed share its draws, order and initialisation, so differences are paired by seed; between seeds
everything is fresh. Intervals are Student's t over seeds: of each mixture's loss, and of each rival's loss minus the
proposal's. Two mixtures tie when the interval of their difference holds 0. Intervals are not widened for the
number of rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quadmix.search.objective import Objective
from quadmix.search.result import JOINT, Confirmation, Confirmed, Interval

Losses = Mapping[str, Sequence[float | None]]

PROPOSAL = "quadmix"


def interval(values: Sequence[float], confidence: float) -> Interval:
    """Mean and half width of Student's t interval; no width below two values."""
    n = len(values)
    mean = float(np.mean(values)) if n else None
    if n < 2:
        return Interval(mean, None, n)
    from scipy.stats import t

    spread = float(np.std(np.asarray(values), ddof=1)) / float(np.sqrt(n))
    return Interval(mean, float(t.ppf(0.5 + confidence / 2.0, n - 1)) * spread, n)


def paired(a: Sequence[float | None], b: Sequence[float | None], confidence: float) -> Interval:
    """Interval of a - b over the seeds in which both are there."""
    return interval([x - y for x, y in zip(a, b, strict=True) if x is not None and y is not None], confidence)


def joint_losses(losses: Losses, objective: Objective, reference: Losses | None = None) -> list[float | None]:
    """The joint objective of every seed; None where any target is missing.

    reference: the natural mixture's losses, for the rule that needs them: those of the same seed count.
    """
    found: list[float | None] = []
    for seed in range(len(losses[objective.targets[0]])):
        own = _of_seed(losses, objective, seed)
        judge: Objective | None = objective
        if objective.rule == "worst":
            natural = _of_seed(reference, objective, seed) if reference is not None else None
            judge = objective.against(natural) if natural is not None else None
        found.append(judge.of(own) if own is not None and judge is not None else None)
    return found


def _of_seed(losses: Losses, objective: Objective, seed: int) -> dict[str, float] | None:
    values = {target: losses[target][seed] for target in objective.targets}
    known = {target: value for target, value in values.items() if value is not None}
    return known if len(known) == len(values) else None


def conclude(mixtures: Sequence[Confirmed], seeds: int, confidence: float) -> Confirmation:
    """Winner, ties and verdict over mixtures whose losses are filled in; the proposal is the first.

    A mixture that breaks a constraint is compared, but cannot win.
    """
    finished = {m.name: m.loss[JOINT].mean or 0.0 for m in mixtures if m.loss[JOINT].n == seeds}
    means = {m.name: finished[m.name] for m in mixtures if m.name in finished and not m.violates}
    winner = min(means, key=lambda name: (means[name], name)) if means else None
    by_name = {m.name: m for m in mixtures}
    ties = []
    for name in means:
        if winner is not None and name != winner:
            gap = paired(by_name[name].losses[JOINT], by_name[winner].losses[JOINT], confidence)
            if _undecided(gap):
                ties.append(name)
    return Confirmation(
        seeds=seeds,
        method=(
            f"{confidence:.0%} Student's t intervals over {seeds} seeds, each with fresh draws, order and "
            "initialisation; differences are paired by seed and not corrected for the number of rivals"
        ),
        mixtures=list(mixtures),
        winner=winner,
        ties=ties,
        verdict=verdict(mixtures, winner, ties, seeds),
    )


def verdict(mixtures: Sequence[Confirmed], winner: str | None, ties: Sequence[str], seeds: int) -> str:
    """`quadmix beats natural by 0.31 ± 0.06 nats; ties with topk_edu (+0.01 ± 0.05 nats); lowest mean ...`."""
    first, *rivals = mixtures
    beats: list[str] = []
    level: list[str] = []
    loses: list[str] = []
    unknown: list[str] = []
    for rival in rivals:
        gap = rival.ahead[JOINT]
        if gap.mean is None or gap.half_width is None:
            unknown.append(rival.name)
        elif _undecided(gap):
            level.append(f"{rival.name} ({gap.mean:+.2f} ± {gap.half_width:.2f} nats)")
        else:
            clause = f"{rival.name} by {abs(gap.mean):.2f} ± {gap.half_width:.2f} nats"
            (beats if gap.mean > 0 else loses).append(clause)
    parts = (("beats", beats), ("ties with", level), ("loses to", loses), ("was not compared with", unknown))
    clauses = [f"{words} {', '.join(who)}" for words, who in parts if who]
    sentence = f"{first.name} {'; '.join(clauses)}" if clauses else f"{first.name} was confirmed without rivals"
    if winner is None:
        why = "that keeps the constraints " if any(m.violates for m in mixtures) else ""
        return f"{sentence}; no winner: not one mixture {why}has all {seeds} proxies finished"
    tied = f", which ties with {', '.join(ties)}" if ties else ""
    breaking = [f"{m.name} ({'; '.join(m.violates)})" for m in mixtures if m.violates]
    barred = f"; not eligible, since constraints are broken: {', '.join(breaking)}" if breaking else ""
    among = " of those that keep the constraints" if breaking else ""
    return f"{sentence}; lowest mean joint loss{among}: {winner}{tied}{barred}"


def summarise(
    losses: Losses,
    proposal_losses: Losses | None,
    objective: Objective,
    confidence: float,
    reference: Losses | None = None,
) -> tuple[dict[str, list[float | None]], dict[str, Interval], dict[str, Interval]]:
    """(losses with JOINT, intervals of the losses, intervals of this minus the proposal) by target and JOINT.

    reference: see `joint_losses`.
    """
    targets = objective.targets
    full = {**{target: list(losses[target]) for target in targets}, JOINT: joint_losses(losses, objective, reference)}
    own = {key: interval([v for v in values if v is not None], confidence) for key, values in full.items()}
    if proposal_losses is None:
        return full, own, {}
    joint = joint_losses(proposal_losses, objective, reference)
    other = {**{target: list(proposal_losses[target]) for target in targets}, JOINT: joint}
    return full, own, {key: paired(full[key], other[key], confidence) for key in full}


def _undecided(gap: Interval) -> bool:
    return gap.mean is None or gap.half_width is None or abs(gap.mean) <= gap.half_width
