"""One chat completion from an OpenAI-compatible endpoint, however often that has to be tried.

Tried again: 429, 408, 409, 5xx, and connections that break or are too slow; after the server's Retry-After, else after
1 s, 2 s, 4 s, … with a little taken off, by the question and not by chance, so that parallel requests come apart. Not
tried again: a refused key, a wrong address, a request that the server cannot take. Redirects are not followed: they
would carry the key to another host.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from quadmix.config_labels import EndpointConfig
from quadmix.credentials import hide_credentials
from quadmix.errors import ConfigError, ResourceError
from quadmix.hashing import fingerprint

LONGEST_WAIT = 60.0  # seconds, of our own waits
LONGEST_ASKED = 600.0  # seconds that a Retry-After may ask for before the run rather stops
_MOST_BYTES = 4 << 20  # of an answer
_QUOTED = 300  # characters of the server's own words
_AGAIN = (408, 409, 425, 429)
_CANNOT_TAKE = (400, 413, 422)


class Stopped(Exception):
    """The run ends: what was waiting to be asked again is not."""


class Refused(Exception):
    """The server will not take this one request (too long, against its rules); another one may pass."""


@dataclass(frozen=True)
class Completion:
    """content: None where the model gave none. Tokens as the server counts them, None where it does not."""

    content: str | None
    input_tokens: int | None
    output_tokens: int | None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """The server, safe to use from many threads. key: None where none is sent; never part of a message or of `repr`."""

    config: EndpointConfig
    stop: threading.Event
    key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, config: EndpointConfig, stop: threading.Event) -> Endpoint:
        """Raises ConfigError when the environment variable that should hold the key does not."""
        if config.api_key_env is None:
            return cls(config, stop)
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:
            raise ConfigError(
                f"labels.endpoint.api_key_env: the environment variable {config.api_key_env} is not set; set it to the "
                "endpoint's key, or give `api_key_env: null` for a server that wants none"
            )
        if not (key.isascii() and key.isprintable()):  # http.client would refuse it, and show it
            raise ConfigError(
                f"labels.endpoint.api_key_env: what {config.api_key_env} holds is no key: wanted one line of ASCII"
            )
        return cls(config, stop, key)

    @property
    def identity(self) -> str:
        """What an answer depends on: model and parameters, not where the server is."""
        return fingerprint(json.dumps(self._body([]), sort_keys=True))

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        """Raises ConfigError (key, address, model), Refused, Stopped; ResourceError when the retries are used up."""
        body = json.dumps(self._body(messages)).encode()
        salt = int(fingerprint(body.decode())[:8], 16) / 2**32
        for attempt in range(self.config.retries + 1):
            if self.stop.is_set():
                raise Stopped
            trouble, asked_wait = "", None
            try:
                return self._send(body)
            except urllib.error.HTTPError as error:
                trouble, asked_wait = self._judge(error), _retry_after(error)
            except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
                trouble = f"{getattr(error, 'reason', None) or error}" or type(error).__name__
            if attempt < self.config.retries:
                self._wait(min(LONGEST_WAIT, 2.0**attempt) * (1 - salt / 2) if asked_wait is None else asked_wait)
        raise ResourceError(
            f"labels: {self._where} gave no answer in {self.config.retries + 1} attempts, at last: "
            f"{self._safe(trouble)}"
        )

    def _body(self, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        plain = {"model": self.config.model, "temperature": 0, "max_tokens": self.config.answer_tokens}
        given = {**plain, **self.config.parameters, "messages": list(messages)}
        return {name: value for name, value in given.items() if value is not None}

    def _send(self, body: bytes) -> Completion:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "quadmix"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(self._where, data=body, headers=headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        with opener.open(request, timeout=self.config.timeout_seconds) as response:
            raw = response.read(_MOST_BYTES + 1)
        return _completion(raw)

    def _judge(self, error: urllib.error.HTTPError) -> str:
        """What was wrong, where asking again may help; raises where it cannot."""
        with error:
            said = self._safe(_words(error))
        text = f"{error.code} {error.reason}{f': {said}' if said else ''}"
        if error.code in _AGAIN or error.code >= 500:
            return text
        if error.code in _CANNOT_TAKE:
            raise Refused(text)
        if error.code in (401, 403):
            whence = self.config.api_key_env
            wrong = "it wants a key: name its variable in" if whence is None else f"check the key in {whence}, named by"
            raise ConfigError(f"labels.endpoint: {self._where} answers {text}; {wrong} labels.endpoint.api_key_env")
        if error.code == 402:
            raise ConfigError(f"labels.endpoint: {self._where} answers {text}; the account has no credit")
        raise ConfigError(
            f"labels.endpoint: {self._where} answers {text}; check labels.endpoint.url (the base, such as "
            f"https://api.example.com/v1) and model ({self.config.model!r})"
        )

    def _wait(self, seconds: float) -> None:
        if seconds > LONGEST_ASKED:
            raise ResourceError(
                f"labels: {self._where} asks to come back in {seconds:,.0f} s (Retry-After); do so: what was answered "
                "is kept"
            )
        if self.stop.wait(seconds):
            raise Stopped

    @property
    def _where(self) -> str:
        return f"{self.config.url.rstrip('/')}/chat/completions"

    def _safe(self, text: str) -> str:
        """Servers quote keys in their errors."""
        return hide_credentials(text.replace(self.key, "***") if self.key else text)


def _words(error: urllib.error.HTTPError) -> str:
    """What the server says itself, on one line."""
    try:
        raw = error.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException):
        return ""
    text = raw.decode("utf-8", "replace")
    try:
        told = json.loads(text)["error"]
        text = told["message"] if isinstance(told, dict) else str(told)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return " ".join(str(text).split())[:_QUOTED]


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds; a date counts from the server's own clock."""
    given = error.headers.get("Retry-After")
    if given is None:
        return None
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        until, now = (parsedate_to_datetime(text) for text in (given, error.headers["Date"]))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _completion(raw: bytes) -> Completion:
    """Raises OSError for what is no chat completion: a proxy's page, an answer cut short."""
    try:
        found = json.loads(raw)
        content = found["choices"][0]["message"].get("content")
        usage = found.get("usage") or {}
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        shown = raw[:_QUOTED].decode("utf-8", "replace")
        raise OSError(f"not a chat completion: {shown!r}") from error
    counts = [count if isinstance(count, int) and 0 <= count < 2**53 else None for count in tokens]
    return Completion(content if isinstance(content, str) else None, counts[0], counts[1])
