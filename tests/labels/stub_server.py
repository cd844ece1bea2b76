"""An OpenAI-compatible endpoint on this machine that does what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = 1_000_000  # the server's clock, seconds


@dataclass
class Reply:
    """status 200: `content` as the model's answer; else an error of the server's words. delay: seconds before it."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    usage: dict[str, int] | None = None
    body: bytes | None = None  # in place of everything that a completion would be


@dataclass
class Stub:
    """url: base of the endpoint. requests: (headers, body) in the order of their arrival."""

    url: str
    requests: list[tuple[dict[str, str], dict[str, Any]]]
    most_at_once: int = 0


@contextmanager
def stub_server(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Stub]:
    """reply: (body of the request, how many came before) -> what to answer."""
    found = Stub("", [])
    lock = threading.Lock()
    over = threading.Event()
    running = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal running
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                before = len(found.requests)
                found.requests.append((dict(self.headers), {**body, "path": self.path}))
                running += 1
                found.most_at_once = max(found.most_at_once, running)
            try:
                answer = reply(body, before)
                over.wait(answer.delay)
                self._send(answer)
            except OSError:  # a client that did not wait
                pass
            finally:
                with lock:
                    running -= 1

        def _send(self, answer: Reply) -> None:
            usage = {"usage": answer.usage} if answer.usage else {}
            told: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": answer.content}}], **usage}
            if answer.status != 200:
                told = {"error": {"message": answer.content}}
            raw = json.dumps(told).encode() if answer.body is None else answer.body
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(raw)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(NOW, usegmt=True)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield found
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
