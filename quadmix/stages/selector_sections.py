"""What the report shows of the selector that was used, beyond domains and budget."""

from __future__ import annotations

from quadmix.config import RunConfig
from quadmix.manifest.model import Manifest
from quadmix.stages.odis.fit_file import fit_behind
from quadmix.stages.odis.sections import odis_sections
from quadmix.stages.page import Section
from quadmix.stages.quad.outcome_file import quad_outcome
from quadmix.stages.quad.sections import quad_sections


def selector_sections(config: RunConfig, manifest: Manifest) -> list[Section]:
    """Quad's clusters and rounds, ODiS's components, nothing for mixtures."""
    outcome = quad_outcome(config, manifest)
    if outcome is not None:
        return quad_sections(outcome)
    fit = fit_behind(config, manifest)
    return [] if fit is None else odis_sections(*fit, manifest)
