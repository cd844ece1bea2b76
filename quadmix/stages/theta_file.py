"""A theta in a file of its own: what `search tell` proposes and `select` publishes (`select.theta_file`).

JSON with `theta` (merge weights by domain and criterion, the sampling function by domain) and `provenance`: in words,
where it comes from and whether anything confirmed it. The manifest repeats those words.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from quadmix.config import Theta
from quadmix.errors import ConfigError


class ThetaFile(BaseModel):
    """The content of such a file; what else it holds (predictions, say) is for readers."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    theta: Theta
    provenance: str


def read_theta(path: Path) -> ThetaFile:
    """Raises ConfigError for a file that is not there or says something else."""
    try:
        return ThetaFile.model_validate(json.loads(path.read_bytes()))
    except OSError as error:
        raise ConfigError(
            f"select.theta_file: {path}: {error.strerror}; `quadmix search tell` writes it as proposal.json"
        ) from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]]
        raise ConfigError([f"select.theta_file: {path}: {line}" for line in lines]) from error
    except ValueError as error:
        raise ConfigError(f"select.theta_file: {path}: not JSON: {error}") from error
