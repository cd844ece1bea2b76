"""What a manifest says of Quad's clusters, and their quotas computed again from it, for `verify` and `explain`.

Written from algorithms.md, section 3, sharing nothing with the code that selects. The benefits are measurements and
are taken as published; whether a cluster is kept, what is filled and every quota follow from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quadmix.manifest.recompute import whole_shares

Cells = Mapping[tuple[str, int], tuple[int, int]]  # (domain, cluster code) -> documents, tokens


class Cluster(BaseModel):
    """One cluster as published."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    name: str
    code: int = Field(ge=0, lt=2**31)
    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    pulls: int = Field(ge=0)
    scored: int = Field(ge=0)
    raw_mean: float | None
    mean: float | None
    error: float | None
    bound: float | None
    kept: bool
    granted: int = Field(ge=0)
    fill: int = Field(ge=0)


class Clusters(BaseModel):
    """The outcome of the bandit, or of a baseline, by name of cluster."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    kind: str
    budget: int = Field(ge=1)
    threshold: float | None
    clusters: list[Cluster] = Field(min_length=1)

    @model_validator(mode="after")
    def _unique(self) -> Clusters:
        names = [cluster.name for cluster in self.clusters]
        if names != sorted(set(names)):
            raise ValueError("clusters are not sorted by name, or one is there twice")
        if len({cluster.code for cluster in self.clusters}) < len(names):
            raise ValueError("two clusters have one code")
        return self

    def quotas(self) -> list[int]:
        """Granted tokens and the fill rule: of each cluster."""
        granted = [cluster.granted for cluster in self.clusters]
        room = [cluster.tokens for cluster in self.clusters]
        return self._fill(granted, room, self.budget)

    def quotas_within(self, domains: Mapping[str, int], cells: Cells) -> dict[tuple[str, int], tuple[int, int]]:
        """(quota, how much of it is fill) of each cluster (by code) in each domain that has some of it. domains: quota
        by name.

        The proportions are those of granted * (tokens of the cell / tokens of the cluster), in float64.
        """
        found = {}
        for domain, quota in domains.items():
            room = [cells.get((domain, cluster.code), (0, 0))[1] for cluster in self.clusters]
            weights = [
                cluster.granted * (tokens / cluster.tokens) if cluster.tokens else 0.0
                for cluster, tokens in zip(self.clusters, room, strict=True)
            ]
            given = [min(share, most) for share, most in zip(whole_shares(weights, quota), room, strict=True)]
            quotas = self._fill(given, room, quota)
            for cluster, tokens, own, most in zip(self.clusters, quotas, given, room, strict=True):
                if most:
                    found[domain, cluster.code] = tokens, tokens - own
        return found

    def problems(self, cells: Cells) -> Iterator[tuple[str, str, Any, Any]]:
        """(cluster, field, published, computed) of everything that does not follow from the rest or the annotations."""
        for cluster, quota in zip(self.clusters, self.quotas(), strict=True):
            mine = [found for (_, code), found in cells.items() if code == cluster.code]
            wanted: dict[str, Any] = {
                "documents": sum(documents for documents, _ in mine),
                "tokens": sum(tokens for _, tokens in mine),
                "fill": quota - cluster.granted,
            }
            if cluster.mean is not None and cluster.error is not None and self.threshold is not None:
                wanted["bound"] = cluster.mean - cluster.error
                wanted["kept"] = wanted["bound"] > self.threshold
            else:
                wanted["bound"], wanted["kept"] = None, False
            for name, own in wanted.items():
                if getattr(cluster, name) != own:
                    yield cluster.name, name, getattr(cluster, name), own

    def _fill(self, given: Sequence[int], room: Sequence[int], quota: int) -> list[int]:
        """`given` and what is missing to the quota: kept clusters first, the highest mean first; those of one rank in
        proportion to their room. Baselines without means: the most granted first."""
        taken = list(given)
        missing = quota - sum(taken)

        def rank(at: int) -> tuple[bool, float]:
            cluster = self.clusters[at]
            return not cluster.kept, -(cluster.granted if cluster.mean is None else cluster.mean)

        for _, members in groupby(sorted(range(len(taken)), key=rank), key=rank):
            equal = list(members)
            free = [room[at] - taken[at] for at in equal]
            asked = min(missing, sum(free))
            missing -= asked
            for at, share, most in zip(equal, whole_shares([float(one) for one in free], asked), free, strict=True):
                taken[at] += min(share, most)
                asked -= min(share, most)
            for at in equal:  # what rounding asked for beyond a cluster's room
                more = min(room[at] - taken[at], asked)
                taken[at] += more
                asked -= more
        return taken
