"""What may pass is tried again, and what has been learned of an engine serves every call to it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from server import Raw, Server, completion
from tenacity import wait_none

from ctd_agent.agents.engines import load_model, retry
from ctd_agent.agents.engines.chat_model import EngineError
from ctd_agent.agents.engines.retry import Patience
from ctd_agent.schema import Exchange

pytest_plugins = ["servers"]

ASK = Exchange(messages=[{"role": "user", "content": "Which label?"}])
BROKEN = Raw(b'{"error": {"message": "out of memory"}}', 500)
REQUEST = httpx.Request("POST", "http://gpu1/v1/chat/completions")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "_PAUSE", wait_none())


def refused() -> openai.APIConnectionError:
    """Nothing listens at the engine's address."""
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = httpx.ConnectError("Connection refused")
    return error


def busy(seconds: float) -> openai.RateLimitError:
    """The engine asks to be left alone for a while."""
    response = httpx.Response(429, headers={"Retry-After": str(seconds)}, request=REQUEST)
    return openai.RateLimitError("busy", response=response, body={})


class Engine:
    """Raises what the script says, then answers; counts its calls."""

    def __init__(self, *script: Exception) -> None:
        self.script = list(script)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.script:
            raise self.script.pop(0)
        return "Tennis"


def test_a_failing_engine_is_asked_again_and_its_answer_counts(server: Server):
    server.script = [BROKEN, Raw(status=502), Raw(b'{"choices": [', cut=True), completion("Tennis")]
    assert load_model(server.spec).ask(ASK).replies[0].content == "Tennis"
    assert len(server.requests) == 4


def test_one_that_keeps_failing_is_given_up(server: Server):
    server.script = [BROKEN] * 20
    with pytest.raises(EngineError, match="out of memory"):
        load_model(server.spec).ask(ASK)
    assert len(server.requests) == retry.ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_is_wrong_with_the_request_is_not_tried_again(server: Server, status: int):
    server.script = [Raw(b'{"error": {"message": "no"}}', status)]
    with pytest.raises(EngineError):
        load_model(server.spec).ask(ASK)
    assert len(server.requests) == 1


def test_the_pause_that_a_busy_engine_asks_for_is_kept():
    started = retry.monotonic()
    assert Patience().call(Engine(busy(0.3))) == "Tennis"
    assert retry.monotonic() - started >= 0.3


def test_an_engine_that_asks_for_more_patience_than_there_is_fails_the_call():
    with pytest.raises(openai.RateLimitError):
        Patience().call(Engine(busy(900)))


def test_an_engine_that_was_never_there_is_asked_twice_and_then_not_at_all_for_a_while():
    engine, patience = Engine(*[refused() for _ in range(9)]), Patience()
    with pytest.raises(openai.APIConnectionError):
        patience.call(engine)
    assert engine.calls == 2
    for _ in range(1000):  # documents
        with pytest.raises(retry.GoneError, match="Connection refused"):
            patience.call(engine)
    assert engine.calls == 2


def test_after_a_while_one_call_tries_again_and_an_engine_that_is_back_serves_all(monkeypatch: pytest.MonkeyPatch):
    engine, patience = Engine(refused(), refused()), Patience()
    monkeypatch.setattr(retry, "COOLING", 0.0)
    with pytest.raises(openai.APIConnectionError):
        patience.call(engine)
    assert [patience.call(engine) for _ in range(3)] == ["Tennis"] * 3


def test_an_engine_that_has_answered_is_waited_for_and_may_be_revived():
    revived: list[int] = []
    patience = Patience(lambda: revived.append(1))
    patience.call(Engine())
    engine = Engine(*[refused() for _ in range(20)])
    assert patience.call(engine) == "Tennis"
    assert engine.calls == 21
    assert len(revived) == 20


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "PATIENCE", 0.0)
    patience = Patience()
    patience.call(Engine())
    with pytest.raises(openai.APIConnectionError):
        patience.call(Engine(*[refused() for _ in range(20)]))


def test_when_one_call_has_lost_patience_those_that_wait_do_too(monkeypatch: pytest.MonkeyPatch):
    """A document that began to wait later has patience left, and gives up all the same."""
    monkeypatch.setattr(retry, "PATIENCE", 2.0)
    patience, gave_up = Patience(), []
    patience.call(Engine())

    def never() -> str:
        retry_pause.wait(0.01)
        raise refused()

    def document() -> None:
        with pytest.raises(openai.APIConnectionError):
            patience.call(never)
        gave_up.append(retry.monotonic())

    retry_pause = threading.Event()
    first, later = (threading.Thread(target=document) for _ in range(2))
    first.start()
    retry_pause.wait(1.5)
    later.start()
    first.join()
    later.join()
    assert gave_up[1] - gave_up[0] < 1.0  # its own patience would have lasted 1.5 seconds more


# Real addresses


def test_a_wrong_address_is_asked_twice_for_the_first_document_and_not_for_the_next():
    """The port is closed. Fifty documents would else wait for it one after the other."""
    closed = Server()
    closed.server_close()
    model = load_model(closed.spec)
    started = retry.monotonic()
    for _ in range(50):
        with pytest.raises(EngineError, match="Connection refused"):
            model.ask(ASK)
    assert retry.monotonic() - started < 5


def test_an_engine_that_is_restarted_is_waited_for_by_all_documents():
    with Server() as first:
        port, model = first.server_port, load_model(first.spec)
        assert model.ask(ASK).replies
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(model.ask, ASK) for _ in range(4)]
        time.sleep(3)
        with Server(port):
            assert all(answer.result().replies for answer in answers)
