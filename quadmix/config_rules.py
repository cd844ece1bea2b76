"""Settings of the selectors that order documents by annotated columns, and of their unions (docs/selectors.md).

A selector's settings stand in the section of its name, beside `criterion`: the score that it goes by.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from quadmix.config_values import Name, Section

BY_CRITERION = ("topk", "threshold", "gumbel", "density", "cluster_quality")
RULES = ("random", *BY_CRITERION, "criteria_mix")
Temperature = Annotated[float, Field(gt=0.0, le=1e6)]


class ThresholdConfig(Section):
    """What passes: scores from `least_score` on, or from the pool's token-weighted quantile `least_quantile` on."""

    least_score: float | None = None
    least_quantile: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None

    @model_validator(mode="after")
    def _one(self) -> ThresholdConfig:
        if (self.least_score is None) == (self.least_quantile is None):
            raise ValueError("give either `least_score` or `least_quantile`, not both or neither")
        return self


class GumbelConfig(Section):
    """temperature: in units of the score. Small: as top-k; large: as random."""

    temperature: Temperature = 1.0


class CriteriaMixConfig(Section):
    """criteria: scores whose best documents are united; shares: how deep each reaches beside the others, `equal` or a
    weight each."""

    criteria: tuple[Name, ...] = Field(min_length=2)
    shares: Literal["equal"] | tuple[Annotated[float, Field(gt=0.0, le=1e6)], ...] = "equal"

    @model_validator(mode="after")
    def _one_share_each(self) -> CriteriaMixConfig:
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"found a criterion twice in {list(self.criteria)}, wanted each once")
        if not isinstance(self.shares, str) and len(self.shares) != len(self.criteria):
            text = f"found {len(self.shares)} shares for {len(self.criteria)} criteria, wanted one each"
            raise ValueError(f"{text}, or `shares: equal`")
        return self


class DensityConfig(Section):
    """measures: what the criterion says of a document. exponent: it is kept with a probability in proportion to
    density ** -exponent."""

    measures: Literal["density", "log_density", "minus_log_density"] = "density"
    exponent: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0


class ClusterQualityConfig(Section):
    """temperature: in units of the score, of the draws within a cluster."""

    temperature: Temperature = 1.0


class RuleSettings(Section):
    """The criterion and the settings of one selector; a section that its selector does not read is refused."""

    criterion: Name | None = None
    threshold: ThresholdConfig | None = None
    gumbel: GumbelConfig | None = None
    criteria_mix: CriteriaMixConfig | None = None
    density: DensityConfig | None = None
    cluster_quality: ClusterQualityConfig | None = None

    def check_settings(self, selector: str) -> None:
        """Raises ValueError for what is missing, or would do nothing."""
        for name in ("threshold", "gumbel", "criteria_mix", "density", "cluster_quality"):
            if getattr(self, name) is not None and name != selector:
                raise ValueError(f"found a section `{name}` beside `selector: {selector}`, which does not read it")
        for name in ("threshold", "criteria_mix"):
            if selector == name and getattr(self, name) is None:
                raise ValueError(f"`selector: {selector}` needs the section `{name}`")
        if selector in BY_CRITERION and self.criterion is None:
            raise ValueError(f"`selector: {selector}` needs `criterion`, the score that it goes by")
        if self.criterion is not None and selector not in (*BY_CRITERION, "mixture"):
            raise ValueError(f"found `criterion` beside `selector: {selector}`, which does not read it")

    def scores_of(self, selector: str) -> tuple[str, ...]:
        """The annotated scores that a selector goes by."""
        if selector == "criteria_mix":
            assert self.criteria_mix is not None  # see `check_settings`
            return self.criteria_mix.criteria
        return (self.criterion,) if self.criterion is not None and selector in BY_CRITERION else ()


class MemberConfig(RuleSettings):
    """One selector of a union and its share of the tokens, a weight among those of the members. `odis` and `quad` read
    their own sections of the run."""

    share: Annotated[float, Field(gt=0.0, le=1e6)]
    selector: Literal[
        "random", "topk", "threshold", "gumbel", "criteria_mix", "density", "cluster_quality", "odis", "quad"
    ]

    @model_validator(mode="after")
    def _settings(self) -> MemberConfig:
        self.check_settings(self.selector)
        return self
