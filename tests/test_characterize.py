"""The phases taken apart: every arm is a run of the graph, and no prompt is asked twice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ScriptedModel, chosen, label_asked, likes, searches
from server import Server

from ctd_agent.agents.engines import ChatModel, EngineError
from ctd_agent.agents.manner import Manner
from ctd_agent.cli import run as cli
from ctd_agent.errors import UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.replay import Memory, ReplayedModel
from ctd_agent.measure.characterize.analysis import analyse
from ctd_agent.measure.characterize.record import Characterization
from ctd_agent.measure.characterize.study import (
    NEAR_ALONE,
    NO_DESCRIPTIONS,
    NO_DOCUMENT,
    NO_REASONING,
    NO_SEARCHES,
    ORACLE,
    SHUFFLED,
    WHOLE,
    Study,
    run,
)
from ctd_agent.records import read_records
from ctd_agent.schema import Document, Exchange, Gold, LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

pytest_plugins = ["servers"]

DOCUMENTS = [
    Document(id="one", text="The central bank raised interest rates; inflation and consumer prices fell"),
    Document(id="two", text="Football clubs and players, and a tennis match"),
]
GOLD = {
    "one": Gold(frozenset({"rates", "inflation", "housing"})),
    "two": Gold(frozenset({"football"}), filtered=frozenset({"tennis"})),
}
Make = Callable[..., ChatModel]


def finance(*names: str, query: str = "mortgages") -> Callable[[Any, Any], Any]:
    """A small model that searches for one thing and says yes to these labels."""
    decide = likes(*names)
    return lambda prompt, options: (
        searches(query, done=True) if "response_format" in options else decide(prompt, options)
    )


def study(index: LabelIndex, model: ChatModel, **changed: Any) -> Study:
    budget = Budget(turns=1, candidates=3)
    return Study(index, [model], [model], **{"task": "topics", "budget": budget, **changed})


def asked(model: ChatModel) -> list[str]:
    assert isinstance(model.chat, ScriptedModel)
    return [
        json.dumps([prompt, options]) for prompt, options in zip(model.chat.prompts, model.chat.options, strict=True)
    ]


def results(out: Path, name: str) -> dict[str, LabeledDocument]:
    return {result.id: result for result in read_records(out / f"{name}.jsonl", LabeledDocument)}


@pytest.fixture
def model(small: Make) -> ChatModel:
    return small(otherwise=finance("Interest rates", "Football", "Housing market"))


@pytest.fixture
def done(index: LabelIndex, model: ChatModel, tmp_path: Path) -> tuple[Study, Path]:
    """A study of both documents, run."""
    made = study(index, model)
    run(made, DOCUMENTS, GOLD, tmp_path, memory=Memory())
    return made, tmp_path


def test_every_arm_is_a_run_with_its_results_and_its_log(done: tuple[Study, Path]):
    made, out = done
    names = {arm.name for arm in made.arms}
    assert {WHOLE, NO_DOCUMENT, NO_SEARCHES, NO_DESCRIPTIONS, SHUFFLED, ORACLE, NEAR_ALONE} < names
    for arm in made.arms:
        assert [result.id for result in read_records(out / arm.file, LabeledDocument)] == ["one", "two"]
        assert (out / f"{arm.file}.transitions.jsonl").exists()


def test_a_model_is_asked_nothing_twice_neither_in_a_study_nor_by_the_next(
    done: tuple[Study, Path], index: LabelIndex, model: ChatModel, tmp_path_factory: pytest.TempPathFactory
):
    made, out = done
    first = asked(model)
    assert len(first) == len(set(first))
    again = tmp_path_factory.mktemp("again")
    run(study(index, model), DOCUMENTS, GOLD, again, memory=Memory.of(sorted(out.glob("*.transitions.jsonl"))))
    assert asked(model) == first
    assert analyse(made, GOLD, again) == analyse(made, GOLD, out)


def test_a_study_that_was_cut_goes_on_where_it_was(index: LabelIndex, model: ChatModel, tmp_path: Path):
    run(study(index, model), DOCUMENTS[:1], GOLD, tmp_path, memory=Memory())
    before = (tmp_path / "whole.jsonl").read_text()
    (tmp_path / "no-descriptions.jsonl").write_text("")
    run(study(index, model), DOCUMENTS, GOLD, tmp_path, memory=Memory.of(tmp_path.glob("*.transitions.jsonl")))
    assert (tmp_path / "whole.jsonl").read_text().startswith(before)
    assert [one.id for one in read_records(tmp_path / "no-descriptions.jsonl", LabeledDocument)] == ["one", "two"]
    assert len(asked(model)) == len(set(asked(model)))


def test_each_arm_differs_from_the_whole_graph_in_what_it_says(done: tuple[Study, Path]):
    _, out = done
    whole, bare = results(out, "whole")["one"], results(out, "no-model-searches")["one"]
    assert {finding.source for entry in bare.shortlist for finding in entry.found_by} == {"labels"}
    assert {finding.source for entry in whole.shortlist for finding in entry.found_by} == {"labels", "model"}
    without = results(out, "no-document-search")["one"]
    assert {finding.query for entry in without.shortlist for finding in entry.found_by} == {"mortgages"}
    shuffled = results(out, "shuffled-shortlist")["one"]
    assert {entry.id for entry in shuffled.shortlist} == {entry.id for entry in whole.shortlist}
    given = results(out, "gold-added")["one"]
    assert {entry.id for entry in given.shortlist} == GOLD["one"].labels
    alone = results(out, "near-misses-alone")["one"]
    assert not GOLD["one"].labels & {entry.id for entry in alone.shortlist}
    prompts = (out / "no-descriptions.jsonl.transitions.jsonl").read_text()
    assert "Decisions of central banks" not in prompts


def test_the_figures_of_a_characterization(done: tuple[Study, Path]):
    made, out = done
    found = analyse(made, GOLD, out)
    assert (found.documents, found.labels, found.candidates) == (2, 8, 3)
    whole = found.ablations[0]
    assert whole.name == WHOLE
    assert all(difference == (0, 0, 0) for difference in whole.differences.values())
    # Of three right labels one is chosen for `one`, one is not, and one was cut; the only one for `two` is.
    assert whole.metrics["precision"].mean == 1
    assert whole.metrics["recall"].mean == pytest.approx((1 / 3 + 1) / 2)
    assert whole.metrics["F1"].mean == pytest.approx((2 / 4 + 1) / 2)
    errors = {one.name: one for one in found.errors}
    assert [(one.document, one.label) for one in errors["shortlisted and not chosen"].examples] == [
        ("one", "inflation")
    ]
    assert [(one.document, one.label) for one in errors["retrieved and cut"].examples] == [("one", "housing")]
    assert errors["shortlisted and not chosen"].share == 1 / 4
    assert errors["wrongly chosen"].count == 0
    recalls = [point.recall.mean for point in found.recall_by_searches]
    assert len(recalls) == 2
    assert recalls == sorted(recalls)


def test_what_the_phases_contribute_adds_up_to_the_gain(done: tuple[Study, Path]):
    made, out = done
    swap = analyse(made, GOLD, out).swap
    assert swap.shortlisters == ["hybrid", "bm25", "dense", WHOLE]
    assert swap.selectors == ["retrieval's order", "scripted:small"]
    assert swap.shares["shortlist"].mean + swap.shares["select"].mean == pytest.approx(swap.gain.mean)
    assert swap.gain.mean == pytest.approx(swap.values[3][1].mean - swap.values[0][0].mean)


def test_confusion_falls_where_a_selector_puts_a_right_label_before_its_near_miss(
    index: LabelIndex, small: Make, tmp_path: Path
):
    document = Document(id="d", text="banks, commercial banks: the interest rates of banks")
    gold = {"d": Gold(frozenset({"rates"}))}
    made = study(index, small(otherwise=finance("Interest rates")), budget=Budget(turns=1, candidates=8))
    run(made, [document], gold, tmp_path, memory=Memory())
    first, *_, last = analyse(made, gold, tmp_path).steps
    assert first.confusion is not None
    assert last.confusion is not None
    assert first.confusion.mean > last.confusion.mean == 0


def test_a_listwise_selector_is_asked_without_reasoning_too(index: LabelIndex, large: Make, tmp_path: Path):
    def answer(prompt: Any, options: Any) -> Any:
        return chosen(1) if "response_format" in options else ""  # no tool calls: it has nothing to search for

    model = large(otherwise=answer)
    made = study(index, model)
    run(made, DOCUMENTS, GOLD, tmp_path, memory=Memory())
    schemas = [options["response_format"] for options in model.chat.options if "response_format" in options]
    assert {"reasoning" in schema["json_schema"]["schema"]["properties"] for schema in schemas} == {True, False}
    assert NO_REASONING in [one.name for one in analyse(made, GOLD, tmp_path).ablations]


def test_a_second_selector_is_swapped_in(index: LabelIndex, small: Make, tmp_path: Path):
    other = ChatModel(
        "scripted:other",
        ScriptedModel(otherwise=finance("Inflation")),
        Manner(native_tools=False),
        searches=False,
        selects="pointwise",
    )
    first = small(otherwise=finance("Football"))
    made = Study(index, [first], [first, other], task="topics", budget=Budget(turns=1, candidates=2))
    run(made, DOCUMENTS, GOLD, tmp_path, memory=Memory())
    swap = analyse(made, GOLD, tmp_path).swap
    assert swap.selectors == ["retrieval's order", "scripted:small", "scripted:other"]
    assert [len(row) for row in swap.values] == [3, 3, 3, 3]


def test_an_engine_that_fails_is_tried_again_with_all_that_builds_on_it(index: LabelIndex, small: Make, tmp_path: Path):
    broken = small(otherwise=lambda *_: RuntimeError("down"))
    run(study(index, broken), DOCUMENTS, GOLD, tmp_path, memory=Memory())
    assert {result.failure.kind for result in results(tmp_path, "whole").values() if result.failure} == {"engine"}
    assert not results(tmp_path, "gold-added")
    with pytest.raises(UserError, match="no document with right labels is done in every run"):
        analyse(study(index, broken), GOLD, tmp_path)
    run(study(index, small(otherwise=finance("Football"))), DOCUMENTS, GOLD, tmp_path, memory=Memory())
    assert not any(result.failure for result in results(tmp_path, "gold-added").values())


def test_a_memory_does_not_answer_what_was_asked_otherwise(small: Make):
    model = small(otherwise=lambda prompt, options: f"{label_asked(prompt)} {options['max_tokens']}")
    replayed = ReplayedModel.over(model, memory := Memory())
    prompts = [{"role": "user", "content": text} for text in ("a", "b", "a")]
    answers = [replayed.ask(Exchange(messages=[one], options={"max_tokens": 1})).replies[0].content for one in prompts]
    answers.append(replayed.ask(Exchange(messages=prompts[:1], options={"max_tokens": 2})).replies[0].content)
    assert answers == ["a 1", "b 1", "a 1", "a 2"]
    assert (memory.asked, memory.replayed) == (3, 1)


def test_an_engine_that_fails_midway_keeps_what_it_had_answered(small: Make):
    replayed = ReplayedModel.over(small("first", RuntimeError("down")), Memory())
    asked_of = Exchange(messages=[{"role": "user", "content": "Is it "}], questions=["a?", "b?"])
    with pytest.raises(EngineError, match="down") as error:
        replayed.ask(asked_of)
    assert [reply.content for reply in error.value.exchange.replies] == ["first"]


def test_a_characterization_reads_back_as_it_was_written(done: tuple[Study, Path]):
    made, out = done
    found = analyse(made, GOLD, out)
    assert Characterization.model_validate_json(found.model_dump_json()) == found
    assert all(isinstance(line, str) and line.endswith(".") for line in found.findings)


# The command


@pytest.fixture
def server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A model at a URL, and a folder with a catalogue and two documents that have their right labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    Path("labels.txt").write_text("Tennis\nFootball\nInterest rates\n")
    rows = [
        {"id": "a", "text": "Serve and volley on grass, as in tennis", "labels": ["Tennis"]},
        {"id": "b", "text": "The central bank raises interest rates", "labels": ["Interest rates"]},
    ]
    Path("documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return server


def characterizing(server: Server, *more: str) -> list[str]:
    given = ["characterize", "documents.jsonl", "--labels", "labels.txt", "--embedder", "static", "--out", "study"]
    return [*given, "--model", server.spec, *more]


def test_one_command_writes_the_runs_and_the_figures_and_says_what_was_found(
    server: Server, capfd: pytest.CaptureFixture[str]
):
    assert cli(characterizing(server)) == 0
    said = capfd.readouterr()
    found = Characterization.model_validate_json(Path("study/characterization.json").read_text())
    assert Characterization.model_validate_json(said.out) == found
    assert found.documents == 2
    assert "documents through all runs: 2/2" in said.err
    asked_first = len(server.requests)
    assert f"{asked_first} prompts were asked" in said.err
    assert cli(characterizing(server)) == 0
    assert len(server.requests) == asked_first, "the same command has nothing left to ask"


def test_documents_without_right_labels_are_refused(server: Server, capfd: pytest.CaptureFixture[str]):
    Path("documents.jsonl").write_text('{"id": "a", "text": "x", "labels": []}\n')
    assert cli(characterizing(server)) == 2
    assert "documents.jsonl: no right labels for document 'a' (1 such in all)" in capfd.readouterr().err
    Path("documents.jsonl").write_text('{"id": "a", "text": "x"}\n')
    assert cli(characterizing(server)) == 2
    assert "no column 'labels'" in capfd.readouterr().err


def test_a_folder_that_holds_another_study_is_refused(server: Server, capfd: pytest.CaptureFixture[str]):
    assert cli(characterizing(server)) == 0
    assert cli(characterizing(server, "--task", "sports")) == 2
    assert "differs from this one in task" in capfd.readouterr().err
