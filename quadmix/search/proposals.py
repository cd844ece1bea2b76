"""From predicted finalists to one proposal: the average of the best ones, with the argmin kept beside it.

The paper averages the top 10 of its candidates without saying in which space. Here it is the unit cube of the draws:
scale parameters average on their own scale and merge weights, rebuilt from the averaged draws, sum to 1 again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quadmix.config import MixtureConfig
from quadmix.core.param_space import Params, ParamSpace, params_from_cube
from quadmix.core.quotas import with_quotas
from quadmix.search.constraints import Limits
from quadmix.search.features import closed_form
from quadmix.search.joint_intervals import intervals_by_name
from quadmix.search.result import JOINT, Proposal, ThetaByName
from quadmix.search.screening import SearchModels, predict

Floats = NDArray[np.float64]


def theta_by_name(params: Params, domains: tuple[str, ...], criteria: tuple[str, ...]) -> ThetaByName:
    """A batch of one as numbers keyed by domain and criterion."""
    if len(params) != 1:
        raise ValueError(f"found a batch of {len(params)} thetas, wanted one")
    fields = {
        field: {domain: float(getattr(params, field)[0, m]) for m, domain in enumerate(domains)}
        for field in ("steepness", "cutoff", "exponent", "floor")
    }
    weights = {
        domain: {criterion: float(params.merge_weights[0, m, n]) for n, criterion in enumerate(criteria)}
        for m, domain in enumerate(domains)
    }
    return ThetaByName(weights, **fields)


def params_of(theta: ThetaByName, domains: tuple[str, ...], criteria: tuple[str, ...]) -> Params:
    """The inverse of `theta_by_name`, bit for bit."""
    return params_of_all([theta], domains, criteria)


def params_of_all(thetas: Sequence[ThetaByName], domains: tuple[str, ...], criteria: tuple[str, ...]) -> Params:
    """Many of them as one batch."""
    return Params(
        np.array([[[theta.merge_weights[d][c] for c in criteria] for d in domains] for theta in thetas]),
        *(
            np.array([[getattr(theta, field)[d] for d in domains] for theta in thetas])
            for field in ("steepness", "cutoff", "exponent", "floor")
        ),
    )


def average(cube: Floats, joint: Floats, top: int) -> Floats:
    """(1, dim): the mean of the `top` points of lowest predicted joint loss, ties in the given order."""
    best = np.argsort(joint, kind="stable")[:top]
    return np.asarray(cube[best].mean(axis=0, keepdims=True))


def propose(
    space: ParamSpace,
    cube: Floats,
    joint: Floats,
    top: int,
    domain_tokens: NDArray[np.int64],
    mixture: MixtureConfig,
    models: SearchModels,
    limits: Limits | None = None,
) -> list[Proposal]:
    """The average of the best finalists, re-predicted, then the best single finalist.

    cube: (k, dim) of the finalists, joint: (k,) their predicted joint losses. An average that cannot meet the
    budget within the limits is left out; the argmin always can.
    """
    averaged = params_from_cube(space, average(cube, joint, top))
    argmin = params_from_cube(space, average(cube, joint, 1))
    found = [proposal("argmin", argmin, domain_tokens, mixture, models, limits)]
    if bool(closed_form(averaged, domain_tokens, mixture, limits).feasible[0]):
        found.insert(0, proposal("average", averaged, domain_tokens, mixture, models, limits))
    return found


def proposal(
    origin: str,
    params: Params,
    domain_tokens: NDArray[np.int64],
    mixture: MixtureConfig,
    models: SearchModels,
    limits: Limits | None = None,
) -> Proposal:
    """One theta with its expected mixture and predicted losses; its theta is one that `select` builds as predicted."""
    domains, criteria = models.full_features.domains, models.full_features.criteria
    guess = predict(params, domain_tokens, mixture, models, limits)
    features = models.full_features.matrix(guess.mixtures, params)
    return Proposal(
        origin=origin,
        theta=theta_by_name(buildable(params, domain_tokens, mixture, limits), domains, criteria),
        mixture=guess.mixtures.by_name(0, domains, criteria, models.full_features.counted),
        predicted=predicted_by_name(guess.losses[0], models),
        interval=intervals_by_name(models.full, features, models.objective)[0] if models.full.calibrated else {},
    )


def predicted_by_name(losses: Floats, models: SearchModels) -> dict[str, float]:
    """(n_targets,) predicted losses by target, and their joint objective."""
    named = {target: float(loss) for target, loss in zip(models.full.targets, losses, strict=True)}
    return {**named, JOINT: float(models.objective.joint(losses[None])[0])}


def buildable(
    params: Params, domain_tokens: NDArray[np.int64], mixture: MixtureConfig, limits: Limits | None
) -> Params:
    """The theta (a batch of one) that gives the constrained shares without being told of the limits.

    One that keeps them is left as it is: the budget's multiplier does the rest. Else the cutoffs are those of the
    quotas, to the last digits and with portable arithmetic, so that the multiplier is 1.
    """
    if limits is None or not limits.bounded:
        return params
    free = closed_form(params, domain_tokens, mixture)
    if not limits.broken(free.mixtures.share * free.mixtures.tokens[:, None])[0]:
        return params
    found = closed_form(params, domain_tokens, mixture, limits)
    quotas = found.mixtures.share * float(mixture.budget)
    return with_quotas(found.params, domain_tokens, quotas, float(mixture.max_copies))
