"""Encoder students in the graph: what they are asked, what they choose, which phase is theirs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import LABELS, ScriptedModel
from test_language_models import TASK

from ctd_agent.agents.engines import ChatModel, load_model
from ctd_agent.agents.engines import encoder as encoders
from ctd_agent.agents.engines.encoder import Encoder
from ctd_agent.agents.engines.student import Student, write_student
from ctd_agent.agents.prompts import described
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selecting import load_selector
from ctd_agent.errors import UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.schema import Document, Label, LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

CARD = Student(
    kind="cross-encoder", base="minilm", target="select", teachers=["local"], task=TASK, catalogue="c", seed=0
)


def encoder(folder: Path, **card: Any) -> Encoder:
    """A student's folder, and the student as the graph holds it."""
    folder.mkdir()
    write_student(folder, CARD.model_copy(update=card))
    return Encoder(f"encoder:{folder}", CARD.model_copy(update=card), folder)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Log-odds of labels by the beginning of their text, in the place of an encoder's weights; -5 for others."""
    odds: dict[str, float] = {}

    def score(_: str, labels: list[str]) -> tuple[list[float], int]:
        return [next((odds[name] for name in odds if label.startswith(name)), -5.0) for label in labels], 7

    monkeypatch.setattr(encoders, "_model", lambda *_: SimpleNamespace(score=score))
    return odds


def select(model: Encoder, index: LabelIndex, text: str) -> LabeledDocument:
    """Label a text with an encoder as the selector."""
    searcher = ChatModel("scripted:none", ScriptedModel())
    graph = build_graph(searcher, model, index, budget=Budget(turns=0, candidates=5))
    result: LabeledDocument = graph.invoke({"document": Document(id="d", text=text)})["result"]
    return result


# In the graph


def test_an_encoder_chooses_what_it_scores_above_its_threshold(
    tmp_path: Path, index: LabelIndex, scores: dict[str, float]
):
    scores |= {"Tennis": 4.0, "Football": 3.0, "Inflation": -1.0}
    result = select(encoder(tmp_path / "s", threshold=0.6), index, "tennis, football and inflation")
    assert [label.id for label in result.labels] == ["tennis", "football"]
    assert all(label.score > 0.6 for label in result.labels)
    assert (result.usage["select"].calls, result.usage["select"].prompt_tokens) == (1, 7)


def test_the_shortlists_order_decides_between_equals(tmp_path: Path, index: LabelIndex, scores: dict[str, float]):
    scores |= {label.name: 3.0 for label in LABELS}
    result = select(encoder(tmp_path / "s"), index, "tennis, football and inflation")
    assert [label.id for label in result.labels] == [entry.id for entry in result.shortlist]
    assert result.labels[0].score > result.labels[1].score


def test_a_step_of_an_encoder_is_logged_like_any_other(tmp_path: Path, index: LabelIndex, scores: dict[str, float]):
    scores["Tennis"] = 2.0
    model = encoder(tmp_path / "s")
    searcher = ChatModel("scripted:none", ScriptedModel())
    graph = build_graph(searcher, model, index, budget=Budget(turns=0, candidates=3), log=tmp_path / "log.jsonl")
    graph.invoke({"document": {"id": "d", "text": "tennis"}})
    step = read_log(tmp_path / "log.jsonl").steps["d"][-1]
    assert (step.model, step.prompt) == (model.spec, "scoring-1")
    assert step.exchange is not None
    assert step.exchange.messages == [{"role": "user", "content": "tennis"}]
    answers = dict(zip(step.exchange.questions, (reply.score for reply in step.exchange.replies), strict=True))
    assert answers["Tennis"] == 2.0


def test_a_student_reads_labels_as_it_was_taught_them(tmp_path: Path, scores: dict[str, float]):
    label = Label(id="t", name="Tennis", description="played with rackets, " * 9, aliases=["lawn tennis"])
    students = [encoder(tmp_path / target, kind="bi-encoder", target=target) for target in ("select", "shortlist")]
    shown = [load_selector(student, TASK, GREEDY).show(label) for student in students]
    assert shown == [described(label), label.text], "a corpus has candidates as they are shown; an index, whole labels"


@pytest.mark.parametrize(
    ("card", "budget", "said"),
    [
        ({"kind": "cross-encoder"}, Budget(turns=0), "trained to select; for phase 1 name one trained to shortlist"),
        ({"kind": "bi-encoder"}, Budget(turns=0), "trained to select; for phase 1 name one trained to shortlist"),
        (
            {"kind": "bi-encoder", "target": "shortlist"},
            Budget(turns=1),
            "an encoder makes no searches of its own; leave the turns at 0",
        ),
    ],
)
def test_an_encoder_is_refused_a_phase_that_is_not_its_own(
    tmp_path: Path, index: LabelIndex, card: dict[str, Any], budget: Budget, said: str
):
    model = encoder(tmp_path / "s", **card)
    with pytest.raises(UserError, match=said):
        build_graph(model, ChatModel("scripted:none", ScriptedModel()), index, budget=budget)


def test_a_folder_without_a_trained_encoder_is_an_error_that_says_where_one_is(tmp_path: Path):
    with pytest.raises(UserError, match=r"no trained encoder in this folder$"):
        load_model(f"encoder:{tmp_path}")
    (tmp_path / "student").mkdir()
    encoder(tmp_path / "student" / "selector")
    with pytest.raises(UserError, match=f"did you mean encoder:{tmp_path}/student/selector\\?"):
        load_model(f"encoder:{tmp_path}/student")


def test_a_students_card_that_is_none_is_an_error_that_names_the_field(tmp_path: Path):
    (tmp_path / "student.json").write_text('{"kind": "oracle"}')
    with pytest.raises(UserError, match=r"student\.json: not a student's card: field 'kind'"):
        load_model(f"encoder:{tmp_path}")
