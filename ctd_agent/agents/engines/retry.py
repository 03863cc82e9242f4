"""Calls that may succeed later are tried again: to a busy engine, a failing one, one that is being restarted."""

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TypeVar

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from ctd_agent.endpoint import LargeAnswerError

ATTEMPTS = 6  # at a call that the engine refuses or fails: with the pauses between, some 20 seconds
PATIENCE = 300.0  # seconds that an engine which has answered before is waited for: as long as one takes to start
COOLING = 30.0  # seconds for which an engine that is gone is not asked again: every document would wait for it anew

Answer = TypeVar("Answer")
_PAUSE = wait_exponential_jitter(multiplier=0.5, max=15.0)


class GoneError(Exception):
    """The engine could not be reached a moment ago."""


class Patience:
    """Calls to an engine, tried again with growing pauses. All calls share the knowledge of its state.

    An engine that refuses (408, 409, 429) or fails (5xx) is asked ATTEMPTS times, and its `Retry-After` is heeded. One
    that cannot be reached is asked twice if it has never answered: its address is wrong. If it has, it is waited for up
    to PATIENCE seconds. Thereafter calls fail at once for COOLING seconds, and then one tries again.
    """

    def __init__(self, revive: Callable[[], None] = lambda: None) -> None:
        """`revive` is called before a call is tried again: it may start an engine of ours that has died."""
        self._revive = revive
        self._answered = False
        self._gone: tuple[float, str] | None = None  # until when, and what was wrong
        self._lock = threading.Lock()

    def call(self, send: Callable[[], Answer]) -> Answer:
        """Call `send` and return its answer. Raises its last error, or GoneError."""
        self._check()
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=_pause,
            stop=self._enough,
            before_sleep=lambda _: self._revive(),
            reraise=True,
        )
        try:
            answer = retrying(send)
        except Exception as error:
            if _unreachable(error):
                self._gone = monotonic() + COOLING, str([*causes(error)][-1])
            raise
        self._answered, self._gone = True, None
        return answer

    def _check(self) -> None:
        with self._lock:  # of many that wait, one tries again
            if self._gone is None:
                return
            until, reason = self._gone
            if monotonic() < until:
                raise GoneError(f"it could not be reached a moment ago ({reason})")
            self._gone = monotonic() + COOLING, reason

    def _enough(self, state: RetryCallState) -> bool:
        error = _error(state)
        if not _unreachable(error):
            self._answered = True
            waited = (state.seconds_since_start or 0.0) + _asked_to_wait(error)
            return state.attempt_number >= ATTEMPTS or waited > PATIENCE
        if self._gone is not None:  # another call has waited long enough
            return True
        return state.attempt_number > 1 if not self._answered else (state.seconds_since_start or 0.0) > PATIENCE


def _pause(state: RetryCallState) -> float:
    return max(_PAUSE(state), _asked_to_wait(_error(state)))


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked_to_wait(error: BaseException | None) -> float:
    """Return the seconds that an engine's Retry-After asks for."""
    if not isinstance(error, openai.APIStatusError):
        return 0.0
    try:
        return max(0.0, float(error.response.headers.get("Retry-After", 0)))
    except ValueError:  # a date: few send one, and our own pauses grow
        return 0.0


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    too_large = any(isinstance(cause, LargeAnswerError) for cause in causes(error))
    return isinstance(error, openai.APIConnectionError) and not too_large


def _unreachable(error: BaseException | None) -> bool:
    """Tell whether nothing answers at the engine's address. A time-out or a cut answer is another matter.

    The client wraps its HTTP library's error, and that one the system's, in as many layers as the versions have.
    """
    if not isinstance(error, openai.APIConnectionError):
        return False
    kinds = {kind.__name__ for cause in causes(error) for kind in type(cause).__mro__}
    return not kinds.isdisjoint(("ConnectError", "ConnectTimeout", "ConnectionRefusedError", "gaierror"))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and whatever it was raised from, the root last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
