"""The graph: two phases, their turns and budgets, and that nothing that fails breaks the run."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    LABELS,
    NEWS,
    YES,
    Make,
    Run,
    baselines,
    build_index,
    calls,
    chosen,
    failure,
    ids,
    likes,
    queries,
    searches,
)
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import ValidationError

from ctd_agent.agents.selecting.pointwise import Pointwise
from ctd_agent.errors import UserError
from ctd_agent.graphs import labeling, state
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.schema import Document, Label
from ctd_agent.tools.label_index import LabelIndex


def tool_messages(prompt: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in prompt if message["role"] == "tool"]


# What a run is


def test_a_small_model_searches_by_schema_and_answers_one_question_a_candidate(run: Run, small: Make) -> None:
    model = small(searches("house prices", done=True), otherwise=likes("Interest rates", "Housing market"))
    result = run(model, turns=3)
    assert sorted(ids(result)) == ["housing", "rates"]
    assert failure(result) is None
    assert queries(result) == ["house prices"]
    assert {phase: usage.calls for phase, usage in result.usage.items()} == {"search": 0, "shortlist": 1, "select": 16}


def test_a_large_model_calls_the_tool_and_chooses_from_the_numbered_list(run: Run, large: Make) -> None:
    model = large(calls("house prices", "mortgages"), AIMessage("Enough."), chosen(2, 1))
    result = run(model, turns=2)
    best = [entry.id for entry in result.shortlist]
    assert ids(result) == [best[1], best[0]]
    assert queries(result) == ["house prices", "mortgages"]


def test_the_documents_own_search_is_the_ground_whatever_the_model_does(run: Run, small: Make) -> None:
    without = run(small(), turns=0)
    assert without.shortlist[0].id == "rates"
    with_model = run(small(searches("tennis")))
    assert {entry.id for entry in without.shortlist} <= {entry.id for entry in with_model.shortlist}


def test_what_only_the_models_search_finds_reaches_phase_2(large: Make, tmp_path: Path) -> None:
    nearer = [Label(id=f"rate-{i}", name=f"rates of central bank {i}") for i in range(150)]
    index = build_index([*nearer, Label(id="tennis", name="Tennis")], tmp_path / "index")
    model = large(calls("tennis"), AIMessage("Enough."), chosen(1))
    graph = build_graph(model, model, index, budget=Budget(turns=2, candidates=20))

    shortlist = graph.invoke({"document": {"id": "1", "text": "The central bank raised rates."}})["result"].shortlist

    assert "tennis" in {entry.id for entry in shortlist}
    assert sum(entry.found_by[0].source == "labels" for entry in shortlist) == 20
    assert len(shortlist) <= 30


def test_a_candidate_keeps_every_search_that_found_it(run: Run, large: Make) -> None:
    result = run(large(calls("interest rates"), calls("rates of banks"), chosen(1)), turns=2)
    rates = next(entry for entry in result.shortlist if entry.id == "rates")
    found = [(finding.source, finding.query) for finding in rates.found_by]
    assert found == [("labels", ""), ("model", "interest rates"), ("model", "rates of banks")]
    assert rates.score == pytest.approx(sum(1 / (60 + f.rank) for f in rates.found_by))


def test_choosing_nothing_is_an_answer_and_no_failure(run: Run, large: Make) -> None:
    result = run(large(AIMessage(""), chosen()))
    assert (ids(result), failure(result)) == ([], None)


def test_a_document_or_its_dict_go_in_and_nothing_else(small: Make, index: LabelIndex) -> None:
    model = small(otherwise=likes("Interest"))
    graph = build_graph(model, model, index)
    for document in (Document(id="1", text=NEWS), {"id": "1", "text": NEWS}):
        assert ids(graph.invoke({"document": document})["result"]) == ["rates"]
    for wrong in ({}, {"document": None}, {"document": {"id": "1"}}, {"document": {"id": 1, "text": ""}}):
        with pytest.raises(ValidationError, match="for Document"):
            graph.invoke(wrong)


def test_the_graph_runs_in_batch_async_and_as_a_stream(small: Make, index: LabelIndex) -> None:
    model = small(otherwise=likes("Interest", "Tennis"))
    graph = build_graph(model, model, index, budget=Budget(turns=0))
    texts = [NEWS, "A tennis match."] * 4
    inputs = [{"document": Document(id=str(i), text=text)} for i, text in enumerate(texts)]

    results = [output["result"] for output in graph.batch(inputs)]
    assert [result.id for result in results] == [str(i) for i in range(8)]
    assert [ids(result)[0] for result in results] == ["rates", "tennis"] * 4
    assert ids(asyncio.run(graph.ainvoke(inputs[0]))["result"]) == ids(results[0])

    async def stream() -> list[str]:
        return [node async for update in graph.astream(inputs[0], stream_mode="updates") for node in update]

    assert asyncio.run(stream()) == ["read", "select", "finish"]


def test_nothing_of_one_document_stays_for_the_next(small: Make, index: LabelIndex) -> None:
    model = small(searches("tennis", done=True), *[YES] * 8)
    graph = build_graph(model, model, index, budget=Budget(turns=1)).copy(update={"checkpointer": InMemorySaver()})
    thread = {"configurable": {"thread_id": "1"}}  # as a LangGraph server keeps it
    assert ids(graph.invoke({"document": Document(id="1", text=NEWS)}, thread)["result"]) != []
    second = graph.invoke({"document": Document(id="2", text=" ")}, thread)
    assert second["result"].labels == second["result"].shortlist == []
    assert [step.document for step in second["transitions"]] == ["2"]


def test_the_drawn_graph_has_the_edges_there_are(small: Make, index: LabelIndex) -> None:
    drawn = build_graph(small(), small(), index).get_graph().draw_mermaid()
    edges = set(re.findall(r"(\w+) -+\.?->? (\w+);", drawn.replace("-.->", "-->")))
    assert edges == {
        ("__start__", "read"),
        *(("read", to) for to in ("shortlist", "select", "finish")),
        *(("shortlist", to) for to in ("search", "select", "finish")),
        *(("search", to) for to in ("shortlist", "select", "finish")),
        ("select", "finish"),
        ("finish", "__end__"),
    }


# Turns with tool calls


def test_every_tool_call_is_answered_also_those_that_cannot_run(run: Run, large: Make) -> None:
    turn = AIMessage(
        "",
        tool_calls=[
            {"name": "search_labels", "args": {"query": "tennis"}, "id": "a"},
            {"name": "search_labels", "args": {"query": " TENNIS"}, "id": "b"},
            {"name": "delete_labels", "args": {}, "id": "c"},
            {"name": "search_labels", "args": {"limit": 3}, "id": "d"},
            {"name": "search_labels", "args": {"query": ["x"]}, "id": "e"},
            {"name": "search_labels", "args": {"query": "x", "limit": 1_000}, "id": "f"},
            {"name": "search_labels", "args": {"query": "x" * 10_000}, "id": "g"},
            {"name": "search_labels", "args": {"query": "banks", "spare": True}, "id": "h"},
            {"name": "search_labels", "args": {"query": "health"}, "id": "i"},
        ],
    )
    model = large(turn, AIMessage("Done."), chosen(1))
    result = run(model, turns=2, searches=4)
    assert failure(result) is None
    assert queries(result) == ["banks", "health", "tennis"]
    prompt = model.chat.prompts[1]
    assert [m["tool_call_id"] for m in prompt if m["role"] == "tool"] == list("abcdefghi")
    found, repeat, tool, missing, kind, limit, query, spare, last = tool_messages(prompt)
    assert found.startswith("Tennis")
    assert "already" in repeat
    assert "no tool 'delete_labels'" in tool
    assert "query: Field required" in missing
    assert "query: Input should be a valid string" in kind
    assert "limit: Input should be less than or equal to 50" in limit
    assert "query: String should have at most 300 characters" in query
    assert len(query) < 200
    assert "banks" in spare
    assert last.startswith("Public health")


MALFORMED = [
    AIMessage("", tool_calls=[{"name": "search", "args": {}, "id": "a"}]),
    AIMessage("", invalid_tool_calls=[{"name": "search_labels", "args": '{"query": "x', "id": "a", "error": "cut"}]),
    AIMessage("", invalid_tool_calls=[{"name": "search_labels", "args": "[1]", "id": "a", "error": "a list"}]),
]


@pytest.mark.parametrize("malformed", MALFORMED, ids=["name", "cut", "list"])
def test_a_turn_of_malformed_calls_gets_another_try(malformed: AIMessage, run: Run, large: Make) -> None:
    model = large(malformed, calls("tennis"), chosen(1))
    result = run(model, turns=2)
    assert queries(result) == ["tennis"]
    assert failure(result) is None
    assert [text.startswith("error: ") for text in tool_messages(model.chat.prompts[1])] == [True]


@pytest.mark.parametrize("malformed", MALFORMED, ids=["name", "cut", "list"])
def test_malformed_calls_to_the_end_are_a_failure_of_phase_one_alone(
    malformed: AIMessage, run: Run, large: Make
) -> None:
    result = run(large(malformed, malformed, chosen(1)), turns=2)
    assert failure(result) == ("shortlist", "invalid_output")
    assert ids(result) == [result.shortlist[0].id]


def test_calls_without_an_id_are_answered_in_their_order(run: Run, large: Make) -> None:
    turn = AIMessage(
        "", tool_calls=[{"name": "search_labels", "args": {"query": q}, "id": None} for q in ("a", "tennis")]
    )
    model = large(turn, AIMessage(""), chosen(1))
    assert failure(run(model, turns=2)) is None
    assert len(tool_messages(model.chat.prompts[1])) == 2


def test_a_model_that_repeats_itself_for_ever_is_left_alone(run: Run, large: Make, small: Make) -> None:
    def again(prompt: list[dict[str, Any]], options: dict[str, Any]) -> Any:
        return calls("tennis") if "tools" in options else chosen(1)

    model = large(otherwise=again)
    assert queries(run(model, turns=50, searches=50)) == ["tennis"]
    assert len(model.chat.prompts) == 3  # it searched, it repeated itself, it chose

    model = small(*[searches("tennis")] * 2)
    run(model, turns=50, searches=50)
    assert len(model.chat.prompts) - len(baselines(model)) == 2 + len(LABELS)


# Budgets


def test_a_thousand_searches_in_one_turn_are_cut_at_the_budget(run: Run, large: Make) -> None:
    model = large(calls(*map(str, range(1_000))), chosen(1))
    result = run(model, turns=3, searches=5)
    assert queries(result) == [str(number) for number in range(5)]
    assert (len(model.chat.prompts), failure(result)) == (2, None)  # no turn without a search left


def test_searches_are_counted_over_all_turns(run: Run, large: Make) -> None:
    model = large(calls("a", "b"), calls("c", "d"), chosen(1))
    assert len(queries(run(model, turns=9, searches=3))) == 3
    assert "up to 3 times" in model.chat.prompts[0][-1]["content"]


def test_turns_end_phase_one(run: Run, large: Make) -> None:
    model = large(*[calls(str(turn)) for turn in range(20)], chosen(1))
    result = run(model, turns=20, searches=99)  # more steps than older LangGraph's limit of 25
    assert len(queries(result)) == 20
    assert failure(result) is None


@pytest.mark.parametrize("budget", [{"turns": 0}, {"searches": 0}], ids=["turns", "searches"])
def test_without_turns_or_searches_the_model_only_chooses(budget: dict[str, int], run: Run, large: Make) -> None:
    model = large(chosen(1))
    assert (len(ids(run(model, **budget))), len(model.chat.prompts)) == (1, 1)


def test_candidates_bound_the_shortlist_and_the_questions(run: Run, small: Make) -> None:
    model = small(searches("tennis", "football", done=True), otherwise=likes("Interest"))
    result = run(model, candidates=3)
    assert len(result.shortlist) == 3
    assert len(model.chat.prompts) == 1 + 3 + 3
    assert len(baselines(model)) == 3
    assert run(small(searches(done=True)), candidates=0).labels == []


def test_tokens_end_the_questions_and_what_was_answered_counts(run: Run, small: Make) -> None:
    model = small(otherwise=likes("Interest"))
    result = run(model, turns=0, tokens=300)  # a call costs 105
    assert (len(model.chat.prompts), baselines(model)) == (3, [])
    assert failure(result) == ("select", "budget")
    assert "13 questions" in result.failure.message  # of 8, and of 8 without the document
    assert ids(result) == ["rates"]


@pytest.mark.parametrize("budget", [{"tokens": 0}, {"seconds": 0.0}], ids=["tokens", "seconds"])
@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_budget_spent_at_once_leaves_retrieval(
    kind: str, budget: dict[str, Any], run: Run, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)()
    result = run(model, **budget)
    assert model.chat.prompts == []
    assert failure(result) == ("select", "budget")
    assert result.shortlist[0].id == "rates"


def test_tokens_end_phase_one_before_its_next_turn(run: Run, large: Make) -> None:
    model = large(calls("tennis"))
    result = run(model, turns=9, tokens=100)
    assert (len(model.chat.prompts), queries(result)) == (1, ["tennis"])
    assert failure(result) == ("select", "budget")


def test_seconds_are_checked_before_each_call(run: Run, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def slow(prompt: list[dict[str, Any]], options: dict[str, Any]) -> AIMessage:
        nonlocal now
        now += 10
        return YES

    monkeypatch.setattr(labeling, "perf_counter", lambda: now)
    monkeypatch.setattr(state, "perf_counter", lambda: now)
    model = small(searches("tennis"), otherwise=slow)
    result = run(model, turns=2, seconds=25.0)
    # The second turn's answer is garbage, and takes ten seconds; two questions are asked in the other fifteen.
    assert len(model.chat.prompts) == 1 + 1 + 2
    assert failure(result) == ("select", "budget")
    assert len(result.labels) == 2


def test_a_negative_budget_is_the_users_fault(small: Make) -> None:
    with pytest.raises(UserError, match=r"never below zero.*turns=-1"):
        Budget(turns=-1)
    with pytest.raises(UserError, match=r"never below zero.*candidates=-1"):
        Budget.fitting(small(), small(), candidates=-1)


def test_a_budget_fits_the_models_but_for_what_is_asked_for(small: Make, large: Make) -> None:
    few = Pointwise.candidates
    assert Budget.fitting(large(), large()) == Budget() != Budget(turns=0)
    assert Budget.fitting(small(), large()) == Budget(turns=0)
    assert Budget.fitting(large(), small()) == Budget(candidates=few) != Budget()
    assert Budget.fitting(small(), small()) == Budget(turns=0, candidates=few)
    asked = Budget.fitting(small(), small(), turns=2, candidates=None, tokens=9, seconds=0)
    assert asked == Budget(turns=2, candidates=few, tokens=9, seconds=0)  # what is None was not asked for, 0 was


def test_without_a_budget_a_small_model_is_given_the_one_that_fits(small: Make, large: Make, index: LabelIndex) -> None:
    pointwise = small(otherwise=likes("Interest"))
    output = build_graph(pointwise, pointwise, index).invoke({"document": Document(id="1", text=NEWS)})
    assert [step.node for step in output["transitions"]] == ["read", "select"]
    searching = large(calls("tennis"), AIMessage("Enough."))
    output = build_graph(searching, pointwise, index).invoke({"document": Document(id="1", text=NEWS)})
    assert [step.node for step in output["transitions"]] == ["read", "shortlist", "search", "shortlist", "select"]


# Models

GARBAGE = {
    "words": "no JSON",
    "nothing": "",
    "nul": "\0",
    "surrogate": "\ud800",
    "cut": '{"labels": [{"number": 1, "sc',
    "cut-searches": '{"searches": ["a"',
    "list": "[]",
    "null": "null",
    "empty": "{}",
    "nulls": '{"labels": null, "searches": null}',
    "objects": '{"labels": {"number": 1}, "searches": {"a": 1}}',
    "kinds": '{"labels": ["one"], "searches": [1, 2]}',
    "inner-kinds": '{"labels": [{"number": "one"}], "searches": [["a"]]}',
    "nan": '{"labels": [{"number": 1, "score": NaN}], "searches": NaN}',
    "infinity": '{"labels": [{"number": 1, "score": -Infinity}], "searches": "a"}',
    "overflow": '{"labels": [{"number": 1, "score": 1e999}], "searches": 1e999}',
    "escaped-surrogate": '{"labels": [{"number": 1, "reason": "\\ud800"}], "searches": ["\\ud800"]}',
    "deep": '{"labels": ' * 50_000,
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_garbage_in_a_phase_is_that_phases_failure(answer: str, run: Run, small: Make, large: Make) -> None:
    result = run(large(AIMessage(answer), answer), candidates=2)
    assert (failure(result), ids(result)) == (("select", "invalid_output"), [])

    result = run(small(answer, otherwise=likes("Interest")), candidates=2)
    assert failure(result) == ("shortlist", "invalid_output")
    assert ids(result) == ["rates"]  # phase 2 had the document's own search

    result = run(small(*[answer] * 2), turns=0, candidates=2)
    assert failure(result) == ("select", "invalid_output")


def test_reasoning_and_an_answer_with_lone_surrogates_can_be_logged(run: Run, large: Make) -> None:
    thought = AIMessage("\ud800", additional_kwargs={"reasoning_content": "\udfff"})
    call = AIMessage("", tool_calls=[{"name": "search_labels", "args": {"query": "tennis \ud83d"}, "id": "a"}])
    result = run(large(call, thought, chosen(1)), turns=2)
    assert (len(ids(result)), failure(result)) == (1, None)


def test_a_failing_engine_is_a_failure_of_the_phase_it_fails_in(run: Run, small: Make, large: Make) -> None:
    gone = ConnectionError("no answer")
    result = run(large(gone))
    assert failure(result) == ("shortlist", "engine")
    assert result.failure.message == "scripted:large: ConnectionError: no answer"
    assert len(result.shortlist) == len(LABELS)
    result = run(large(calls("tennis"), gone), turns=2)
    assert (failure(result), queries(result)) == (("shortlist", "engine"), ["tennis"])
    assert failure(run(large(AIMessage(""), gone))) == ("select", "engine")
    for answered in (2, len(LABELS) + 2):  # midway through the document's questions, and through the baseline's
        result = run(small(searches(done=True), *[YES] * answered, gone))
        assert (failure(result), ids(result)) == (("select", "engine"), [])


@pytest.mark.parametrize("working", [0, 1])
def test_an_index_that_fails_is_a_failure_of_the_search(
    working: int, run: Run, large: Make, index: LabelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, done = index.search, []

    def fail(query: str, limit: int) -> Any:
        if len(done) == working:
            raise ConnectionError("no Qdrant server answers")
        done.append(query)
        return search(query, limit)

    monkeypatch.setattr(index, "search", fail)
    result = run(large(calls("tennis")))
    assert failure(result) == ("search", "engine")
    assert result.failure.message == "ConnectionError: no Qdrant server answers"
    assert len(result.shortlist) == working * len(LABELS)


def test_a_failing_document_among_others_fails_alone(small: Make, index: LabelIndex) -> None:
    def answer(prompt: list[dict[str, Any]], options: dict[str, Any]) -> AIMessage:
        if "poison" in prompt[-1]["content"]:
            raise ConnectionError("gone")
        return likes("Interest")(prompt, options)

    model = small(otherwise=answer)
    documents = [Document(id=str(i), text="poison" if i == 3 else "" if i == 5 else NEWS) for i in range(8)]
    graph = build_graph(model, model, index, budget=Budget(turns=0))
    results = list(label_documents(graph, documents, concurrency=4))
    expected = {"3": ("select", "engine"), "5": ("search", "empty_document")}
    assert {result.id: failure(result) for result in results if result.failure} == expected
    assert [ids(result) for result in results if not result.failure] == [["rates"]] * 6


def test_names_of_a_million_characters_make_no_long_prompt_log_or_result(tmp_path: Path, small: Make) -> None:
    long = "interest rates " * 70_000
    index = build_index([Label(id=str(n), name=f"{n} {long}") for n in range(3)], tmp_path / "index")
    model = small(otherwise=likes("0", "1", "2"))
    graph = build_graph(model, model, index, budget=Budget(turns=0))
    result = graph.invoke({"document": {"id": "1", "text": "interest rates rise"}})
    logged = "".join(step.model_dump_json() for step in result["transitions"])
    assert [len(label.name) for label in result["result"].labels] == [300, 300, 300]
    assert len(logged) < 30_000
