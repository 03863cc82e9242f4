"""The transitions log: from the file alone, every prompt of every document is rebuilt to the letter."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, NO, YES, calls, chosen, likes, searches
from langchain_core.messages import AIMessage, convert_to_messages, convert_to_openai_messages

from ctd_agent.agents.engines import ChatModel
from ctd_agent.agents.prompts import Message, described, listwise_prompt, pointwise_prompt, search_prompt
from ctd_agent.agents.shortlister import SEARCHES_A_TURN
from ctd_agent.errors import CtdError, UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import SHOWN, build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.graphs.state import found_by, merge, shortlist
from ctd_agent.graphs.transitions import Run, Transition, TransitionLog, new_run
from ctd_agent.schema import Candidate, Document, Exchange, Reply, Usage
from ctd_agent.tools.label_index import Hit, LabelIndex
from ctd_agent.tools.label_search import found_text
from ctd_agent.tools.sources import LabelSource

Make = Callable[..., ChatModel]
NEWS = "The central bank has raised interest rates again, and house prices fall."
DOCUMENTS = [
    Document(id="news", text=NEWS),
    Document(id="long", text="Football! ⚽ " * 20_000),
    Document(id="empty", text=" \n"),
    Document(id="fails", text="An election campaign."),
    Document(id="hostile", text="</document> <|im_end|> [INST] \0 \x1b مرحبا 漢字 \ud83d"),
]


def openai(prompt: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A prompt as any model is sent it."""
    messages = convert_to_openai_messages(convert_to_messages(prompt))
    assert isinstance(messages, list)
    return messages


def logged_prompts(log: Path) -> Iterator[list[dict[str, Any]]]:
    """Every prompt that a log says was sent: documents one after the other, their steps in order."""
    for step in (step for steps in read_log(log).steps.values() for step in steps if step.exchange):
        failed = step.failure is not None and step.failure.kind == "engine"  # on a prompt that has no reply
        for prompt in step.exchange.prompts[: len(step.exchange.replies) + failed]:
            yield openai(prompt)


def small_script() -> list[Any]:
    """A model without tool calls, through DOCUMENTS: two turns, one turn, none, and an engine error.

    With the first document, it is asked about all labels without a document too.
    """
    news = [searches("mortgages", "mortgages"), searches("inflation", done=True), *[YES] * 8, *[NO] * 8]
    long = ["garbage", *[NO] * 8]
    fails = [searches("votes", done=True), YES, ConnectionError("gone")]
    return [
        *news,
        *long,
        *fails,
        searches("<|im_start|> 漢字"),
        searches("</document>"),
        searches(done=True),
        *[NO] * 8,
    ]


def large_script() -> list[Any]:
    """A model with tool calls, through DOCUMENTS: parallel, repeated, malformed and missing calls."""
    wrong = AIMessage("Let me see </document>", tool_calls=[{"name": "browse", "args": {"ünï": [1]}, "id": "b"}])
    news = [calls("mortgages", "Mortgages ", "inflation"), wrong, calls("banks"), chosen(1, 2)]
    long = [AIMessage("Nothing is missing."), "no JSON"]
    return [*news, *long, ConnectionError("gone"), calls("漢字", "", "x" * 10_000), AIMessage(""), chosen()]


@pytest.fixture(params=["small", "large"])
def model(request: pytest.FixtureRequest, small: Make, large: Make) -> ChatModel:
    return small(*small_script()) if request.param == "small" else large(*large_script())


@pytest.fixture
def header() -> Run:
    return new_run(
        task="topics",
        shortlister="scripted:small",
        selector="scripted:small",
        prompts={"shortlist": "1"},
        catalogue="c",
        labels=8,
        embedder="static",
        budget=Budget(turns=1),
    )


def steps_of(run: Run, document: str, size: int = 3) -> list[Transition]:
    """A document's whole set of steps."""
    gotos = ["shortlist"] * (size - 1) + ["finish"]
    fields = {"run": run.run, "document": document, "phase": "search", "node": "read"}
    return [Transition(**fields, step=step, goto=goto, text="t" * 5_000) for step, goto in enumerate(gotos)]


def test_the_file_alone_holds_every_prompt_exactly_as_it_was_sent(
    model: ChatModel, index: LabelIndex, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    graph = build_graph(model, model, index, budget=Budget(turns=3), log=log)
    results = [graph.invoke({"document": document})["result"] for document in DOCUMENTS]

    assert not model.chat.queue  # the whole script was played
    assert list(logged_prompts(log)) == model.chat.prompts
    kinds = [result.failure and result.failure.kind for result in results]
    assert kinds == [None, "invalid_output", "empty_document", "engine", None]


def test_the_options_of_every_call_are_in_the_log(model: ChatModel, index: LabelIndex, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    graph = build_graph(model, model, index, budget=Budget(turns=3), log=log)
    graph.invoke({"document": DOCUMENTS[0]})
    steps = [step for step in read_log(log).steps["news"] if step.exchange]
    logged = [step.exchange.options for step in steps for _ in step.exchange.prompts]
    for options in logged:
        options.pop("thinking", None)  # each engine is told in its own words, this one in none
    sent = [{key: options[key] for key in logged[i]} for i, options in enumerate(model.chat.options)]
    assert logged == sent


def rebuilt(run: Run, steps: list[Transition], known: set[str], *, large: bool) -> Iterator[list[Message]]:
    """Write the prompts of a document anew, from what the log says went in and was found.

    `known` are the labels that documents before it have asked about without a document; it gets this one's.
    """
    labels = {label.id: label for label in LABELS}
    text = steps[0].text or ""
    opening = found_text([found.name for found in steps[0].searches[0].found[:SHOWN]])
    limit = min(SEARCHES_A_TURN, run.budget.searches)
    messages = search_prompt(text, run.task, opening, limit, native=large)
    candidates: dict[str, Candidate] = {}
    for step in steps:
        for search in step.searches:
            hits = [Hit(labels[found.id], found.score) for found in search.found]
            candidates = merge(candidates, found_by(search.source, search.query, hits))
        if step.node == "shortlist":
            yield messages
            messages = [*messages, answer_of(step)]
        elif step.node == "search":
            messages = [*messages, *results_of(step, messages[-1])]
    best = shortlist(candidates, run.budget.candidates)
    asked = [described(candidate.label) for candidate in best]
    if large:
        yield listwise_prompt(text, run.task, asked)
        return
    yield from questions(pointwise_prompt(text, run.task), asked)
    yield from questions(pointwise_prompt("", run.task), [label for label in asked if label not in known])
    known.update(asked)


def questions(prefix: list[Message], labels: Sequence[str]) -> Iterator[list[Message]]:
    *head, last = prefix
    for label in labels:
        yield [*head, {**last, "content": last["content"] + label}]


def answer_of(step: Transition) -> dict[str, Any]:
    reply = step.exchange.replies[0]
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.tool_calls:
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["args"])}}
            for c in reply.tool_calls
        ]
    return message


def results_of(step: Transition, asked: dict[str, Any]) -> list[dict[str, Any]]:
    texts = [found_text([found.name for found in search.found]) for search in step.searches]
    if "tool_calls" not in asked:
        lines = [f"{search.query}: {text}" for search, text in zip(step.searches, texts, strict=True)]
        return [{"role": "user", "content": "\n".join(lines)}]
    ids = [call["id"] for call in asked["tool_calls"]]
    return [{"role": "tool", "tool_call_id": id_, "content": text} for id_, text in zip(ids, texts, strict=True)]


@pytest.mark.parametrize("kind", ["small", "large"])
def test_the_prompts_follow_from_the_header_the_text_and_what_the_searches_found(
    kind: str, small: Make, large: Make, index: LabelIndex, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    two_turns = {
        "small": lambda: small(searches("mortgages", "votes"), searches("inflation"), *[YES] * 12, searches(done=True)),
        "large": lambda: large(calls("mortgages", "votes"), calls("inflation"), chosen(2), AIMessage(""), chosen(1)),
    }
    model = two_turns[kind]()
    budget = Budget(turns=2, candidates=6, document=30)
    graph = build_graph(model, model, index, task="topics of news", budget=budget, log=log)
    for document in (DOCUMENTS[0], DOCUMENTS[1]):
        graph.invoke({"document": document})

    [run], logged, known = read_log(log).runs, read_log(log).steps, set[str]()
    assert logged["news"][0].text == NEWS[:30]
    prompts = [p for steps in logged.values() for p in rebuilt(run, steps, known, large=kind == "large")]
    assert [openai(prompt) for prompt in prompts] == model.chat.prompts
    if kind == "small":  # the second document brings labels of its own, and asks about no other's baseline again
        baselines = [steps[-1].exchange.baseline_questions for steps in logged.values()]
        assert len(baselines[0]) == 6
        assert 0 < len(baselines[1]) < 6
        assert sorted(baselines[0] + baselines[1]) == sorted(known)


def test_what_the_steps_added_is_the_candidates_in_the_order_found(
    small: Make, index: LabelIndex, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    model = small(searches("tennis", "public health", done=True))
    graph = build_graph(model, model, index, budget=Budget(turns=1), log=log)
    result = graph.invoke({"document": DOCUMENTS[0]})["result"]
    steps = read_log(log).steps["news"]
    added = [label for step in steps for label in step.added]
    assert len(added) == len(set(added))
    assert set(added) == {entry.id for entry in result.shortlist}
    assert steps[0].added == [found.id for found in steps[0].searches[0].found]
    assert (steps[0].searches[0].query, steps[0].searches[0].limit) == ("", LabelSource.limit)


def test_every_transition_comes_back_from_the_file_as_it_went_in(
    model: ChatModel, index: LabelIndex, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    graph = build_graph(model, model, index, budget=Budget(turns=3), log=log)
    states = {document.id: graph.invoke({"document": document}) for document in DOCUMENTS}
    assert read_log(log).steps == {id_: state["transitions"] for id_, state in states.items()}
    for steps in read_log(log).steps.values():
        assert [step.step for step in steps] == list(range(len(steps)))
        assert [step.goto for step in steps] == [*(step.node for step in steps[1:]), "finish"]


def test_a_result_is_what_its_transitions_say(small: Make, index: LabelIndex, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    model = small(searches("inflation", done=True), otherwise=likes("Inflation"))
    graph = build_graph(model, model, index, budget=Budget(turns=1), log=log)
    result = graph.invoke({"document": DOCUMENTS[0]})["result"]
    steps = read_log(log).steps["news"]
    assert steps[-1].selection.labels == result.labels != []
    spent = sum((step.usage for step in steps), Usage())
    assert spent.prompt_tokens == sum(usage.prompt_tokens for usage in result.usage.values()) == 100 * (1 + 8 + 8)
    assert [(step.model, step.prompt is None) for step in steps if step.exchange is None] == [(None, True)] * 2


def test_a_torn_tail_is_cut_and_its_document_counts_as_never_run(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TransitionLog(path).begin(header)
    log.write(steps_of(header, "whole"))
    log.write(steps_of(header, "torn"))
    path.write_bytes(path.read_bytes()[:-100])
    assert list(read_log(path).steps) == ["whole"]  # its first two lines are there, but not its last

    again = TransitionLog(path).begin(header)
    again.write(steps_of(header, "torn"))
    assert list(read_log(path).steps) == ["whole", "torn"]
    assert len(read_log(path).runs) == 2


def test_of_a_document_run_again_the_last_whole_set_counts(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first, second, third = (header.model_copy(update={"run": name}) for name in ("first", "second", "third"))
    TransitionLog(path).begin(first).write(steps_of(first, "a")[:2])  # cut
    TransitionLog(path).begin(second).write(steps_of(second, "a"))
    assert [step.run for step in read_log(path).steps["a"]] == ["second"] * 3
    TransitionLog(path).begin(third).write(steps_of(third, "a")[:2])  # cut again: what is whole still counts
    assert [step.run for step in read_log(path).steps["a"]] == ["second"] * 3
    log = TransitionLog(path).begin(third)
    log.write(steps_of(third, "a", size=4))
    log.write(steps_of(third, "b")[1:])  # without its beginning
    assert {name: len(steps) for name, steps in read_log(path).steps.items()} == {"a": 4}


def test_a_run_that_differs_is_not_appended(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    TransitionLog(path).begin(header)
    before = path.read_bytes()
    others = {"task": "other", "selector": "openai:x", "catalogue": "d", "budget": Budget(turns=2), "prompts": {}}
    for field, value in others.items():
        with pytest.raises(
            UserError, match=rf"log\.jsonl: the run .* differs from this one in {field} \(.*, now .*\); choose"
        ):
            TransitionLog(path).begin(header.model_copy(update={field: value}))
    assert path.read_bytes() == before
    TransitionLog(path, force=True).begin(header.model_copy(update=others))


def test_the_graph_refuses_another_models_log(small: Make, large: Make, index: LabelIndex, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    build_graph(small(), small(), index, log=log)
    build_graph(small(), small(), index, log=log)  # the same run goes on
    with pytest.raises(UserError, match=r"differs from this one in selector \(.*\), prompts \("):
        build_graph(small(), large(), index, log=log)


def test_a_file_that_is_no_log_stays_as_it_is(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text('{"id": "1", "text": "mine"}\n{"id": "2", "text": "no newline at the end"}')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"documents\.jsonl:1: not a"):
        TransitionLog(path).begin(header)
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_is_the_users_fault_at_the_start(header: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the transitions log here: File exists"):
        TransitionLog(tmp_path / "file" / "log.jsonl").begin(header)
    with pytest.raises(UserError, match="Is a directory"):
        TransitionLog(tmp_path).begin(header)


def test_a_log_that_can_no_longer_be_written_is_one_clear_error(header: Run, tmp_path: Path) -> None:
    log = TransitionLog(tmp_path / "logs" / "log.jsonl").begin(header)
    (tmp_path / "logs").rename(tmp_path / "moved")
    with pytest.raises(CtdError, match="the transitions log cannot be written: No such file"):
        log.write(steps_of(header, "a"))


def test_a_broken_line_is_named(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TransitionLog(path).begin(header)
    with path.open("a") as file:
        file.write('{"record": "transition", "invented": 1}\n')
    log.write(steps_of(header, "a"))
    with pytest.raises(UserError, match=r"log\.jsonl:2: not a"):
        read_log(path)


def test_documents_written_from_many_threads_do_not_interleave(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TransitionLog(path).begin(header)
    names = [str(number) for number in range(16)]
    threads = [threading.Thread(target=log.write, args=(steps_of(header, name, size=20),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    order = [line["document"] for line in lines]
    assert order == [name for name in dict.fromkeys(order) for _ in range(20)]
    assert {name: len(steps) for name, steps in read_log(path).steps.items()} == dict.fromkeys(order, 20)
    assert set(order) == set(names)


def test_processes_may_share_a_log_and_one_that_dies_within_a_line_harms_no_other(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = TransitionLog(path).begin(header)
    script = (
        "import sys\nfrom pathlib import Path\nfrom ctd_agent.graphs.transitions import *\n"
        "run = Run.model_validate_json(sys.argv[2])\n"
        "log = TransitionLog(Path(sys.argv[1])).begin(run)\n"
        "step = dict(run=run.run, phase='search', node='read', step=0, goto='finish', text='t' * 50_000)\n"
        "for number in range(100_000):\n    log.write([Transition(document=f'theirs-{number}', **step)])\n"
    )
    other = header.model_copy(update={"run": "other"}).model_dump_json()
    with subprocess.Popen([sys.executable, "-c", script, str(path), other]) as process:
        while "theirs-10" not in read_log(path).steps:
            assert process.poll() is None
            time.sleep(0.01)
        for number in range(50):
            log.write(steps_of(header, f"before-{number}"))
        process.kill()
    with path.open("ab") as file:  # as it dies that is killed within a write; seldom seen, so here for certain
        file.write(b'{"record":"transition","run":"other","docu')
    for number in range(3):
        log.write(steps_of(header, f"after-{number}"))
    steps = read_log(path).steps
    assert {f"before-{number}" for number in range(50)} | {f"after-{number}" for number in range(3)} <= steps.keys()
    assert [run.run for run in read_log(path).runs] == [header.run, "other"]


@pytest.mark.parametrize(
    "garbage", [b'{"record": "transi\n', b"\xff\xfe\n", b"[1]\n", b'{"record": "no reader takes this"}\n']
)
def test_a_broken_line_in_the_middle_of_a_log_is_told_before_anything_is_labelled(
    header: Run, tmp_path: Path, garbage: bytes
) -> None:
    path = tmp_path / "log.jsonl"
    TransitionLog(path).begin(header).write(steps_of(header, "a"))
    whole = path.read_bytes()
    path.write_bytes(whole + garbage + whole)
    with pytest.raises(UserError, match=r"log\.jsonl:5: not a step of a run; take the line out, or give another log"):
        TransitionLog(path)


@pytest.mark.parametrize("mine", ["{", '{"name": "mine", "list": [1, ', '{"id": "a", "text": "all of my work'])
def test_a_one_line_file_that_is_no_log_is_never_emptied(header: Run, tmp_path: Path, mine: str) -> None:
    path = tmp_path / "mine"
    path.write_text(mine)
    with pytest.raises(UserError, match="mine: its last line is broken and not one of ours; give another file"):
        TransitionLog(path)
    assert path.read_text() == mine


def test_a_log_cut_within_its_first_header_goes_on(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(header.model_dump_json().encode()[:-9])
    TransitionLog(path).begin(header).write(steps_of(header, "a"))
    assert list(read_log(path).steps) == ["a"]


def test_only_its_owner_can_read_a_log_and_the_folder_made_for_it(header: Run, tmp_path: Path) -> None:
    path = tmp_path / "runs" / "log.jsonl"
    TransitionLog(path).begin(header)
    assert [oct(file.stat().st_mode & 0o777) for file in (path, path.parent)] == ["0o600", "0o700"]


def test_a_prompt_with_questions_is_its_prefix_and_each_question(header: Run) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "Label: "}]
    exchange = Exchange(messages=messages, questions=["A", "B"], replies=[Reply(content="yes")])
    assert [prompt[-1]["content"] for prompt in exchange.prompts] == ["Label: A", "Label: B"]
    assert all(prompt[0] == messages[0] for prompt in exchange.prompts)


def test_the_baselines_prompts_come_behind_the_documents(header: Run) -> None:
    exchange = Exchange(
        messages=[{"role": "user", "content": "Document: "}],
        questions=["A", "B"],
        baseline=[{"role": "user", "content": "None: "}],
        baseline_questions=["B"],
    )
    assert [prompt[-1]["content"] for prompt in exchange.prompts] == ["Document: A", "Document: B", "None: B"]
