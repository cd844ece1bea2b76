"""Every way this project can refuse, each with the exit code that the command line returns.

A message says what, found, wanted, where, and what to do next. `exit_code` follows the architecture:
2 bad config, 3 bad input beyond its threshold, 4 locked, 5 resource, 130 interrupted.
"""

from __future__ import annotations


class QuadmixError(Exception):
    """Base of all errors raised on purpose; anything else that escapes is a bug of ours."""

    exit_code = 1


class ConfigError(QuadmixError):
    """The configuration cannot be run. `problems` holds one line per problem, all of them found at once."""

    exit_code = 2

    def __init__(self, problems: str | list[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class BudgetError(ConfigError):
    """The token budget cannot be met; carries the numbers that show why."""


class EnvironmentFault(ConfigError):
    """Something this machine must have is missing or of the wrong version (Java, a package)."""


class InputError(QuadmixError):
    """Input files or rows are bad beyond the configured threshold."""

    exit_code = 3


class VerificationError(QuadmixError):
    """Published bytes, rows or sums do not match what the manifest declares."""

    exit_code = 3


class LockedError(QuadmixError):
    """Another run holds the output."""

    exit_code = 4


class ResourceError(QuadmixError):
    """Disk, memory, permission or a lost worker stopped the run."""

    exit_code = 5
