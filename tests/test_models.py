"""Model specs, and every engine's contract: a call ends in a Reply, or in an EngineError that names the spec."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from server import Raw, Server, completion

from ctd_agent.agents.engines import ENGINES, load_model, openai_chat, retry
from ctd_agent.agents.engines.chat_model import EngineError
from ctd_agent.errors import CtdError, UserError
from ctd_agent.schema import Exchange, Reply

pytest_plugins = ["servers"]

ASK = Exchange(messages=[{"role": "user", "content": "Which label?"}])
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def answer_to(server: Server, *script: Any, **options: Any) -> Reply:
    """What `ask` makes of what the server answers."""
    server.script = list(script)
    return load_model(server.spec).ask(ASK.model_copy(update={"options": options})).replies[-1]


def called(**call: Any) -> dict[str, Any]:
    return completion(None, finish="tool_calls", tool_calls=[{"id": "c1", "type": "function", **call}])


def test_an_answer_is_a_reply_with_what_it_cost(server: Server):
    usage = {
        "prompt_tokens": 70,
        "completion_tokens": 3,
        "total_tokens": 73,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    reply = answer_to(server, completion("Tennis", usage=usage))
    assert reply.content == "Tennis"
    assert reply.usage.model_dump(exclude={"seconds"}) == {
        "calls": 1,
        "prompt_tokens": 70,
        "cached_tokens": 64,
        "completion_tokens": 3,
    }
    assert reply.usage.seconds > 0


def test_an_engine_that_counts_no_tokens_costs_none(server: Server):
    assert answer_to(server, completion("Tennis", usage=None)).usage.prompt_tokens == 0


def test_a_schema_goes_to_the_engine_as_it_is_and_the_answer_comes_back_as_it_is(server: Server):
    reply = answer_to(server, completion('{"done": true}'), response_format=SCHEMA, max_tokens=9, temperature=0)
    assert reply.content == '{"done": true}'
    sent = server.requests[0]
    assert (sent["path"], sent["model"], sent["messages"]) == ("/v1/chat/completions", "scripted", ASK.messages)
    assert (sent["response_format"], sent["temperature"]) == (SCHEMA, 0)


def test_the_token_limit_goes_out_under_the_name_that_every_engine_knows(server: Server):
    answer_to(server, completion("Tennis"), max_tokens=9)
    assert server.requests[0]["max_tokens"] == 9
    assert "max_completion_tokens" not in server.requests[0]


def test_an_answer_that_the_token_limit_cut_is_still_an_answer(server: Server):
    reply = answer_to(server, completion('{"labels": [', finish="length"), response_format=SCHEMA, max_tokens=4)
    assert reply.content == '{"labels": ['
    assert reply.usage.completion_tokens == 5


def test_a_tool_call_is_read(server: Server):
    reply = answer_to(server, called(function={"name": "search_labels", "arguments": '{"query": "tennis"}'}))
    assert reply.tool_calls == [{"name": "search_labels", "args": {"query": "tennis"}, "id": "c1"}]
    assert reply.content == ""


def test_a_tool_call_that_is_no_json_is_kept_for_the_model_to_be_told(server: Server):
    reply = answer_to(server, called(function={"name": "search_labels", "arguments": '{"query": "tenn'}))
    assert reply.tool_calls == [{"name": "search_labels", "args": '{"query": "tenn', "id": "c1"}]


def test_the_log_probabilities_are_the_first_tokens(server: Server):
    def token(text: str, logprob: float, *likeliest: dict[str, Any]) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": list(likeliest)}

    first = token("Yes", -0.1, token("Yes", -0.1), token("No", -2.5), token("Yes", -9.0), token("?", float("-inf")))
    reply = answer_to(server, completion("Yes", logprobs={"content": [first, token("!", -0.5, token("!", -0.5))]}))
    assert reply.logprobs == {"Yes": -0.1, "No": -2.5}
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])  # llama.cpp, DeepSeek; vLLM, OpenRouter
def test_reasoning_is_kept_beside_the_content(server: Server, field: str):
    reply = answer_to(server, completion("Tennis", **{field: "It says racket."}))
    assert (reply.content, reply.reasoning) == ("Tennis", "It says racket.")


def test_reasoning_is_kept_beside_an_answer_under_a_schema(server: Server):
    reply = answer_to(server, completion("{}", reasoning_content="It says racket."), response_format=SCHEMA)
    assert (reply.content, reply.reasoning) == ("{}", "It says racket.")


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_answer_is_an_empty_reply(server: Server, content: str | None):
    assert answer_to(server, completion(content)).content == ""


def test_half_a_surrogate_pair_becomes_a_question_mark(server: Server):
    reply = answer_to(server, Raw(json.dumps(completion("a \ud83c b")).encode()))
    assert reply.content == "a ? b"


def test_a_busy_engine_is_asked_again_after_the_time_it_names(server: Server):
    busy = Raw(b'{"error": {"message": "slow down"}}', 429, {"Retry-After": "0.01"})
    assert answer_to(server, busy, completion("Tennis")).content == "Tennis"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Raw(b'{"error": {"message": "out of memory"}}', 500), "out of memory"),
        (Raw(b'{"error": {"message": "context of 8192 tokens exceeded"}}', 400), "context of 8192 tokens exceeded"),
        (Raw(b'{"error": {"message": "wrong key"}}', 401), "wrong key"),
        (Raw(b"<html>502 Bad gateway</html>", 502, {"Content-Type": "text/html"}), "502"),
        (Raw(b'{"choices": [', cut=True), "Connection error"),
        (Raw(b'{"choices": ['), "JSONDecodeError"),
        (Raw(b"<html>Log in</html>", headers={"Content-Type": "text/html"}), "Log in"),
        ({**completion("x"), "choices": []}, "no choices"),
        ({**completion("x"), "choices": None}, "choices"),
        ({"error": {"message": "no such model"}}, "no such model"),
        ({**completion("x"), "choices": [{"index": 0, "finish_reason": "stop"}]}, "AttributeError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_failure_names_the_spec_and_the_engines_own_words(
    server: Server, monkeypatch: pytest.MonkeyPatch, answer: Any, told: str
):
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    with pytest.raises(EngineError) as failure:
        answer_to(server, answer)
    message = str(failure.value)
    assert message.startswith(f"{server.spec}: ")
    assert told in message
    assert "\n" not in message
    assert failure.value.exchange.messages == ASK.messages


def test_an_engine_that_does_not_answer_in_time_fails(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    monkeypatch.setattr(openai_chat, "TIMEOUT", 0.05)
    server.stalls_after = 0
    with pytest.raises(EngineError, match="timed out"):
        answer_to(server)


def test_an_engine_that_is_not_there_fails_and_says_why(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    with Server() as server:
        spec = server.spec
    with pytest.raises(EngineError, match="refused"):
        load_model(spec).ask(ASK)


def test_what_was_answered_before_a_failure_is_kept(server: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    server.script = [completion("yes"), Raw(status=500)]
    questions = Exchange(messages=[{"role": "user", "content": "Label: "}], questions=["Tennis", "Chess", "Golf"])
    with pytest.raises(EngineError) as failure:
        load_model(server.spec).ask(questions)
    assert [reply.content for reply in failure.value.exchange.replies] == ["yes"]


def test_a_budget_is_asked_before_every_call(server: Server):
    questions = Exchange(messages=[{"role": "user", "content": "Label: "}], questions=["Tennis", "Chess", "Golf"])
    exchange = load_model(server.spec).ask(questions, lambda usage: usage.prompt_tokens < 200)
    assert len(exchange.replies) == len(server.requests) == 2
    assert server.requests[1]["messages"][-1]["content"] == "Label: Chess"


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("engine", ["openai", "vllm"])
def test_an_endpoints_url_may_leave_out_v1(server: Server, engine: str, end: str):
    load_model(f"{engine}:m@http://127.0.0.1:{server.server_port}{end}").ask(ASK)
    assert server.requests[0]["path"] == "/v1/chat/completions"


def test_an_endpoints_own_path_is_left_alone(server: Server):
    load_model(f"openai:@cf/meta/llama@http://127.0.0.1:{server.server_port}/v1beta/openai/").ask(ASK)
    assert server.requests[0]["path"] == "/v1beta/openai/chat/completions"
    assert server.requests[0]["model"] == "@cf/meta/llama"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("vllm:foo", "pip install 'ctd-agent[vllm]' first, or name a server: vllm:foo@URL"),
        ("vllm:foo@gpu1:8000", "no http:// or https:// URL"),
        ("openai:gpt-5", "set OPENAI_API_KEY"),
        ("openai:", "name a model behind it"),
        ("openai", "name a model behind it"),
        ("gguf:", "name a model behind it"),
        ("gguf:nope.gguf", "no such file"),
        ("gguf:model.bin", "name a .gguf file"),
        ("openai:m@http://", "no http:// or https:// URL"),
        ("nonsense", "pip install 'ctd-agent[langchain]'"),
        ("", "pip install 'ctd-agent[langchain]'"),
    ],
)
def test_a_spec_that_names_nothing_is_the_users_fault_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, spec: str, told: str
):
    monkeypatch.setitem(sys.modules, "langchain", None)
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(UserError) as fault:
        load_model(spec)
    assert str(fault.value).startswith(f"{spec}: ")
    assert told in str(fault.value)


def test_documents_never_go_to_openai_for_want_of_http_in_a_url(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with pytest.raises(UserError, match="no http:// or https:// URL"):
        load_model("openai:llama@localhost:8000/v1")


def test_a_text_that_calls_itself_gguf_is_the_users_fault(tmp_path: Path):
    path = tmp_path / "x.gguf"
    path.write_text("just text")
    with pytest.raises(UserError, match="not a GGUF file"):
        load_model(f"gguf:{path}")


def test_a_damaged_gguf_is_an_error_not_the_end_of_the_process(tmp_path: Path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(range(256)) * 8)
    with pytest.raises(CtdError, match=r"llama\.cpp cannot load it"):
        load_model(f"gguf:{path}")


def test_any_other_name_goes_to_langchain_and_its_complaint_comes_back_on_one_line(monkeypatch: pytest.MonkeyPatch):
    def init_chat_model(name: str) -> None:
        raise RuntimeError(f"{name}:\nno credentials")

    langchain = ModuleType("langchain.chat_models")
    langchain.init_chat_model = init_chat_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "langchain", ModuleType("langchain"))
    monkeypatch.setitem(sys.modules, "langchain.chat_models", langchain)
    with pytest.raises(UserError, match="knows: RuntimeError: anthropic:opus: no credentials"):
        load_model("anthropic:opus")


def test_the_specs_say_what_a_url_may_leave_out():
    specs = {engine.form: engine.help for engine in ENGINES}
    assert "/v1" in specs["openai:MODEL[@URL]"]
    assert "/v1" in specs["vllm:MODEL@URL"]
