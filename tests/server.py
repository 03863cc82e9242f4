"""A scripted OpenAI-compatible server: it plays an engine that answers, and one that misbehaves.

For unit tests only. In a thread: `with Server() as server`; on its own: `python tests/server.py PORT`.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Body = dict[str, Any]
USAGE = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}


class Raw(NamedTuple):
    """An answer byte for byte; with `cut`, the connection ends before its last byte."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = {}
    cut: bool = False


def completion(
    content: str | None = "", *, finish: str = "stop", logprobs: Any = None, usage: Body = USAGE, **fields: Any
) -> Body:
    """A chat completion; `fields` are more of its message's."""
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
    """What a model answers that searches for nothing else, and finds that the first label applies."""
    if "response_format" not in request:
        return completion("nothing is missing")
    choice = {"number": 1, "score": 0.9, "reason": "because it does"}
    return completion(json.dumps({"reasoning": "the first applies", "labels": [choice]}))


class Server(ThreadingHTTPServer):
    """Answers from `script`, then agreeably; `requests` are all it got.

    It does not answer after `stalls_after` requests, nor one that has `stalls_on` in it.
    """

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.reset()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def reset(self) -> None:
        """Forget what was, and begin anew."""
        self.script: list[Body | Raw] = []
        self.stalls_after: int | None = None
        self.stalls_on: str | None = None
        self.requests: list[Body] = []

    @property
    def spec(self) -> str:
        """The model spec of what runs here."""
        return f"openai:scripted@http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients are killed here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, **request})
        answer = self.server.script.pop(0) if self.server.script else agreeable(request)
        server = self.server
        late = server.stalls_after is not None and len(server.requests) > server.stalls_after
        if late or (server.stalls_on is not None and server.stalls_on in json.dumps(request)):
            time.sleep(60)  # longer than any test waits; the thread dies with the tests
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
    Server(port=int(sys.argv[1])).serve_forever()
