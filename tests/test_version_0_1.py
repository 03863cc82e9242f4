"""Files that version 0.1 made open today, or say in one line what to do."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from ctd_agent.agents.engines.student import read_student
from ctd_agent.agents.manner import Manner
from ctd_agent.cli import run
from ctd_agent.distill.training.plan import read_card
from ctd_agent.errors import UserError
from ctd_agent.graphs.logged import read_log
from ctd_agent.graphs.replay import Memory
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

FILES = Path(__file__).parent / "version_0_1"
RUNS = ("pointwise", "listwise")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FILES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")


def test_its_index_is_searched() -> None:
    with tarfile.open("index.tar.gz") as archive:
        archive.extractall(filter="data")
    index = LabelIndex.open("index")
    assert len(list(index.labels())) == 57
    assert index.search("mail transport agent", 1)[0].label.id == "mail::transport-agent"


@pytest.mark.parametrize("name", RUNS)
def test_its_results_name_their_sources(name: str) -> None:
    results = list(read_records(Path(f"{name}.jsonl"), LabeledDocument))
    findings = [finding for result in results for entry in result.shortlist for finding in entry.found_by]
    assert {finding.source for finding in findings} == {"labels", "model"}
    assert all(bool(finding.query) == (finding.source == "model") for finding in findings)


@pytest.mark.parametrize("name", RUNS)
def test_its_run_is_scored_with_its_log(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", f"{name}.jsonl", "--gold", "gold.jsonl"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["documents"] == 3
    assert told.err == ""


@pytest.mark.parametrize("name", RUNS)
def test_its_run_is_reported(name: str) -> None:
    assert run(["report", f"{name}.jsonl", "--gold", "gold.jsonl", "--out", "page.html"]) == 0
    assert "SMTP" in Path("page.html").read_text()


def test_its_log_is_answered_from() -> None:
    memory = Memory.of([Path("pointwise.jsonl.transitions.jsonl")])
    log = read_log(Path("pointwise.jsonl.transitions.jsonl"))
    exchange = next(step.exchange for step in log.steps["msmtp-mta"] if step.node == "select")
    assert exchange
    assert memory.reply("local", exchange.prompts[0], exchange.options) == exchange.replies[0]
    assert (log.runs[0].budget.turns, log.runs[0].budget.candidates) == (1, 8)


@pytest.mark.parametrize("name", RUNS)
def test_its_log_does_not_say_what_was_shown_so_no_corpus_is_made_of_it(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["distill", "corpus", f"{name}.jsonl.transitions.jsonl", "--out", "new"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did not keep what the selector was shown; label the documents again" in line
    assert not Path("new").exists()


def test_its_corpus_has_a_card() -> None:
    card = read_card(Path("corpus"))
    assert card.manner == Manner(native_tools=False, reasons=True, names=True, candidates=8)
    assert card.credit


@pytest.mark.parametrize("form", ["{}", "3", "null"])
def test_a_damaged_card_is_told_on_one_line(form: str) -> None:
    card = json.loads(Path("corpus/card.json").read_text()) | {"form": json.loads(form)}
    Path("corpus/card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="not a corpus's card"):
        read_card(Path("corpus"))


def test_its_students_have_cards() -> None:
    writer, selector = read_student(Path("students/writer")), read_student(Path("students/selector"))
    assert writer
    assert selector
    assert (writer.kind, selector.kind, selector.threshold) == ("language-model", "bi-encoder", 0.31)
    assert writer.manner == Manner(native_tools=False, reasons=True, names=True, candidates=8)
    assert selector.manner == Manner(native_tools=False, reasons=False)
