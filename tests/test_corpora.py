"""`ctd-agent distill corpus`: a teacher's runs in, training data for each phase out."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ScriptedModel, calls, chosen
from langchain_core.messages import AIMessage

from ctd_agent.agents.engines import ChatModel
from ctd_agent.cli import run as cli
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.schema import Document, Label
from ctd_agent.tools.label_index import Hit, Manifest

Told = Callable[..., tuple[int, str, str]]
Row = dict[str, Any]


def candidates_shown(prompt: list[Row]) -> list[str]:
    """The candidates of a listwise prompt, in its order."""
    return re.findall(r"^\d+\. (.*)$", prompt[-1]["content"].rpartition("The candidates:")[2], re.MULTILINE)


class Case(NamedTuple):
    """What a teacher does with a document.

    Labels are letters: those that the search for the document finds, those chosen, those that other searches find.
    """

    own: str
    choice: str
    searches: Mapping[str, str] = {}


class Shelf:
    """Stands in for an index: a search finds what the case says."""

    def __init__(self, cases: Mapping[str, Case], fingerprint: str) -> None:
        self.manifest = Manifest(
            format=1, fingerprint=fingerprint, labels=26, embedder="none", size=1, mean_tokens=1.0, outside=0
        )
        self._found = {text: case.own for text, case in cases.items()}
        for case in cases.values():
            self._found |= case.searches

    def search(self, query: str, limit: int) -> list[Hit]:
        return [Hit(Label(id=letter, name=f"Label {letter}"), 1.0) for letter in self._found[query]][:limit]


def teach(
    log: str,
    cases: Mapping[str, Case],
    *,
    task: str = "topics",
    catalogue: str = "c",
    budget: Budget | None = None,
) -> None:
    """Let a teacher label documents; each one's text is its id, too."""

    def answer(prompt: list[Row], options: Row) -> AIMessage:
        case = next(case for text, case in cases.items() if f"<document>\n{text}\n<" in prompt[1]["content"])
        if "tools" in options:
            return calls(*case.searches) if prompt[-1]["role"] == "user" and case.searches else AIMessage("Enough.")
        shown = candidates_shown(prompt)
        return AIMessage(chosen(*(shown.index(f"Label {letter}") + 1 for letter in case.choice)))

    model = ChatModel("scripted:teacher", ScriptedModel(otherwise=answer))
    graph = build_graph(model, model, Shelf(cases, catalogue), task=task, log=log, budget=budget)
    for text in cases:
        graph.invoke({"document": Document(id=text, text=text)})


def write_gold(**labels: str) -> None:
    """Right labels, as letters, by document; those behind a slash count neither way."""
    rows = []
    for key, letters in labels.items():
        right, _, filtered = letters.partition("/")
        rows.append({"id": key, "labels": [*right], "filter_labels": [*filtered]})
    Path("gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    """Run the command; return its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli(["distill", "corpus", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def made(told: Told) -> Callable[..., Row]:
    """Make a corpus in the folder `out` of all logs with gold, where there is any; return its card."""

    def make(*arguments: str, out: str = "out", dev: str = "0") -> Row:
        logs = sorted(str(path) for path in Path().glob("*.log"))
        gold = ["--gold", "gold.jsonl"] if Path("gold.jsonl").exists() else []
        code, output, errors = told(*logs, *gold, "--out", out, "--dev", dev, *arguments)
        assert code == 0, errors
        card = json.loads(output)
        assert json.loads(Path(out, "card.json").read_text()) == card
        return dict(card)

    return make


def rows(name: str, split: str = "train", out: str = "out") -> list[Row]:
    path = Path(out, name, f"{split}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def text(row: Row) -> str:
    """The document that a conversation is about."""
    (found,) = re.findall(r"^<document>\n(.*)\n</document>", row["prompt"][1]["content"], re.DOTALL)
    return str(found)


def searched(name: str = "shortlist", out: str = "out") -> dict[str, list[str]]:
    """What students learn to search for, by document."""
    learned: dict[str, list[str]] = {}
    for row in rows(name, out=out):
        queries = learned.setdefault(text(row), [])
        for call in row["completion"][0].get("tool_calls", []):
            queries.append(call["function"]["arguments"]["query"])
    return learned


def selected(out: str = "out") -> dict[str, str]:
    """What students learn to choose, by document, as letters."""
    learned = {}
    for row in rows("select", out=out):
        names = [label["label"] for label in json.loads(row["completion"][0]["content"])["labels"]]
        learned[text(row)] = "".join(name.removeprefix("Label ") for name in names)
    return learned


NEWS = Case("abx", "acx", {"first": "cd", "again": "dc", "off": "yz", "more": "e"})


def test_a_search_counts_by_the_right_labels_that_it_was_first_to_surface(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS})
    write_gold(news="ace")
    made()
    assert searched() == {"news": ["first", "more"]}
    made("--no-credit", out="all")
    assert searched(out="all") == {"news": ["first", "again", "off", "more"]}


def test_after_its_searches_a_student_reads_what_they_found_and_stops(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS})
    write_gold(news="ace")
    made()
    search, stop = rows("shortlist")
    assert [message["role"] for message in stop["prompt"]] == ["system", "user", "assistant", "tool", "tool"]
    assert stop["prompt"][2] == search["completion"][0]
    assert [message["content"] for message in stop["prompt"][3:]] == ["Label c; Label d", "Label e"]
    assert "tool_calls" not in stop["completion"][0]
    assert search["tools"] == stop["tools"]


def test_a_student_without_tool_calls_gives_all_its_searches_at_once(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS, "sport": Case("a", "a", {"nothing": "q"})})
    write_gold(news="ace", sport="a")
    made("--json-searches")
    answers = {text(row): json.loads(row["completion"][0]["content"]) for row in rows("shortlist")}
    assert answers == {
        "news": {"searches": ["first", "more"], "done": True},
        "sport": {"searches": [], "done": True},
    }


def test_wrong_choices_are_pruned(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS})
    write_gold(news="ace")
    made()
    assert selected() == {"news": "ac"}
    made("--no-credit", out="all")
    assert selected("all") == {"news": "acx"}


def test_each_phase_has_a_gate_of_its_own(made: Callable[..., Row]) -> None:
    teach("1.log", {"chose badly": Case("abx", "x"), "found little": Case("ax", "a"), "good": Case("ab", "ab")})
    write_gold(**{"chose badly": "ab", "found little": "apqr", "good": "ab"})
    card = made("--min-recall", "0.5", "--min-f1", "0.5")
    assert {text(row) for row in rows("shortlist")} == {"chose badly", "good"}
    assert {text(row) for row in rows("select")} == {"found little", "good"}
    assert {text(row) for row in rows("standard")} == {"good"}
    kept = {name: (one["kept"], one["dropped"]) for name, one in card["corpora"].items()}
    assert kept == {"shortlist": (2, {"gate": 1}), "select": (2, {"gate": 1}), "standard": (1, {"gate": 2})}
    by_id = {row["id"]: row for row in rows("encoder")}
    assert by_id["chose badly"]["shortlist"] == {"near": ["a", "b"], "far": ["x"]}
    assert by_id["chose badly"]["select"] is None
    assert by_id["found little"]["shortlist"] is None
    assert by_id["found little"]["select"] == [
        {"label": "a", "text": "Label a", "rank": 1, "target": 1},
        {"label": "x", "text": "Label x", "rank": 2, "target": 0},
    ]


def test_gates_are_as_strict_as_asked(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": Case("abx", "a")})
    write_gold(news="abcd")
    assert made()["corpora"]["shortlist"]["kept"] == 1  # of 4 right labels 2 were found, of these 1 was chosen
    assert made("--min-recall", "0.51", out="2")["corpora"]["shortlist"]["kept"] == 0
    assert made("--min-f1", "0.67", out="3")["corpora"]["select"]["kept"] == 0


def test_unless_asked_for_more_a_run_teaches_that_got_anything_right(made: Callable[..., Row]) -> None:
    teach("1.log", {"little": Case("apqrsx", "apqr"), "nothing": Case("xyz", "x")})
    write_gold(little="abcde", nothing="ab")
    card = made()
    assert {text(row) for row in rows("select")} == {"little"}
    assert {name: one["kept"] for name, one in card["corpora"].items()} == dict.fromkeys(card["corpora"], 1)


def test_without_gold_the_teacher_is_right(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS, "nothing fits": Case("ab", "")})
    card = made()
    assert searched() == {"news": ["first"]}
    assert selected() == {"news": "acx"}
    assert (card["gold"], card["documents"], card["without_right_labels"]) == (False, 2, 1)


def test_documents_without_gold_are_left_out(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS, "unknown": Case("ab", "a"), "none": Case("ab", "a")})
    write_gold(news="ace", none="")
    card = made()
    assert {text(row) for row in rows("select")} == {"news"}
    assert card["without_right_labels"] == 2


def test_of_several_runs_each_phase_keeps_the_best(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": Case("ab", "", {"good": "cd"})})
    teach("2.log", {"news": Case("abx", "ab", {"bad": "yz"})})
    write_gold(news="abcd")
    made()
    assert searched() == {"news": ["good"]}
    assert selected() == {"news": "ab"}


def test_without_gold_what_half_of_the_runs_chose_is_right(made: Callable[..., Row]) -> None:
    for run, choice in enumerate(("ab", "abx", "ay"), start=1):
        teach(f"{run}.log", {"news": Case("abxy", choice)})
    made()
    assert selected() == {"news": "ab"}


def test_filter_labels_count_neither_way(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": Case("fab", "fab", {"itself": "f", "more": "c"})})
    write_gold(news="abc/f")
    made("--min-f1", "0.8", "--min-recall", "1")  # c was there, too
    assert (searched(), selected()) == ({"news": ["more"]}, {"news": "ab"})
    (row,) = rows("encoder")
    assert "f" not in row["shortlist"]["near"] + row["shortlist"]["far"]
    assert {pair["label"] for pair in row["select"]} == {"a", "b"}  # about c the teacher was wrong


def test_candidates_keep_the_order_that_the_graph_shows_them_in(made: Callable[..., Row]) -> None:
    teach("1.log", {"one": Case("abcdefghijklmnop", "ca")})
    made("--seed", "1")
    (row,) = rows("select")
    assert candidates_shown(row["prompt"]) == [f"Label {letter}" for letter in "abcdefghijklmnop"]
    assert selected() == {"one": "ca"}


def test_documents_are_split_and_not_examples(made: Callable[..., Row]) -> None:
    teach("1.log", {f"number {n}": Case("ab", "ac", {f"query {n}": "c"}) for n in range(20)})
    card = made(dev="0.25")
    for name in ("shortlist", "select", "standard"):
        train, dev = ({text(row) for row in rows(name, split)} for split in ("train", "dev"))
        assert (len(train), len(dev), len(train & dev)) == (15, 5, 0)
    assert {row["id"] for row in rows("encoder", "dev")} == dev
    splits = re.findall(r"split: (\w+)", Path("out/README.md").read_text())
    assert splits == ["train", "validation"] * 4  # in that order: the first says of what types the columns are
    assert (card["corpora"]["shortlist"]["train"], card["corpora"]["shortlist"]["dev"]) == (30, 10)


def test_a_document_that_repeats_another_is_left_out(made: Callable[..., Row]) -> None:
    words = " ".join(f"word{n}" for n in range(100))
    texts = ["A bank", "a  BANK", "A tank", words, f"{words} more", f"{words[: len(words) // 2]} else"]
    teach("1.log", {text: Case("ab", "a") for text in texts})
    card = made()
    assert (card["repeated"], card["nearly_repeated"]) == (1, 1)
    assert len(rows("select")) == len(texts) - 2


def test_longer_examples_are_dropped(made: Callable[..., Row]) -> None:
    teach("1.log", {"short": Case("ab", "a"), " ".join(["a"] * 500): Case("ab", "a")})
    card = made("--max-tokens", "600")
    assert {text(row) for row in rows("shortlist")} == {text(row) for row in rows("select")} == {"short"}
    assert [card["corpora"][name]["too_long"] for name in ("shortlist", "select", "standard")] == [1, 1, 1]


def test_a_teacher_that_was_never_asked_to_search_teaches_no_searching(made: Callable[..., Row]) -> None:
    for budget in (Budget(turns=0), Budget(searches=0)):
        teach("1.log", {"news": NEWS._replace(choice="ax")}, budget=budget)
        card = made(out=str(budget))
        assert (rows("shortlist", out=str(budget)), card["corpora"]["shortlist"]["train"]) == ([], 0)
        assert selected(str(budget)) == {"news": "ax"}
        Path("1.log").unlink()


def test_both_phases_together_and_the_standard_corpus_have_as_many_tokens_if_asked(made: Callable[..., Row]) -> None:
    teach("1.log", {f"number {n}": Case("ab", "ac", {f"query {n}": "c"}) for n in range(40)})
    plain, equal = made()["corpora"], made("--equal-tokens", out="equal")["corpora"]
    phases, standard = equal["shortlist"]["tokens"] + equal["select"]["tokens"], equal["standard"]["tokens"]
    assert standard == plain["standard"]["tokens"] < plain["shortlist"]["tokens"]
    assert 0 <= standard - phases < 1_000  # less than one example
    for name in ("shortlist", "select"):
        assert equal[name]["train"] == plain[name]["train"] - equal[name]["over_budget"] == len(rows(name, out="equal"))
        assert equal[name]["train"] > 0


def test_reasons_are_kept_or_stripped(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS})
    made()
    made("--no-reasoning", out="bare")
    for name in ("select", "standard"):
        (with_reasons,), (bare,) = rows(name), rows(name, out="bare")
        assert json.loads(with_reasons["completion"][0]["content"])["reasoning"] == "They fit."
        assert "reason" not in bare["completion"][0]["content"] + bare["prompt"][1]["content"]


def test_the_standard_corpus_holds_the_whole_output(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS})
    made()
    (row,) = rows("standard")
    assert json.loads(row["completion"][0]["content"]) == {
        "searches": ["first", "again", "off", "more"],
        "reasoning": "They fit.",
        "labels": ["Label a", "Label c", "Label x"],
    }


def test_a_corpus_is_what_the_log_says_was_shown_whatever_fusion_and_prompts_are_today(
    made: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four searches whose fused order depends on the constant of the fusion, and on how labels are described."""
    teach("1.log", {"news": Case("abcdefgh", "ha", {"first": "hgf", "again": "hx", "more": "gyx"})})
    made(out="before")
    monkeypatch.setattr("ctd_agent.graphs.state.RRF_K", -0.5)
    monkeypatch.setattr("ctd_agent.agents.prompts.DESCRIPTION", 3)
    made(out="after")
    for name in ("shortlist/train.jsonl", "select/train.jsonl", "standard/train.jsonl", "encoder/train.jsonl"):
        assert Path("after", name).read_bytes() == Path("before", name).read_bytes()


def test_the_card_says_what_it_was_made_from(made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS}, task="topics of news")
    write_gold(news="ace")
    card = made("--licence", "cc-by-4.0", "--seed", "7")
    expected = {
        "teachers": ["scripted:teacher"], "task": "topics of news", "catalogue": "c", "labels": 26, "gold": True,
        "teacher_prompts": {"shortlist": "shortlist-1", "select": "listwise-1"}, "licence": "cc-by-4.0",
        "student_prompts": {"shortlist": "shortlist-1", "select": "naming-1", "standard": "standard-1"},
        "credit": True,
        "manner": {"native_tools": True, "reasons": True, "names": True, "candidates": 50}, "seed": 7,
        "coverage": 3 / 26,
    }  # fmt: skip
    assert {name: card[name] for name in expected} == expected
    assert all(one["tokens"] > 100 for one in card["corpora"].values())
    readme = Path("out/README.md").read_text()
    assert readme.startswith("---\nlicense: cc-by-4.0\n")
    assert "scripted:teacher" in readme


def refused(told: Told, *arguments: str) -> str:
    """What the command says when it makes nothing."""
    code, output, error = told(*arguments, "--out", "out")
    assert (code, output, Path("out").exists(), list(Path().glob(".*"))) == (2, "", False, [])
    assert "Traceback" not in error
    return error


def test_logs_that_do_not_belong_together_are_refused(told: Told) -> None:
    teach("1.log", {"news": NEWS})
    teach("2.log", {"news": NEWS}, catalogue="other")
    teach("3.log", {"news": NEWS}, task="other")
    older = Path("1.log").read_text().replace('"listwise-1"', '"listwise-0"', 1)
    Path("4.log").write_text(older)
    for log, different in (("2.log", "catalogue"), ("3.log", "task"), ("4.log", "prompts")):
        assert f"in {different};" in refused(told, "1.log", log)


def test_a_log_cut_in_mid_line_counts_without_its_last_document(told: Told, made: Callable[..., Row]) -> None:
    teach("1.log", {"news": NEWS, "cut": Case("ab", "a")})
    whole = Path("1.log").read_bytes()
    Path("broken").write_bytes(whole[:400] + b"\n" + whole[800:])
    assert "broken:1: not a" in refused(told, "broken")
    Path("1.log").write_bytes(whole[:-20])
    assert made()["documents"] == 1


def test_files_that_are_no_log_are_refused(told: Told) -> None:
    Path("empty").touch()
    Path("other").write_text('{"id": "1"}\n')
    assert "no run in it" in refused(told, "empty")
    assert "other:1" in refused(told, "other")
    assert "cannot be read" in refused(told, "missing")


def test_where_nothing_can_be_learned_nothing_is_written(told: Told) -> None:
    teach("1.log", {"news": Case("ab", "b")})
    write_gold(news="axyz")
    strict = refused(told, "1.log", "--gold", "gold.jsonl", "--min-recall", "0.5")
    assert "lower --min-recall (now 0.5) or --min-f1 (now 0.1)" in strict
    write_gold(other="a")
    assert "none of these documents has labels in --gold" in refused(told, "1.log", "--gold", "gold.jsonl")
    teach("2.log", {"news": Case("ab", "")})
    assert "the teacher chose no label at all" in refused(told, "2.log")


def test_a_folder_that_is_in_use_stays_as_it_is(told: Told) -> None:
    teach("1.log", {"news": NEWS})
    Path("out").mkdir()
    assert told("1.log", "--out", "out")[0] == 0  # an empty one will do
    before = Path("out/card.json").read_text()
    code, output, error = told("1.log", "--out", "out", "--seed", "1")
    assert (code, output) == (2, "")
    assert "name another folder" in error
    assert Path("out/card.json").read_text() == before
    assert "name a new one" in told("1.log", "--out", ".")[2]


def test_a_folder_that_cannot_be_written_is_said_so(told: Told) -> None:
    teach("1.log", {"news": NEWS})
    Path("file").touch()
    code, _, error = told("1.log", "--out", "file/out")
    assert (code, "file/out: cannot be written" in error) == (2, True)
