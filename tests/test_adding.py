"""Adding a source, a way of selecting, an engine or an export format: a module of one's own and one registration."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, NEWS, ScriptedModel, build_index, chosen

from ctd_agent.agents.engines import ENGINES, ChatModel, Engine
from ctd_agent.agents.selecting import SELECTING, Selector
from ctd_agent.agents.selecting.selector import Within, above
from ctd_agent.cli import run
from ctd_agent.distill.corpus import formats
from ctd_agent.graphs.job import Job
from ctd_agent.records import read_records
from ctd_agent.schema import MODEL, Candidate, Document, Exchange, Label, LabeledDocument, Selection
from ctd_agent.tools.label_index import Hit
from ctd_agent.tools.label_search import Searchable
from ctd_agent.tools.sources import SOURCES

TENNIS = Label(id="tennis", name="Tennis")


class Hunch:
    """A source that has the same hunch about every document."""

    limit = 1

    def __init__(self, index: Searchable) -> None:
        self.index = index

    def find(self, text: str) -> list[Hit]:
        return [Hit(TENNIS, 0.5)]


class FirstOnly(Selector):
    """A way of selecting that asks no model: the first of the shortlist."""

    prompt = "first-1"

    def ask(self, text: str, shortlist: Sequence[Candidate], shown: Sequence[str], within: Within) -> Exchange:
        return self.model.ask(Exchange(messages=[{"role": "user", "content": shown[0]}]), within)

    def read(self, exchange: Exchange, shortlist: Sequence[Candidate]) -> Selection:
        return above({shortlist[0].label.id: 1.0}, 0.5, shortlist)


def load_parrot(spec: str, name: str) -> ChatModel:
    """An engine whose model chooses the first two, by the name that it was given."""
    answer = chosen(1, 2)
    return ChatModel(spec, ScriptedModel(otherwise=lambda *_: answer), searches=False)


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LabeledDocument]:
    """Label NEWS by the command, over a small index; the log lies in run.jsonl.transitions.jsonl."""
    monkeypatch.chdir(tmp_path)
    build_index(LABELS, Path("index"))
    Path("documents.jsonl").write_text(json.dumps({"id": "1", "text": NEWS}) + "\n")

    def labelled(*options: str) -> LabeledDocument:
        command = ["label", "documents.jsonl", "--index", "index", "--model", "parrot:green", "-o", "run.jsonl"]
        assert run([*command, *options]) == 0
        (result,) = read_records(Path("run.jsonl"), LabeledDocument)
        return result

    return labelled


@pytest.fixture(autouse=True)
def parrot() -> Iterator[None]:
    ENGINES.append(Engine("parrot:NAME", "chooses the first two", load_parrot))
    yield
    ENGINES.pop()


def test_an_engine_is_a_function_and_a_row_of_the_table(
    label: Callable[..., LabeledDocument], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [chosen.rank for chosen in label().labels] == [1, 2]
    capsys.readouterr()
    assert run(["models"]) == 0
    assert json.loads(capsys.readouterr().out)["specs"]["parrot:NAME"] == "chooses the first two"
    assert run(["label", "--text", "x", "--index", "index", "--model", "parrot:"]) == 2
    assert "parrot:: name a model behind it" in capsys.readouterr().err


def test_a_source_is_a_class_and_a_row_of_the_table(
    label: Callable[..., LabeledDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "hunch", Hunch)
    (tennis,) = [entry for entry in label("--candidates", "3").shortlist if entry.id == "tennis"]
    assert "hunch" in [finding.source for finding in tennis.found_by]


def test_no_source_has_the_name_of_the_model_s_own_searches() -> None:
    assert MODEL not in SOURCES


def test_a_way_of_selecting_is_a_class_and_a_row_of_the_table(
    label: Callable[..., LabeledDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SELECTING, "first", FirstOnly)
    result = label("--selecting", "first")
    assert [chosen.id for chosen in result.labels] == [result.shortlist[0].id]


def test_an_export_format_is_a_function_and_a_row_of_the_table(
    label: Callable[..., LabeledDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(conversation: Any) -> dict[str, Any]:
        return {"lines": [message["content"] for message in conversation.messages]}

    monkeypatch.setitem(formats.FORMATS, "lines", formats.TrainerFormat(lines, "A list of lines."))
    label()
    assert run(["distill", "corpus", "run.jsonl.transitions.jsonl", "--out", "corpus", "--format", "lines"]) == 0
    (row,) = map(json.loads, Path("corpus/select/train.jsonl").read_text().splitlines())
    assert NEWS in row["lines"][1]
    assert "Format `lines`: A list of lines." in Path("corpus/README.md").read_text()


def test_python_names_them_in_a_job(label: Callable[..., LabeledDocument], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTING, "first", FirstOnly)
    job = Job(index="index", shortlister="parrot:a", selector="parrot:b", selecting="first")
    (result,) = job.open().label([Document(id="1", text=NEWS)])
    assert (result.failure, len(result.labels)) == (None, 1)
