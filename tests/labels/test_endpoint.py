"""What is tried again and what is not, against a server that misbehaves on purpose."""

from __future__ import annotations

import threading
from email.utils import formatdate
from typing import Any

import pytest

from quadmix.config_labels import EndpointConfig
from quadmix.errors import ConfigError, ResourceError
from quadmix.labels.endpoint import Endpoint, Refused, Stopped
from tests.labels.stub_server import NOW, Reply, Stub, stub_server

ASK = [{"role": "user", "content": "?"}]
GOOD = Reply('{"score": 3}', usage={"prompt_tokens": 7, "completion_tokens": 2})
KEY = "sk-0123456789abcdefghij"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_KEY", KEY)


class Waits(threading.Event):
    """Notes how long it was to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return self.is_set()


def endpoint(stub: Stub, stop: threading.Event | None = None, **changes: Any) -> Endpoint:
    config = EndpointConfig(url=stub.url, model="small", **{"api_key_env": "LABEL_KEY", **changes})
    return Endpoint.of(config, stop or Waits())


def test_a_request_holds_model_key_and_temperature_and_the_answer_its_tokens() -> None:
    with stub_server(lambda body, n: GOOD) as stub:
        found = endpoint(stub, parameters={"max_tokens": None, "max_completion_tokens": 9, "seed": 1}).ask(ASK)
    headers, body = stub.requests[0]
    assert (found.content, found.input_tokens, found.output_tokens) == ('{"score": 3}', 7, 2)
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "small", "temperature": 0, "max_completion_tokens": 9, "seed": 1, "messages": ASK,
        "path": "/v1/chat/completions",
    }  # fmt: skip


def test_a_server_of_ones_own_gets_no_key() -> None:
    with stub_server(lambda body, n: GOOD) as stub:
        endpoint(stub, api_key_env=None).ask(ASK)
    assert "Authorization" not in stub.requests[0][0]


def test_too_many_requests_wait_as_long_as_the_server_says() -> None:
    date = formatdate(NOW + 90, usegmt=True)
    replies = [Reply("slow down", 429, {"Retry-After": "7"}), Reply("again", 429, {"Retry-After": date}), GOOD]
    waits = Waits()
    with stub_server(lambda body, n: replies[n]) as stub:
        assert endpoint(stub, waits).ask(ASK).content == '{"score": 3}'
    assert len(stub.requests) == 3
    assert waits.seconds == [7, 90]  # a date counts from the server's clock


def test_a_real_wait_is_over_when_the_server_said_so() -> None:
    replies = [Reply("slow down", 429, {"Retry-After": "0.05"}), GOOD]
    with stub_server(lambda body, n: replies[n]) as stub:
        assert endpoint(stub, threading.Event()).ask(ASK).content == '{"score": 3}'


def test_server_errors_are_tried_again_with_waits_that_double() -> None:
    waits = Waits()
    with stub_server(lambda body, n: GOOD if n == 4 else Reply("oops", (500, 502, 503, 504)[n])) as stub:
        assert endpoint(stub, waits).ask(ASK).content == '{"score": 3}'
    first = waits.seconds[0]
    assert 0.5 <= first <= 1.0
    assert waits.seconds == pytest.approx([first, 2 * first, 4 * first, 8 * first])


def test_an_endpoint_that_stays_away_ends_with_what_it_said() -> None:
    with stub_server(lambda body, n: Reply("overloaded", 503)) as stub, pytest.raises(
        ResourceError, match=r"no answer in 3 attempts, at last: 503 .*overloaded"
    ):  # fmt: skip
        endpoint(stub, retries=2).ask(ASK)
    assert len(stub.requests) == 3
    with pytest.raises(ResourceError, match=r"no answer in 2 attempts.*refused"):
        endpoint(Stub("http://127.0.0.1:9/v1", []), retries=1).ask(ASK)


def test_an_answer_that_does_not_come_is_asked_for_again() -> None:
    with stub_server(lambda body, n: Reply("late", delay=30) if n == 0 else GOOD) as stub:
        assert endpoint(stub, timeout_seconds=0.2).ask(ASK).content == '{"score": 3}'
    assert len(stub.requests) == 2


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"{}", b'{"choices": []}', b"[" * 100_000, b'{"choices": 3}'])
def test_what_is_no_completion_is_asked_for_again(body: bytes) -> None:
    with stub_server(lambda asked, n: Reply(body=body) if n == 0 else GOOD) as stub:
        assert endpoint(stub).ask(ASK).content == '{"score": 3}'


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_explained_and_not_tried_again(status: int) -> None:
    with (
        stub_server(lambda body, n: Reply(f"Incorrect API key provided: {KEY}", status)) as stub,
        pytest.raises(ConfigError, match=r"check the key in LABEL_KEY") as refused,
    ):
        endpoint(stub).ask(ASK)
    assert len(stub.requests) == 1
    assert KEY not in str(refused.value)
    assert KEY not in repr(endpoint(stub))


def test_a_wrong_address_or_model_is_not_tried_again_and_redirects_take_no_key_along() -> None:
    for reply in (Reply("model not found", 404), Reply(status=302, headers={"Location": "http://127.0.0.1:9/"})):
        wanted = pytest.raises(ConfigError, match=r"check labels\.endpoint\.url")
        with stub_server(lambda body, n, reply=reply: reply) as stub, wanted:
            endpoint(stub).ask(ASK)
        assert len(stub.requests) == 1


def test_a_request_that_the_server_cannot_take_is_refused_alone() -> None:
    with stub_server(lambda body, n: Reply("too long", 400)) as stub, pytest.raises(Refused, match="too long"):
        endpoint(stub).ask(ASK)


def test_a_missing_key_is_named_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_KEY")
    with pytest.raises(ConfigError, match="environment variable LABEL_KEY is not set"):
        endpoint(Stub("http://127.0.0.1:9/v1", []))


def test_what_is_no_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL_KEY", f"{KEY}\nx: y")
    with pytest.raises(ConfigError, match="what LABEL_KEY holds is no key") as refused:
        endpoint(Stub("http://127.0.0.1:9/v1", []))
    assert KEY not in str(refused.value)


def test_a_wait_of_hours_ends_the_run_and_a_stop_ends_a_wait() -> None:
    with stub_server(lambda body, n: Reply("tomorrow", 429, {"Retry-After": "86400"})) as stub, pytest.raises(
        ResourceError, match=r"come back in 86,400 s"
    ):  # fmt: skip
        endpoint(stub).ask(ASK)
    stop = threading.Event()

    def reply(body: dict[str, Any], n: int) -> Reply:
        stop.set()
        return Reply("wait", 429, {"Retry-After": "300"})

    with stub_server(reply) as stub, pytest.raises(Stopped):
        endpoint(stub, stop).ask(ASK)
