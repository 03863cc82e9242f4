"""What every engine must do: one suite of behaviours, for each engine there is.

`scripted` is the local HTTP server of the unit tests, of which `test_models.py` shows what it does when
it misbehaves; the others are real engines on real weights, and slow. `vllm` skips without vLLM.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from server import Server, agreeable, completion

from ctd_agent.agents.engines import ChatModel, EngineError, load_model, openai_chat
from ctd_agent.schema import Exchange, Reply

SCHEMA = {
    "type": "object",
    "properties": {"done": {"type": "boolean"}},
    "required": ["done"],
    "additionalProperties": False,
}
ANSWER = {"type": "json_schema", "json_schema": {"name": "turn", "schema": SCHEMA, "strict": True}}
TOOL = {
    "type": "function",
    "function": {
        "name": "search_labels",
        "description": "Search the catalogue.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
NO_VLLM = pytest.mark.skipif(find_spec("vllm") is None, reason="VLLM IS NOT INSTALLED: its contract is not tested")
ENGINES = [
    "scripted",
    pytest.param("local", marks=pytest.mark.slow),
    pytest.param("vllm", marks=[pytest.mark.slow, NO_VLLM]),
]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(engine: str, request: pytest.FixtureRequest) -> Iterator[ChatModel]:
    if engine == "scripted":
        with Server() as server:
            server.otherwise = behaving
            yield load_model(server.spec)
    else:
        yield request.getfixturevalue("vllm") if engine == "vllm" else load_model("local")


def behaving(request: dict[str, Any]) -> dict[str, Any]:
    """What an engine would answer to the prompts below."""
    if "tools" in request:
        call = {"id": "c1", "type": "function"}
        function = {"name": "search_labels", "arguments": '{"query": "tennis"}'}
        return completion(None, tool_calls=[{**call, "function": function}])
    if "response_format" in request:
        return completion('{"done": true}')
    if request.get("logprobs"):
        top = [{"token": token, "logprob": -1.0, "bytes": None} for token in ("Yes", "No")]
        first = {"token": "Yes", "logprob": -1.0, "bytes": None, "top_logprobs": top}
        usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
        return completion(
            "Yes", logprobs={"content": [first]}, usage={**usage, "prompt_tokens_details": {"cached_tokens": 480}}
        )
    return agreeable(request)


def ask(model: ChatModel, text: str, **options: Any) -> Reply:
    exchange = Exchange(messages=[{"role": "user", "content": text}], options={"temperature": 0, **options})
    return model.ask(exchange).replies[0]


def test_an_answer_keeps_to_its_schema(model: ChatModel):
    reply = ask(model, "Are we done?", max_tokens=30, response_format=ANSWER)
    assert json.loads(reply.content).keys() == {"done"}


def test_the_tokens_of_a_call_are_counted(model: ChatModel):
    usage = ask(model, "Which label is it?", max_tokens=5).usage
    assert usage.calls == 1
    assert usage.prompt_tokens > 5
    assert 0 < usage.completion_tokens <= 5
    assert usage.seconds > 0


def test_a_tool_is_called_with_what_its_schema_asks_for(model: ChatModel):
    if not model.manner.native_tools:
        pytest.skip("this model makes no tool calls that its engine can read: its search turns are under a schema")
    text = "Find the labels for: Serve and volley on grass."
    reply = ask(model, text, max_tokens=60, tools=[TOOL], tool_choice="required")
    assert reply.tool_calls[0]["name"] == "search_labels"
    assert isinstance(reply.tool_calls[0]["args"]["query"], str)


def test_a_first_tokens_likeliest_others_are_told_and_what_prompts_share_is_cached(model: ChatModel):
    questions = Exchange(
        messages=[{"role": "user", "content": "The central bank raised interest rates again. " * 40}],
        questions=["Is it about tennis? Answer yes or no.", "Is it about banks? Answer yes or no."],
        options={"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20, "thinking": 0},
    )
    replies = model.ask(questions).replies
    assert all(len(reply.logprobs) > 1 for reply in replies)
    assert all(value <= 0 for reply in replies for value in reply.logprobs.values())
    assert replies[1].usage.cached_tokens > 200


def test_the_same_seed_gives_the_same_answer(model: ChatModel):
    first, second = (ask(model, "Name a sport.", max_tokens=8, temperature=0.9, seed=7).content for _ in range(2))
    assert first == second


def test_an_engine_that_takes_longer_than_it_may_fails_the_call(engine: str, model: ChatModel, monkeypatch: Any):
    if engine == "scripted":
        pytest.skip("it answers at once; test_models.py has it stall")
    monkeypatch.setattr(openai_chat, "TIMEOUT", 0.2)
    hasty = openai_chat.openai_chat("m", str(model.chat.openai_api_base), openai_chat.OWN_KEY)  # type: ignore[attr-defined]
    hasty.model_name = model.chat.model_name  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="timed out"):
        ask(ChatModel(model.spec, hasty), "Count to a thousand, in words.", max_tokens=400)


def test_a_prompt_that_is_too_long_is_refused_in_the_engines_own_words(engine: str, model: ChatModel):
    if engine == "scripted":
        pytest.skip("it reads nothing; test_models.py has it refuse")
    with pytest.raises(EngineError, match=r"4096|12288|context"):
        ask(model, "racket " * 15_000, max_tokens=1)


def test_a_server_of_our_own_answers_nobody_else(engine: str, model: ChatModel):
    if engine == "scripted":
        pytest.skip("it is not ours")
    url = f"{model.chat.openai_api_base}/chat/completions"  # type: ignore[attr-defined]
    prompt = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for headers in ({}, {"Authorization": "Bearer none"}, {"Origin": "http://attacker.example"}):
        answer = httpx.post(url, json=prompt, headers=headers, trust_env=False, timeout=30.0)
        assert answer.status_code == 401
        assert "attacker" not in answer.headers.get("access-control-allow-origin", "")
