"""`ctd-agent eval`: a run and right labels in, figures with intervals out."""

import json
import os
import pty
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctd_agent.cli import run as cli
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.logged import read_log
from ctd_agent.graphs.transitions import Run, Transition, TransitionLog, new_run
from ctd_agent.measure.evaluate import Evaluation, evaluate
from ctd_agent.measure.trace import Trace, read_traces, traces
from ctd_agent.schema import ChosenLabel, Exchange, Failure, Gold, LabeledDocument, Selection, ShortlistEntry, Usage

Told = Callable[..., tuple[int, str, str]]
COMMON: dict[str, Any] = {
    "task": "", "shortlister": "", "selector": "", "prompts": {}, "catalogue": "", "labels": 5, "embedder": "",
    "budget": Budget(),
}  # fmt: skip


def result(key: str, chosen: str = "", shortlist: str = "", **more: object) -> LabeledDocument:
    """A result: labels are letters."""
    labels = [ChosenLabel(id=one, name=one, rank=rank, score=0.9) for rank, one in enumerate(chosen, start=1)]
    entries = [ShortlistEntry(id=one, score=0.1, found_by=[]) for one in shortlist]
    usage = {"select": Usage(calls=1, prompt_tokens=100, cached_tokens=40, completion_tokens=5, seconds=0.5)}
    return LabeledDocument.model_validate({"id": key, "labels": labels, "shortlist": entries, "usage": usage} | more)


def write(path: str, *results: LabeledDocument) -> None:
    Path(path).write_text("".join(one.model_dump_json() + "\n" for one in results))


def write_gold(*rows: dict[str, object], path: str = "gold.jsonl") -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of three documents, one of which failed, and the right labels of four."""
    monkeypatch.chdir(tmp_path)
    failure = Failure(phase="select", kind="engine", message="down")
    write("run.jsonl", result("1", "ax", "axb"), result("2", "", "cd"), result("3", failure=failure))
    write_gold(
        {"id": "1", "labels": ["a", "b"]},
        {"id": "2", "labels": ["c"], "filter_labels": ["d"]},
        {"id": "3", "labels": ["a"]},
        {"id": "4", "labels": ["a"]},
    )


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command; return its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli(["eval", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def scored(told: Told, *arguments: str) -> Evaluation:
    code, out, err = told("run.jsonl", "--gold", "gold.jsonl", "--json", *arguments)
    assert code == 0, err
    return Evaluation.model_validate_json(out)


def test_a_run_is_scored(told: Told):
    found = scored(told)
    assert (found.documents, found.missing, found.empty, found.failures) == (3, 1, 2, {"engine": 1})
    means = {name: interval.mean for name, interval in found.metrics.items()}
    assert means["P@1"] == pytest.approx(2 / 3)  # a is right, c is first on the shortlist, nothing of the third
    assert means["R@5"] == pytest.approx((2 / 2 + 1 + 0) / 3)
    assert means["F1"] == pytest.approx((2 * 1 / 4 + 0 + 0) / 3)
    assert means["micro F1"] == pytest.approx(2 * 1 / (2 + 4))
    assert means["macro F1"] == pytest.approx((2 / 3 + 0 + 0 + 0) / 4)  # of a, b, c and x
    assert means["coverage@5"] == 1  # of a, b and c
    assert found.cost["select"].cached_tokens == 40
    assert found.cost["search"].seconds == 0
    assert all(low <= mean <= high for mean, low, high in found.metrics.values())


def test_labels_that_are_filtered_count_neither_as_right_nor_as_wrong(told: Told):
    write("run.jsonl", result("2", "d", "dc"))
    found = scored(told)
    assert found.metrics["P@1"].mean == 1
    assert found.metrics["labels chosen"].mean == 0


def test_a_ranking_goes_on_with_what_the_log_knows(told: Told):
    write("run.jsonl", one := result("1", "x", "xab"))
    selection = Selection(labels=list(one.labels), scores={"x": 0.9, "b": 0.15, "a": 0.1})
    header = new_run(**COMMON)
    log = TransitionLog(Path("run.jsonl.transitions.jsonl")).begin(header)
    step = Transition(
        run=header.run, document="1", step=0, phase="select", node="select", goto="finish", selection=selection,
        added=["x", "a", "b", "z"],
    )  # fmt: skip
    log.write([step])
    assert Trace("1", [step], result=one).ranking == ["x", "b", "a", "z"]
    assert scored(told).metrics["R@5"].mean == 1
    code, _, said = told("run.jsonl", "--gold", "gold.jsonl")
    assert (code, "without its log" in said) == (0, False)


def test_without_a_log_it_says_where_the_ranking_ends(told: Told):
    code, _, said = told("run.jsonl", "--gold", "gold.jsonl")
    assert code == 0
    assert "without its log (run.jsonl.transitions.jsonl) a ranking ends with the shortlist" in said
    assert "1 documents of gold.jsonl have no result" in said


def test_training_documents_bring_propensities(told: Told):
    write_gold(*({"id": str(n), "labels": ["a"] if n else ["a", "c"]} for n in range(20)), path="train.jsonl")
    found = scored(told, "--train", "train.jsonl")
    assert 0 < found.metrics["PSP@1"].mean < 1
    assert "PSP@1" not in scored(told).metrics


def test_two_runs_are_compared_by_document(told: Told):
    write("other.jsonl", result("1", "x", "x"), result("2", "", "cd"))
    compared = scored(told, "--compare", "other.jsonl").compared
    assert compared
    assert compared.documents == 2
    assert compared.differences["P@1"].mean == 0.5
    assert compared.differences["F1"].mean == pytest.approx(0.25)
    same = scored(told, "--compare", "run.jsonl").compared
    assert same
    assert set(same.differences.values()) == {(0, 0, 0)}


def test_a_run_without_a_log_is_compared_by_what_both_know(told: Told):
    """The same run once more, its log lost: it is no worse for it."""
    write("run.jsonl", one := result("1", "x", "x"))
    write("copy.jsonl", one)
    header = new_run(**COMMON)
    log = TransitionLog(Path("run.jsonl.transitions.jsonl")).begin(header)
    log.write(
        [Transition(run=header.run, document="1", step=0, phase="select", node="select", goto="finish", added=["a"])]
    )
    found = scored(told, "--compare", "copy.jsonl")
    assert found.metrics["R@5"].mean == 0.5
    assert found.compared
    assert set(found.compared.differences.values()) == {(0, 0, 0)}
    assert "as one has no log" in told("run.jsonl", "--gold", "gold.jsonl", "--compare", "copy.jsonl")[2]


def test_an_interval_of_what_counts_labels_is_about_the_figure():
    """Every resample of the documents lacks some labels; the figure is not above its own interval for that."""
    gold = {str(n): Gold(frozenset({f"{n}", "a"})) for n in range(200)}
    results = [result(key, "a").model_copy(update={"shortlist": []}) for key in gold]
    results += [result(str(n), "a") for n in range(200, 210)]
    gold |= {str(n): Gold(frozenset({"a"})) for n in range(200, 210)}
    found = evaluate(traces(results, gold), gold).metrics
    for name in ("macro F1", "coverage@5"):
        assert found[name].low <= found[name].mean <= found[name].high <= 1


def test_the_figures_go_into_a_file_too(told: Told):
    found = scored(told, "--out", "new/eval.json")
    assert found == Evaluation.model_validate_json(Path("new/eval.json").read_text())


def test_a_file_that_cannot_be_written_is_told(told: Told):
    code, out, said = told("run.jsonl", "--gold", "gold.jsonl", "--json", "--out", "gold.jsonl/eval.json")
    assert (code, out) == (2, "")
    assert "error: gold.jsonl/eval.json: cannot be written: " in said


def test_a_run_that_is_being_written_can_be_scored(told: Told):
    with Path("run.jsonl").open("a") as file:
        file.write('{"id": "4", "lab')
    assert scored(told).documents == 3


def test_people_see_tables():
    ours, theirs = pty.openpty()
    command = [Path(sys.executable).with_name("ctd-agent"), "eval", "run.jsonl", "--gold", "gold.jsonl"]
    Path("[b]other.jsonl").write_bytes(Path("run.jsonl").read_bytes())
    command += ["--compare", "[b]other.jsonl"]
    environment = os.environ | {"COLUMNS": "100", "TERM": "dumb"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how a terminal ends
            pass
    text = shown.decode()
    assert "less [b]other.jsonl" in text
    assert "RP@5" in text
    assert "2 empty answers, 1 failed" in text


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda: Path("run.jsonl").unlink(), "run.jsonl: no such run; make it: ctd-agent label"),
        (lambda: write_gold({"id": "9", "labels": ["a"]}), "do the ids of run and gold agree?"),
        (lambda: write_gold({"id": "1", "labels": []}), "no document of the run has right labels"),
        (lambda: write_gold({"id": "1", "text": "a"}), "gold.jsonl: no column 'labels'"),
        (lambda: write_gold({"labels": ["a"]}), "gold.jsonl: no column 'id'"),
        (lambda: write_gold({"id": "1", "labels": [{"a": 1}]}), "gold.jsonl:1: field 'labels' must be a list"),
        (lambda: Path("run.jsonl").write_text("{}\n{}\n"), "run.jsonl:1: not a LabeledDocument"),
    ],
    ids=["no run", "other ids", "no labels", "no column", "no id", "not labels", "no run's lines"],
)
def test_what_is_wrong_is_said_in_a_line(told: Told, break_it: Callable[[], object], complaint: str):
    break_it()
    code, out, said = told("run.jsonl", "--gold", "gold.jsonl", "--json")
    assert (code, out) == (2, "")
    assert complaint in said
    assert "Traceback" not in said


def test_a_runs_memory_does_not_grow_with_its_number_of_documents():
    """A long log is read one document at a time."""
    text = "word " * 4_000

    def peak(documents: int) -> int:
        header = new_run(**COMMON)
        run = Path(f"{documents}.jsonl")
        with run.open("w") as out, Path(f"{run}.transitions.jsonl").open("w") as log:
            log.write(header.model_dump_json() + "\n")
            for number in range(documents):
                one = result(str(number), "x", "xab").model_copy(update={"run": header.run})
                step = Transition(
                    run=header.run, document=one.id, step=0, phase="select", node="select", goto="finish", text=text
                )
                out.write(one.model_dump_json() + "\n")
                log.write(step.model_dump_json() + "\n")
        tracemalloc.start()
        for trace in read_traces(run):
            assert trace.text == text
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(400) < peak(100) + 300 * 500


def logged(header: Run, document: str, *added: str) -> list[Transition]:
    """The one step of a document: what it found."""
    return [
        Transition(
            run=header.run, document=document, step=0, phase="select", node="select", goto="finish", added=[*added]
        )
    ]


def test_a_result_is_ranked_by_the_steps_of_its_own_run(told: Told):
    """Two runs may share a log: here the second labelled the document anew, into another file."""
    first, second = new_run(**COMMON), new_run(**COMMON)
    log = Path("run.jsonl.transitions.jsonl")
    TransitionLog(log).begin(first).write(logged(first, "1", "a", "b"))
    TransitionLog(log).begin(second).write(logged(second, "1", "y", "z"))
    write("run.jsonl", result("1", "x", "x", run=first.run))
    assert scored(told).metrics["R@5"].mean == 1
    write("run.jsonl", result("1", "x", "x", run=second.run))
    assert scored(told).metrics["R@5"].mean == 0


def test_a_log_that_has_not_the_run_of_the_results_is_refused(told: Told):
    header = new_run(**COMMON)
    TransitionLog(Path("run.jsonl.transitions.jsonl")).begin(header).write(logged(header, "1", "a"))
    write("run.jsonl", result("1", "x", "x", run="another"))
    code, _, said = told("run.jsonl", "--gold", "gold.jsonl")
    assert code == 2
    assert "run.jsonl: the result of '1' is of run another, which its log has not; give --log the log of" in said


def test_steps_are_the_same_read_in_outline_or_in_full_whatever_stands_in_them(told: Told):
    """An outline passes over a step's exchange, which may hold the very words that it looks for."""
    header = new_run(**COMMON)
    trap = '","goto":"finish","added":["a"],"added":[1'
    messages = [{"role": "user", "content": trap, "added": ["z"]}]
    step = Transition(
        run=header.run, document=trap, step=0, phase="select", node="select", goto="finish", text=trap,
        exchange=Exchange(messages=messages, options={"added": ["y"]}), added=["b", trap],
        selection=Selection(labels=[], scores={"added": 0.5, trap: 0.1}),
    )  # fmt: skip
    log = Path("run.jsonl.transitions.jsonl")
    TransitionLog(log).begin(header).write([step])
    steps = read_log(log).steps
    assert steps[trap] == [step]
    (outline,) = steps.of(trap, header.run, outline=True)
    assert outline == step.model_copy(update={"exchange": None, "text": None})
