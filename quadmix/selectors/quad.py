"""Quad's bandit on clusters (arXiv 2409.16986; algorithms.md, section 3): which cluster is scored next, which is kept.

`ask` names documents to score, `tell` takes their benefits; nothing else goes in, so the same tells give the same
asks, bit for bit, and a journal of what was told replays to the same state. A **pull** of arm i scores its next m
documents in hash order, without replacement. The first round (the pilot) pulls every arm once; then each round pulls
the k arms that maximise

    CS_i = mean_i + alpha * sqrt(2 ln(sum T) / T_i),   alpha = c * noise / sqrt(m),

mean_i shrunk (`quad_shrinkage`), T_i = pulls, counted when they are chosen: so a round of k pulls is the same as k
single ones whose results come late, and an arm may be pulled more than once in a round. At the end of a round each
pulled arm with mean_i - error_i above the threshold is **kept**: it is granted a share (5 %) of its remaining tokens.
The pilot measures alone; what it says of an arm has to come true in a second pull before tokens are granted.

An arm of which nothing is left to score but which stays above the threshold may be chosen like any other. It costs
nothing and its share is granted on the spot. Otherwise a store that holds few documents of each cluster would cap what
the best ones can give.

Pulled documents say how good a cluster is; the granted tokens are taken from it in hash order by the plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadmix.core.moments import Moments
from quadmix.core.portable import log
from quadmix.errors import BudgetError, InputError, VerificationError
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import (
    ClusterOutcome,
    Outcome,
    PullOutcome,
    RoundOutcome,
    StopReason,
    filled,
)
from quadmix.selectors.quad_shrinkage import Beliefs, believe

_LARGEST = 1e100  # a benefit beyond it comes from a model that diverged


@dataclass(frozen=True)
class BanditSettings:
    """budget: tokens; max_scored: documents that may be scored; docs_per_pull: m; arms_per_round: k, pulls a round;
    grant_share: gamma, of an arm's remaining tokens; exploration: c, 0 is greedy; threshold_quantile: the part of the
    pilot's tokens that lies in clusters below the threshold, a cluster across that part's end above it (0: the
    threshold is 0; None: so that those above it hold about twice the budget); it is never negative."""

    budget: int
    max_scored: int
    docs_per_pull: int = 16
    arms_per_round: int = 8
    grant_share: float = 0.05
    exploration: float = 1.0
    threshold_quantile: float | None = None

    def __post_init__(self) -> None:
        fine = {
            "budget": self.budget >= 1,
            "max_scored": self.max_scored >= 1,
            "docs_per_pull": self.docs_per_pull >= 1,
            "arms_per_round": self.arms_per_round >= 1,
            "grant_share": 0.0 < self.grant_share <= 1.0,
            "exploration": 0.0 <= self.exploration < math.inf,
            "threshold_quantile": self.threshold_quantile is None or 0.0 <= self.threshold_quantile < 1.0,
        }
        for name, holds in fine.items():
            if not holds:
                raise ValueError(f"{name}: found {getattr(self, name)}")


@dataclass(frozen=True)
class Pull:
    """Documents first..first + count - 1 of a cluster's hash order; cluster: its value in the annotations' column."""

    arm: int
    cluster: int
    first: int
    count: int


@dataclass(frozen=True)
class Round:
    """What to score next. A cluster may be there more than once, its ranges then follow one another."""

    number: int
    pulls: tuple[Pull, ...]

    @property
    def documents(self) -> int:
        return sum(pull.count for pull in self.pulls)

    @property
    def key(self) -> str:
        """Of this round's entry in a journal."""
        return f"round-{self.number:06d}"


class Bandit:
    """Ask/tell. Build, then `while (round := bandit.ask()) is not None: bandit.tell(round.number, benefits)`."""

    def __init__(self, arms: Arms, settings: BanditSettings) -> None:
        """Raises BudgetError where the clusters hold less than the budget, InputError where nothing can be scored."""
        total = int(arms.tokens.sum())
        if settings.budget > total:
            raise BudgetError(
                f"mixture.budget: asked {settings.budget:,} tokens, the {len(arms)} clusters hold {total:,} and each "
                "document is taken once. Lower the budget"
            )
        if not arms.pullable.any():
            raise InputError(f"quad: none of the {len(arms)} clusters has a document that can be scored")
        self.arms, self.settings = arms, settings
        size = len(arms)
        self._seen = [Moments(0, 0.0, 0.0)] * size
        self._next = np.zeros(size, dtype=np.int64)  # documents chosen for scoring
        self._chosen = np.zeros(size, dtype=np.int64)  # T
        self._pulls = np.zeros(size, dtype=np.int64)  # of which the results are in
        self._granted = np.zeros(size, dtype=np.int64)
        self._logs = np.zeros(0)  # ln 1, ln 2, ...
        self._rounds: list[RoundOutcome] = []
        self._open: Round | None = None
        self._stop: StopReason | None = None
        # known after the pilot
        self._beliefs: Beliefs | None = None
        self._alpha = self._threshold = 0.0

    # ------------------------------------------------------------------------------------------- ask and tell

    def ask(self) -> Round | None:
        """The documents to score next, the same ones until they are told; None at the end."""
        if self._open is None and self._stop is None:
            pulls = self._next_pulls() if self._beliefs is not None else self._pilot()
            if pulls:
                self._open = Round(len(self._rounds), tuple(pulls))
        return self._open

    def tell(self, number: int, benefits: NDArray[np.float64]) -> dict[str, Any]:
        """Take the benefits of a round, one a document, pull after pull; gives the round's journal entry.

        Raises InputError naming the cluster where a benefit is not a number; the round then stays open.
        """
        asked = self._asked(number)
        if benefits.shape != (asked.documents,):
            raise ValueError(f"round {number}: found benefits of shape {benefits.shape}, wanted ({asked.documents},)")
        results, start = [], 0
        for pull in asked.pulls:
            part = benefits[start : start + pull.count].astype(np.float64)
            start += pull.count
            fine = np.abs(part) < _LARGEST
            if not fine.all():
                place = int(np.flatnonzero(~fine)[0])
                raise InputError(
                    f"quad: benefit {part[place]} of document {pull.first + place} (in hash order) of cluster "
                    f"{self.arms.names[pull.arm]!r}, round {number}; wanted a finite number. The proxy or its "
                    "curvature diverged: lower the learning rate or raise the damping"
                )
            results.append(Moments.of(part))
        self._take(asked, results)
        return entry_of(self._rounds[-1])

    @classmethod
    def replay(cls, arms: Arms, settings: BanditSettings, entries: Mapping[str, Mapping[str, Any]]) -> Bandit:
        """The state after all rounds of a journal up to the first that is missing. entries: by `Round.key`.

        Raises VerificationError where the journal was written for other arms or settings.
        """
        bandit = cls(arms, settings)
        while (asked := bandit.ask()) is not None and asked.key in entries:
            entry = entries[asked.key]
            try:
                pulled = [(str(name), int(first), int(n)) for name, first, n, _, _ in entry["pulls"]]
                results = [Moments(int(n), float(mean), float(m2)) for _, _, n, mean, m2 in entry["pulls"]]
            except (KeyError, TypeError, ValueError) as error:
                raise VerificationError(f"quad: journal entry {asked.key} cannot be read ({error!r})") from error
            wanted = [(arms.names[pull.arm], pull.first, pull.count) for pull in asked.pulls]
            if pulled != wanted:
                differing = next((pair for pair in zip(pulled, wanted, strict=False) if pair[0] != pair[1]), None)
                raise VerificationError(
                    f"quad: journal entry {asked.key} has {len(pulled)} pulls, these arms and settings ask for "
                    f"{len(wanted)}; first difference (found, wanted): {differing}. The journal belongs to other "
                    "clusters or settings: choose another output or remove it"
                )
            bandit._take(asked, results)
        return bandit

    @property
    def scored(self) -> int:
        """Documents whose benefits are in."""
        return sum(moments.n for moments in self._seen)

    @property
    def granted_tokens(self) -> int:
        return int(self._granted.sum())

    # ------------------------------------------------------------------------------------------- choosing

    def _pilot(self) -> list[Pull]:
        """Every arm once. Where that is more than may be scored, half of what may be: fewer documents an arm; where
        even one each is too many, one each of the arms that cover the rest best."""
        arms, limit = self.arms, self.settings.max_scored
        counts = np.minimum(arms.pullable, self.settings.docs_per_pull)
        order = np.arange(len(arms))
        if counts.sum() > limit:
            limit = max(limit // 2, 1)
            counts = np.minimum(counts, max(limit // int((counts > 0).sum()), 1))
            order = arms.covering_order() if counts.sum() > limit else order
        pulls = []
        for arm in order[counts[order] > 0].tolist():
            count = min(int(counts[arm]), limit)
            if count:
                pulls.append(self._pull(arm, count))
                limit -= count
        return pulls

    def _next_pulls(self) -> list[Pull]:
        pulls: list[Pull] = []
        while len(pulls) < self.settings.arms_per_round and self._stop is None:
            arm, reason = self._best(self.settings.max_scored - int(self._next.sum()), pulls)
            if reason is not None:
                if not pulls:
                    self._stop = reason
                break
            left = int(self.arms.pullable[arm] - self._next[arm])
            if left:
                allowed = self.settings.max_scored - int(self._next.sum())
                pulls.append(self._pull(arm, min(self.settings.docs_per_pull, left, allowed)))
            else:
                self._chosen[arm] += 1
                self._grant(arm)
        # a budget that was met on the way leaves nothing to score for
        return pulls if self._stop is None else []

    def _best(self, allowed: int, pulls: list[Pull]) -> tuple[int, StopReason | None]:
        """The arm to choose next, or why there is none."""
        assert self._beliefs is not None
        left = self.arms.pullable > self._next
        waiting = np.zeros(len(self.arms), dtype=bool)
        waiting[[pull.arm for pull in pulls]] = True
        live = (self._granted < self.arms.tokens) & (left | (~waiting & (self._beliefs.bound > self._threshold)))
        if not live.any():
            return -1, StopReason.ARMS_EXHAUSTED
        upper = np.where(live, self._upper(), -np.inf)
        arm = int(upper.argmax())
        if upper[arm] < self._threshold:
            return -1, StopReason.BELOW_THRESHOLD
        if left[arm] and not allowed:
            return -1, StopReason.SCORING_LIMIT
        return arm, None

    def _upper(self) -> NDArray[np.float64]:
        """(K,) CS; what neighbours say of an arm that was never pulled stands for one pull."""
        assert self._beliefs is not None
        total = int(self._chosen.sum())
        if total > self._logs.size:
            self._logs = log(np.arange(1.0, 2.0 * total + 1.0))
        spread = 2.0 * float(self._logs[total - 1]) / np.maximum(self._chosen, 1)
        return self._beliefs.mean + self._alpha * np.sqrt(spread)

    def _pull(self, arm: int, count: int) -> Pull:
        pull = Pull(arm, int(self.arms.codes[arm]), int(self._next[arm]), count)
        self._next[arm] += count
        self._chosen[arm] += 1
        return pull

    # ------------------------------------------------------------------------------------------- taking results

    def _asked(self, number: int) -> Round:
        if self._open is None or self._open.number != number:
            found = "no round" if self._open is None else f"round {self._open.number}"
            raise ValueError(f"told round {number}, {found} is open")
        return self._open

    def _take(self, asked: Round, results: list[Moments]) -> None:
        names = self.arms.names
        log_entry = tuple(
            PullOutcome(names[pull.arm], pull.first, found.n, found.mean, found.m2)
            for pull, found in zip(asked.pulls, results, strict=True)
        )
        for pull, found in zip(asked.pulls, results, strict=True):
            self._seen[pull.arm] = self._seen[pull.arm].merge(found)
            self._pulls[pull.arm] += 1
        pilot = self._beliefs is None
        self._open, self._beliefs = None, self._believe()
        self._rounds.append(RoundOutcome(asked.number, log_entry, {}, self.granted_tokens))
        if pilot:
            self._alpha = self.settings.exploration * self._beliefs.noise / math.sqrt(self.settings.docs_per_pull)
            self._threshold = self._threshold_of(self._beliefs)
            return
        for pull in asked.pulls:
            if self._beliefs.bound[pull.arm] > self._threshold:
                self._grant(pull.arm)

    def _believe(self) -> Beliefs:
        n = np.array([moments.n for moments in self._seen], dtype=np.int64)
        mean, m2 = (np.array([getattr(moments, name) for moments in self._seen]) for name in ("mean", "m2"))
        return believe(n, mean, m2, self.arms.documents, self.arms.neighbours)

    def _threshold_of(self, beliefs: Beliefs) -> float:
        """The mean of the pilot's cluster up to which that quantile of the pilot's tokens lies, 0 at least.

        A cluster of which only a part lies below the quantile may still be worth granting: then it is halfway from its
        mean to the next lower one. At its own mean it would have to beat its first pull, lucky or not.
        """
        quantile = self.settings.threshold_quantile
        if quantile is None:
            quantile = max(1.0 - 2.0 * (self.settings.budget / int(self.arms.tokens.sum())), 0.0)
        if quantile == 0.0:
            return 0.0
        arms = np.flatnonzero(self._pulls)
        arms = arms[np.argsort(beliefs.mean[arms], kind="stable")]
        tokens = np.cumsum(self.arms.tokens[arms])
        cut = quantile * float(tokens[-1])
        place = int(np.searchsorted(tokens, cut))
        mean = float(beliefs.mean[arms[place]])
        if tokens[place] > cut:
            lower = beliefs.mean[arms][beliefs.mean[arms] < mean]
            mean = 0.5 * (mean + float(lower.max())) if lower.size else 0.0
        return max(mean, 0.0)

    def _grant(self, arm: int) -> None:
        """Grant an arm its share; the last grant is what is missing to the budget."""
        missing = self.settings.budget - self.granted_tokens
        left = int(self.arms.tokens[arm] - self._granted[arm])
        tokens = min(math.ceil(self.settings.grant_share * left), left, missing)
        if not tokens:
            return
        self._granted[arm] += tokens
        last, name = self._rounds[-1], self.arms.names[arm]
        granted = {**last.granted, name: last.granted.get(name, 0) + tokens}
        self._rounds[-1] = RoundOutcome(last.number, last.pulls, granted, self.granted_tokens)
        if tokens == missing:
            self._stop = StopReason.BUDGET_MET

    # ------------------------------------------------------------------------------------------- the end

    def outcome(self) -> Outcome:
        """Grants, fill and what they rest on, after `ask` gave None."""
        if self._stop is None:
            raise ValueError("the bandit has not ended: ask and tell until ask gives None")
        assert self._beliefs is not None
        arms, beliefs = self.arms, self._beliefs
        kept = (self._pulls > 0) & (beliefs.bound > self._threshold)
        fill = filled(arms.tokens - self._granted, kept, beliefs.mean, self.settings.budget - self.granted_tokens)
        clusters = []
        for arm, (name, seen) in enumerate(zip(arms.names, self._seen, strict=True)):
            scored = seen.n > 0
            clusters.append(
                ClusterOutcome(
                    name=name,
                    code=int(arms.codes[arm]),
                    documents=int(arms.documents[arm]),
                    tokens=int(arms.tokens[arm]),
                    pulls=int(self._pulls[arm]),
                    scored=seen.n,
                    raw_mean=seen.mean if scored else None,
                    mean=float(beliefs.mean[arm]),
                    error=float(beliefs.error[arm]) if scored else None,
                    bound=float(beliefs.bound[arm]) if scored else None,
                    kept=bool(kept[arm]),
                    granted=int(self._granted[arm]),
                    fill=int(fill[arm]),
                )
            )
        return Outcome(
            kind="bandit",
            budget=self.settings.budget,
            stop=self._stop,
            clusters=tuple(clusters),
            rounds=tuple(self._rounds),
            threshold=self._threshold,
            noise=beliefs.noise,
            between=beliefs.between,
            exploration=self._alpha,
            prior=beliefs.prior,
        )


def entry_of(done: RoundOutcome) -> dict[str, Any]:
    """A round as the journal keeps it: cluster, first document, documents, mean, squared deviations of every pull."""
    return {"pulls": [[pull.cluster, pull.first, pull.n, pull.mean, pull.m2] for pull in done.pulls]}
