"""What the report says of Quad: the clusters and what is known of them, and how the budget filled up."""

from __future__ import annotations

from quadmix.selectors.quad_outcome import ClusterOutcome, Outcome
from quadmix.stages import quad_figures
from quadmix.stages.page import Section, Table

_LISTED = 40  # clusters in the table; the picture has all


def quad_sections(outcome: Outcome) -> list[Section]:
    """The bandit's two pictures, and the clusters that give most."""
    taken = sorted(outcome.clusters, key=lambda one: (-(one.granted + one.fill), -(one.mean or 0.0), one.name))
    scored = (
        f"{outcome.scored:,} of {sum(one.documents for one in outcome.clusters):,} documents were scored "
        f"({outcome.scored_fraction:.2%}); a dot's area is the pulls of its cluster, bars are one standard error. "
        "A benefit is how much a small training step on a document lowers the reference's loss."
    )
    listed = tuple(_row(one) for one in taken[:_LISTED])
    hidden = len(taken) - len(listed)
    rest = (
        f" The table has the {_LISTED} clusters that give most; {hidden:,} more are in the outcome." if hidden else ""
    )
    header = (
        "cluster", "documents", "scored", "pulls", "mean benefit", "less its error", "", "granted", "fill", "of tokens",
    )  # fmt: skip
    ended = outcome.why
    return [
        Section(
            "clusters", "Quad: what clusters are worth", scored + rest, quad_figures.clusters(outcome),
            (Table(header, listed),),
        ),
        Section(
            "rounds", "Quad: the budget filling up", f"{ended[0].upper()}{ended[1:]}.", quad_figures.budget(outcome)
        ),
    ]  # fmt: skip


def _row(one: ClusterOutcome) -> tuple[str, ...]:
    return (
        one.name, f"{one.documents:,}", f"{one.scored:,}", f"{one.pulls:,}", _benefit(one.mean), _benefit(one.bound),
        "kept" if one.kept else "–", f"{one.granted:,}", f"{one.fill:,}", f"{one.tokens:,}",
    )  # fmt: skip


def _benefit(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}".replace("-", "−")
