"""A scripted OpenAI-compatible server, with faults on demand.

In a thread: `with Server() as server`. As a process that a test can kill: `python tests/server.py PORT [DELAY]`.
"""

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Body = dict[str, Any]
USAGE = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}


class Raw(NamedTuple):
    """A literal HTTP answer. With `cut`, the connection closes before its last byte."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    cut: bool = False


def completion(
    content: str | None = "", *, finish: str = "stop", logprobs: Any = None, usage: Body = USAGE, **fields: Any
) -> Body:
    """A chat completion. `fields` are added to its message."""
    message = {"role": "assistant", "content": content, **fields}
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [choice],
        "usage": usage,
    }


def agreeable(request: Body) -> Body:
    """The answer of a model that makes no further searches and chooses the first label."""
    if "response_format" not in request:
        return completion("nothing is missing")
    choice = {"number": 1, "score": 0.9, "reason": "because it does"}
    return completion(json.dumps({"reasoning": "the first applies", "labels": [choice]}))


class Server(ThreadingHTTPServer):
    """Answers from `script`, then with `otherwise`, each after `delay` seconds. `requests` has all requests.

    `stalls_after` is the number of requests after which no request gets an answer. `stalls_on` is a text: a request
    that contains it gets no answer. `fails` is the share of requests that fail, with status 500, with 429 or with a
    closed connection. The choice depends on the request and its earlier copies, not on other requests.
    With `refuses`, every answer is 401 and quotes the client's key, as some endpoints do.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reset()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def reset(self) -> None:
        """Return to the initial state."""
        self.script: list[Body | Raw] = []
        self.otherwise: Callable[[Body], Body] = agreeable
        self.stalls_after: int | None = None
        self.stalls_on: str | None = None
        self.delay = 0.0
        self.fails = 0.0
        self.refuses = False
        self.requests: list[Body] = []

    @property
    def spec(self) -> str:
        """The model spec of this server."""
        return f"openai:scripted@http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Print nothing: tests kill clients on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._respond(self._refusal() if self.server.refuses else Raw(status=404))

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        failure = self._failure(request) if server.fails else None
        server.requests.append({"path": self.path, **request})
        answer: Body | Raw = server.script.pop(0) if server.script else server.otherwise(request)
        late = server.stalls_after is not None and len(server.requests) > server.stalls_after
        if late or (server.stalls_on is not None and server.stalls_on in json.dumps(request)):
            time.sleep(60)  # longer than any test waits
        time.sleep(server.delay)
        self._respond(self._refusal() if server.refuses else failure or answer)

    def _failure(self, request: Body) -> Raw | None:
        """The failure of this request, if any, drawn again for each copy."""
        times = sum({**seen, **request} == seen for seen in self.server.requests)
        draw = random.Random(f"{times} {json.dumps(request)}")  # noqa: S311 - nothing secret
        if draw.random() >= self.server.fails:
            return None
        return draw.choice([Raw(status=500), Raw(status=429, headers={"Retry-After": "0"}), Raw(cut=True)])

    def _refusal(self) -> Raw:
        key = self.headers["Authorization"] or self.headers["api-key"]
        return Raw(json.dumps({"error": {"message": f"Incorrect API key: {key}"}}).encode(), status=401)

    def _respond(self, answer: Body | Raw) -> None:
        raw = answer if isinstance(answer, Raw) else Raw(json.dumps(answer).encode())
        self.send_response(raw.status)
        for name, value in {"Content-Type": "application/json", **raw.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw.body) + raw.cut))
        self.end_headers()
        self.wfile.write(raw.body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


if __name__ == "__main__":
    alone = Server(port=int(sys.argv[1]))
    alone.delay = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    alone.serve_forever()
