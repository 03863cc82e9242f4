"""The client for OpenAI-compatible endpoints: a whole call's limits, and the key that goes to a server."""

import os
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from threading import Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import openai

SIZE = 64 * 2**20  # bytes of one answer, decompressed: 256 long vectors in JSON take a third of it
PIECE = 2**16  # bytes that are decompressed at once
KEY = "CTD_AGENT_API_KEY"  # the variable of the environment with the key to a server that a spec names
OPENAI = "https://api.openai.com/v1"
NO_KEY = "none"  # OpenAI's client insists on a key

# openai is built on httpx, from its third version on httpx2: what a client of its own is made of must be of the same.
_httpx: Any = sys.modules[next(c.__module__ for c in openai.DefaultHttpxClient.__mro__ if c.__name__ == "Client")]


class AnswerError(openai.APIConnectionError):
    """An answer took too long or is too large, or cannot be decompressed."""

    def __init__(self, message: str, request: Any) -> None:
        super().__init__(message=message, request=request)


class LargeAnswerError(AnswerError):
    """An answer is too large: asked for again, it would be as large."""


class EndpointClient(openai.DefaultHttpxClient):
    """An HTTP client with one deadline and one size limit for a whole call, whatever the server does."""

    def __init__(self, seconds: float, **options: Any) -> None:
        super().__init__(event_hooks={"response": [self._bound]}, **options)
        self.headers["Accept-Encoding"] = "gzip"  # what is decompressed piece by piece, see below
        self._seconds = seconds

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request. Raises AnswerError for an answer beyond a limit."""
        request.extensions["deadline"] = monotonic() + self._seconds
        answer = Future[Any]()
        send = super().send

        def run() -> None:
            try:
                answer.set_result(send(request, **options))
            except BaseException as error:
                answer.set_exception(error)

        # A thread, for nothing else ends a call whose headers drip: a library's time-outs begin anew with every byte.
        Thread(target=run, daemon=True).start()
        try:
            return answer.result(self._seconds + 0.5)  # the body's reader, which notices by itself, comes first
        except TimeoutError:
            raise self._late(request) from None

    def _late(self, request: Any) -> AnswerError:
        return AnswerError(f"no whole answer within the limit of {self._seconds:g} seconds", request)

    def _bound(self, response: Any) -> None:
        """Replace an answer's body, that of a redirection too, with one that is decompressed and read in bounds."""
        gzip = "gzip" in response.headers.pop("Content-Encoding", "")
        response.stream = _Body(response.stream, self._pieces(response, response.stream, gzip))

    def _pieces(self, response: Any, stream: Any, gzip: bool) -> Iterator[bytes]:
        size = 0
        for piece in _decompressed(stream, response.request) if gzip else stream:
            size += len(piece)
            if size > SIZE:
                raise LargeAnswerError(f"the answer is larger than the limit of {SIZE:,} bytes", response.request)
            if monotonic() > response.request.extensions["deadline"]:
                raise self._late(response.request)
            yield piece


class _Body(_httpx.SyncByteStream):  # type: ignore[misc] # of one library or the other, see above
    def __init__(self, stream: Any, pieces: Iterator[bytes]) -> None:
        self._stream, self._pieces = stream, pieces

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        self._stream.close()


def _decompressed(stream: Any, request: Any) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=31)
    try:
        for part in stream:
            rest = part
            while rest:
                yield decompressor.decompress(rest, PIECE)
                rest = decompressor.unconsumed_tail
    except zlib.error as error:
        raise AnswerError(f"the answer cannot be decompressed: {error}", request) from error


def key_for(url: str | None) -> str:
    """Return the key that a base URL is sent, `none` where there is none for it. None is OpenAI's own address.

    OPENAI_API_KEY goes to OpenAI and to the server in OPENAI_BASE_URL, CTD_AGENT_API_KEY to every other.
    """
    known = (OPENAI, os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_BASE"))
    theirs = url is None or _server(url) in [_server(base) for base in known if base]
    return os.environ.get("OPENAI_API_KEY" if theirs else KEY) or NO_KEY


def key_advice(error: BaseException) -> str:
    """Return what to set where a server refused a call that OPENAI_API_KEY was not sent with, else nothing."""
    key = os.environ.get("OPENAI_API_KEY")
    if not key or not isinstance(error, openai.AuthenticationError):
        return ""
    if error.response.request.headers.get("Authorization") == f"Bearer {key}":
        return ""
    return f"; OPENAI_API_KEY was not sent, it is for OpenAI and OPENAI_BASE_URL alone: set {KEY} for this server"


def _server(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
