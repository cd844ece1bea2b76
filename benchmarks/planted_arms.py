"""Clusters whose true benefits are known, and the bandit's rules once more as a plain loop over single pulls."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np

from quadmix.core.budget import whole_shares
from quadmix.core.moments import Moments
from quadmix.selectors.quad import Bandit, BanditSettings
from quadmix.selectors.quad_arms import Arms
from quadmix.selectors.quad_outcome import Outcome
from quadmix.selectors.quad_shrinkage import Beliefs, believe

Shape = Literal["one good", "spread", "smooth", "heavy tails", "all positive", "equal", "all bad", "tiny"]


@dataclass(frozen=True)
class Planted:
    """benefits: one (documents,) array per arm in hash order; true: (K,) their means."""

    arms: Arms
    benefits: list[np.ndarray]

    @property
    def true(self) -> np.ndarray:
        return np.array([values.mean() for values in self.benefits])

    def settings(self, share: float = 0.1, scored: float = 0.3, **other: object) -> BanditSettings:
        """A budget of that share of the tokens, that share of the documents scored at most."""
        budget, limit = int(self.arms.tokens.sum() * share), int(self.arms.documents.sum() * scored)
        return BanditSettings(**{"budget": budget, "max_scored": limit, "docs_per_pull": 8, **other})  # type: ignore[arg-type]

    def told(self, bandit: Bandit) -> Bandit:
        """Ask and tell to the end."""
        while (asked := bandit.ask()) is not None:
            bandit.tell(asked.number, self.answers(asked))
        return bandit

    def answers(self, asked: object) -> np.ndarray:
        pulls = asked.pulls  # type: ignore[attr-defined]
        return np.concatenate([self.benefits[pull.arm][pull.first : pull.first + pull.count] for pull in pulls])

    def regret(self, quotas: np.ndarray) -> float:
        """True mean benefit per token lost against the best possible quotas of as many tokens."""
        left, best = int(quotas.sum()), 0.0
        for arm in np.argsort(-self.true):
            tokens = min(left, int(self.arms.tokens[arm]))
            best += tokens * float(self.true[arm])
            left -= tokens
        return (best - float((quotas * self.true).sum())) / float(quotas.sum())


def quotas(outcome: Outcome) -> np.ndarray:
    return np.array([cluster.granted + cluster.fill for cluster in outcome.clusters])


def plant(shape: Shape, seed: int, size: int = 30, centroids: bool = True) -> Planted:
    rng = np.random.default_rng([seed, size])
    documents = rng.integers(1, 12, size) if shape == "tiny" else rng.integers(60, 200, size)
    points = rng.normal(size=(size, 4))
    mean = {
        "one good": np.where(np.arange(size) == rng.integers(size), 1.0, -0.2),
        "smooth": 0.5 * points[:, 0] + 0.1 * rng.normal(size=size) + 0.2,
        "all positive": 3.0 + 0.3 * rng.normal(size=size),
        "equal": np.full(size, 0.3),
        "all bad": -0.2 - np.abs(rng.normal(size=size)),
    }.get(shape, 0.5 * rng.normal(size=size))
    noise = (lambda n: 0.6 * rng.standard_t(2.5, n)) if shape == "heavy tails" else rng.normal
    benefits = [
        m + (noise(n) if shape == "heavy tails" else noise(size=n)) for m, n in zip(mean, documents, strict=True)
    ]
    tokens = np.array([int(rng.integers(50, 500, n).sum()) for n in documents])
    codes = rng.permutation(size).astype(np.int32)
    names = [f"cluster_{index:03d}" for index in range(size)]
    return Planted(Arms.of(names, codes, documents, tokens, documents, points if centroids else None), benefits)


@dataclass
class OneByOne:
    """The rules of algorithms.md, section 3, pull by pull: each pull is chosen alone, its result comes `delay` pulls
    late. prefer: which arm of the eligible ones; by default the largest CS."""

    planted: Planted
    settings: BanditSettings
    delay: int
    prefer: Callable[[OneByOne, list[int]], int] | None = None
    seen: list[Moments] = field(init=False)

    def __post_init__(self) -> None:
        k = len(self.planted.arms)
        self.seen = [Moments(0, 0.0, 0.0)] * k
        self.next, self.times, self.granted = [0] * k, [0] * k, [0] * k
        self.late: list[tuple[int, Moments]] = []
        self.pulled: list[tuple[int, int, int]] = []

    def run(self) -> np.ndarray:
        """(K,) quotas."""
        arms, settings = self.planted.arms, self.settings
        assert sum(min(int(n), settings.docs_per_pull) for n in arms.pullable) <= settings.max_scored
        for arm in range(len(arms)):
            self.pull(arm)
        self.deliver(grants=False)
        self.alpha = settings.exploration * self.beliefs.noise / math.sqrt(settings.docs_per_pull)
        self.threshold = self.quantile()
        while sum(self.granted) < settings.budget:
            arm = self.choose()
            if arm is None or (self.left(arm) and self.allowed() == 0):
                if not self.late:
                    break
                self.deliver()
            elif self.left(arm):
                self.pull(arm)
                if len(self.late) == self.delay:
                    self.deliver()
            else:
                self.times[arm] += 1
                self.grant(arm)
        # pulls that were chosen before the budget was met without them are never made
        self.pulled = self.pulled[: len(self.pulled) - len(self.late)]
        return self.filled()

    def left(self, arm: int) -> int:
        return int(self.planted.arms.pullable[arm]) - self.next[arm]

    def allowed(self) -> int:
        return self.settings.max_scored - sum(self.next)

    def pull(self, arm: int) -> None:
        count = min(self.settings.docs_per_pull, self.left(arm), self.allowed())
        first = self.next[arm]
        self.late.append((arm, Moments.of(self.planted.benefits[arm][first : first + count])))
        self.pulled.append((arm, first, count))
        self.next[arm] += count
        self.times[arm] += 1

    def deliver(self, grants: bool = True) -> None:
        arrived, self.late = self.late, []
        for arm, moments in arrived:
            self.seen[arm] = self.seen[arm].merge(moments)
        arms = self.planted.arms
        columns = [np.array([getattr(m, name) for m in self.seen]) for name in ("n", "mean", "m2")]
        self.beliefs: Beliefs = believe(*columns, arms.documents, arms.neighbours)  # type: ignore[arg-type]
        self.mean: list[float] = self.beliefs.mean.tolist()
        self.bound: list[float] = (self.beliefs.mean - self.beliefs.error).tolist()
        self.tokens: list[int] = arms.tokens.tolist()
        for arm, _ in arrived:
            if grants and self.bound[arm] > self.threshold:
                self.grant(arm)

    def quantile(self) -> float:
        share = self.settings.threshold_quantile
        tokens = self.tokens
        if share is None:
            share = 1 - 2 * self.settings.budget / sum(tokens)
        if share <= 0:
            return 0.0
        below = 0
        for arm in sorted(range(len(tokens)), key=self.mean.__getitem__):
            below += tokens[arm]
            if below >= share * sum(tokens):
                break
        if below == share * sum(tokens):
            return max(0.0, self.mean[arm])
        # only a part of the arm lies below: it is judged by a line between it and the next worse
        worse = [mean for mean in self.mean if mean < self.mean[arm]]
        return max(0.0, (self.mean[arm] + max(worse)) / 2) if worse else 0.0

    def upper(self, arm: int) -> float:
        bonus = math.sqrt(2 * math.log(sum(self.times)) / self.times[arm])
        return self.mean[arm] + self.alpha * bonus

    def choose(self) -> int | None:
        waiting = {arm for arm, _ in self.late}
        live = [
            arm
            for arm in range(len(self.seen))
            if self.granted[arm] < self.tokens[arm]
            and (self.left(arm) or (self.bound[arm] > self.threshold and arm not in waiting))
        ]
        if not live:
            return None
        if self.prefer is not None:
            return self.prefer(self, live)
        best = max(live, key=self.upper)
        return best if self.upper(best) >= self.threshold else None

    def grant(self, arm: int) -> None:
        left = self.tokens[arm] - self.granted[arm]
        missing = self.settings.budget - sum(self.granted)
        self.granted[arm] += min(math.ceil(self.settings.grant_share * left), missing)

    def filled(self) -> np.ndarray:
        found = list(self.granted)
        kept = [bound > self.threshold for bound in self.bound]
        order = sorted(range(len(found)), key=lambda arm: (not kept[arm], -self.mean[arm]))
        for _, group in groupby(order, key=lambda arm: (kept[arm], self.mean[arm])):
            equal = list(group)
            free = np.array([self.tokens[arm] - found[arm] for arm in equal])
            asked = min(int(free.sum()), self.settings.budget - sum(found))
            for arm, share in zip(equal, whole_shares(free.astype(float), asked), strict=True):
                found[arm] += int(share)
        return np.array(found)


def round_robin(state: OneByOne, live: list[int]) -> int:
    return min(live, key=lambda arm: (state.times[arm], arm))


def at_random(seed: int) -> Callable[[OneByOne, list[int]], int]:
    rng = np.random.default_rng(seed)
    return lambda state, live: int(rng.choice(live))
