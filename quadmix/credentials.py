"""What looks like a credential, so that messages and manifests never show one."""

from __future__ import annotations

import re

_HIDDEN = "***"
_USERS = re.compile(r"(?<=://)[^/@\s\"*]+@")
_KEYS = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\b(?:gh[pousr]_|github_pat_|hf_|sk-|xox[abp]-)[A-Za-z0-9_-]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?i:(?<=[?&])(?:sig|signature|token|x-amz-[a-z-]+|x-goog-[a-z-]+)=)[^&\s\"*]+"
)


def find_credential(text: str) -> str | None:
    """The first eight characters of something that looks like a credential, or None."""
    found = _KEYS.search(text) or _USERS.search(text)
    return f"{found.group()[:8]}…" if found else None


def hide_credentials(text: str) -> str:
    """The text with `***` for every key, signature, and user and password of a URI."""
    return _KEYS.sub(_HIDDEN, _USERS.sub(f"{_HIDDEN}@", text))
