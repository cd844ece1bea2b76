"""What a bandit leaves behind: tokens of every cluster, and everything that shows why.

`Outcome` goes to JSON and back without loss (floats are written so that they read back to the same bits). The plan,
the report and `explain` read nothing else. Baselines are outcomes of the same form (`quad_baselines`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, with_config

from quadmix.core.budget import whole_shares
from quadmix.selectors.outcome_json import outcome_from_json
from quadmix.selectors.quad_shrinkage import Prior

Kind = Literal["bandit", "top_clusters", "cluster_uniform", "random"]

_STRICT = ConfigDict(extra="forbid")


class StopReason(StrEnum):
    """Why no further document was scored."""

    BUDGET_MET = "budget_met"
    ARMS_EXHAUSTED = "arms_exhausted"
    BELOW_THRESHOLD = "below_threshold"
    SCORING_LIMIT = "scoring_limit"
    NOT_A_BANDIT = "not_a_bandit"

    @property
    def words(self) -> str:
        return {
            StopReason.BUDGET_MET: "the token budget was met",
            StopReason.ARMS_EXHAUSTED: "no cluster was left that could be scored or granted: those above the threshold "
            "were granted whole, of the others every document that could be scored was",
            StopReason.BELOW_THRESHOLD: "no cluster could be above the threshold any more, by its upper bound",
            StopReason.SCORING_LIMIT: "as many documents were scored as the limit allows",
            StopReason.NOT_A_BANDIT: "a baseline, without rounds of its own",
        }[self]


@with_config(_STRICT)
@dataclass(frozen=True)
class ClusterOutcome:
    """One cluster. code: its value in the annotations' column; scored: documents; raw_mean: mean benefit of the scored
    documents, mean: shrunk; error: standard error of raw_mean; bound: mean - error. What takes a scored document is
    None without one. kept: bound above the threshold at the end. granted and fill: tokens."""

    name: str
    code: int
    documents: int
    tokens: int
    pulls: int
    scored: int
    raw_mean: float | None
    mean: float | None
    error: float | None
    bound: float | None
    kept: bool
    granted: int
    fill: int


@with_config(_STRICT)
@dataclass(frozen=True)
class PullOutcome:
    """Documents first..first + n - 1 of the cluster in hash order: their mean benefit and sum of squared deviations."""

    cluster: str
    first: int
    n: int
    mean: float
    m2: float


@with_config(_STRICT)
@dataclass(frozen=True)
class RoundOutcome:
    """granted: tokens by cluster from this round's end until the next round; filled: all tokens granted by then."""

    number: int
    pulls: tuple[PullOutcome, ...]
    granted: dict[str, int]
    filled: int


@with_config(_STRICT)
@dataclass(frozen=True)
class Outcome:
    """clusters: by name. threshold, noise (of documents within a cluster), between (of clusters around their prior
    mean), exploration (alpha): in units of benefit, None where nothing was scored. prior: towards what means were
    shrunk at the end."""

    kind: Kind
    budget: int
    stop: StopReason
    clusters: tuple[ClusterOutcome, ...]
    rounds: tuple[RoundOutcome, ...] = ()
    threshold: float | None = None
    noise: float | None = None
    between: float | None = None
    exploration: float | None = None
    prior: Prior | None = None

    @property
    def granted_tokens(self) -> int:
        return sum(cluster.granted for cluster in self.clusters)

    @property
    def fill_tokens(self) -> int:
        return sum(cluster.fill for cluster in self.clusters)

    @property
    def scored(self) -> int:
        """Documents scored."""
        return sum(cluster.scored for cluster in self.clusters)

    @property
    def scored_fraction(self) -> float:
        """Of all documents of all clusters."""
        return self.scored / max(sum(cluster.documents for cluster in self.clusters), 1)

    @property
    def why(self) -> str:
        """How it ended, in words."""
        text = self.stop.words
        if self.rounds:
            text += f", after {len(self.rounds):,} round{'s' if len(self.rounds) > 1 else ''}"
        if self.fill_tokens and self.kind == "bandit":
            text += (
                f"; {self.fill_tokens:,} tokens ({100 * self.fill_tokens / self.budget:.1f} % of the budget) are fill: "
                "from kept clusters first, then from the others, the highest mean benefit first"
            )
        if self.kind == "bandit" and self.indistinct:
            text += (
                "; the clusters' measured benefits differ by no more than noise, so which of them gives means little"
            )
        return text

    @property
    def indistinct(self) -> bool:
        """Whether nothing that was measured tells the clusters apart: then all are believed to be worth the same."""
        scored = sum(cluster.scored > 0 for cluster in self.clusters)
        return scored > 1 and self.between == 0.0 and self.prior == "all clusters"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: Any) -> Outcome:
        """Raises VerificationError where `value` is not what `to_json` gives."""
        return outcome_from_json(_OUTCOME, value, "Quad")


_OUTCOME = TypeAdapter(Outcome)


def filled(
    room: NDArray[np.int64], kept: NDArray[np.bool_], mean: NDArray[np.float64], missing: int
) -> NDArray[np.int64]:
    """(K,) tokens that make up `missing`, at most `room` (K,) of each cluster: kept ones first, the highest mean first.

    Clusters of equal rank share in proportion to their room, so that no name decides.
    """
    order = np.lexsort((-mean, ~kept))
    new = (np.diff(mean[order]) != 0) | (np.diff(kept[order].astype(np.int8)) != 0)
    tokens = np.zeros(room.size, dtype=np.int64)
    for equal in np.split(order, np.flatnonzero(new) + 1):
        given = min(missing, int(room[equal].sum()))
        if given:
            tokens[equal] = np.minimum(whole_shares(room[equal].astype(np.float64), given), room[equal])
            # rounding may have asked a cluster for more than it has
            for arm in equal.tolist():
                tokens[arm] += min(int(room[arm] - tokens[arm]), given - int(tokens[equal].sum()))
        missing -= given
        if not missing:
            break
    return tokens
