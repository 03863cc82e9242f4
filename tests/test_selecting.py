"""Selecting: how a model is asked to choose from the shortlist, and what of its answer counts."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import (
    NEWS,
    NO,
    YES,
    Make,
    Run,
    baselines,
    build_index,
    chosen,
    failure,
    ids,
    label_asked,
    likes,
    searches,
    without_document,
)
from langchain_core.messages import AIMessage

from ctd_agent.agents.manner import Manner
from ctd_agent.agents.selecting.pointwise import fused
from ctd_agent.graphs import labeling
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.schema import Document, Label
from ctd_agent.tools.label_index import LabelIndex

# The baseline: what a pointwise selector is answered without a document


def test_the_baseline_is_asked_once_a_label_and_a_selector_after_the_documents_questions(
    small: Make, index: LabelIndex
) -> None:
    model = small(otherwise=likes("Interest"))
    first, second = (build_graph(model, model, index, budget=Budget(turns=0, candidates=3)) for _ in range(2))

    def asked(graph: labeling.LabelingGraph, text: str) -> tuple[list[str], list[str]]:
        """The labels that it asked about with the document, and then without."""
        model.chat.prompts.clear()
        graph.invoke({"document": Document(id="1", text=text)})
        prompts = model.chat.prompts
        assert not any(map(without_document, prompts[:3]))
        assert all(map(without_document, prompts[3:]))
        return [*map(label_asked, prompts[:3])], [*map(label_asked, prompts[3:])]

    news, baseline = asked(first, NEWS)
    assert baseline == news
    tennis, baseline = asked(first, "A tennis match.")
    assert baseline == [label for label in tennis if label not in news] != []
    assert asked(first, NEWS) == (news, [])
    assert asked(second, NEWS) == (news, news)


def test_labels_that_read_the_same_share_a_baseline_but_not_a_question(run: Run, small: Make, tmp_path: Path) -> None:
    twins = [Label(id=id_, name="Interest rates") for id_ in ("a", "b")]
    model = small(otherwise=likes("Interest"))
    result = run(model, over=build_index(twins, tmp_path / "index"), turns=0)
    assert sorted(ids(result)) == ["a", "b"]
    assert (len(model.chat.prompts), baselines(model)) == (2 + 1, ["Interest rates"])


def test_a_label_that_gets_a_yes_whatever_the_document_is_loses(run: Run, small: Make) -> None:
    def eager(prompt: list[dict[str, Any]], options: dict[str, Any]) -> AIMessage:
        label = label_asked(prompt)
        if without_document(prompt):
            return YES if label.startswith("Interest") else NO
        return YES if label.startswith(("Interest", "Inflation")) else NO

    result = run(small(otherwise=eager), turns=0)
    assert result.shortlist[0].id == "rates"  # retrieval favours it
    assert ids(result)[0] == "inflation"
    fair = run(small(otherwise=likes("Interest", "Inflation")), turns=0)
    assert ids(fair) == ["rates", "inflation"]


def test_a_budget_spent_before_the_baseline_still_selects_and_what_it_lacks_is_asked_next_time(
    small: Make, index: LabelIndex
) -> None:
    model = small(otherwise=likes("Interest"))
    graph = build_graph(model, model, index, budget=Budget(turns=0, candidates=3, tokens=4 * 105))  # four calls
    told = []
    for _ in range(4):
        result = graph.invoke({"document": Document(id="1", text=NEWS)})["result"]
        assert ids(result) == ["rates"]
        told.append(result.failure and (result.failure.kind, result.failure.message))
    assert told == [*(("budget", f"spent with {n} questions unasked") for n in (2, 1)), None, None]
    assert len(baselines(model)) == len(set(baselines(model))) == 3

    model.chat.prompts.clear()
    bare = build_graph(model, model, index, budget=Budget(turns=0, candidates=3, tokens=3 * 105))
    result = bare.invoke({"document": Document(id="1", text=NEWS)})["result"]
    assert (ids(result), failure(result), baselines(model)) == (["rates"], ("select", "budget"), [])


def test_a_baseline_that_is_neither_yes_nor_no_counts_as_unknown(run: Run, small: Make) -> None:
    def answer(prompt: list[dict[str, Any]], options: dict[str, Any]) -> Any:
        return "Which document?" if without_document(prompt) else likes("Interest")(prompt, options)

    result = run(small(otherwise=answer), turns=0)
    assert (ids(result), failure(result)) == (["rates"], None)
    assert result.labels == run(small(otherwise=likes("Interest")), turns=0).labels  # as likely yes as no


def test_a_score_rises_with_the_odds_and_falls_with_the_rank_and_the_baseline() -> None:
    def rises(scores: list[float]) -> bool:
        return all(low < high for low, high in itertools.pairwise(scores))

    assert rises([fused(odds, 0.0, 1) for odds in range(-14, 15)])  # those that FLOOR allows
    assert rises([fused(0.0, -baseline, 1) for baseline in range(-14, 15)])
    assert rises([fused(0.0, 0.0, rank) for rank in range(100, 0, -1)])
    assert fused(1.0, None, 2) == fused(1.0, 0.0, 2)


def test_a_score_is_between_zero_and_one_whatever_the_odds() -> None:
    extremes = [
        fused(odds, baseline, rank) for odds in (-1e3, 1e3) for baseline in (-1e3, 0.0, 1e3) for rank in (1, 99)
    ]
    assert all(0 < score < 1 for score in extremes)
    assert fused(-1e3, 0.0, 1) < fused(0.0, 0.0, 1) < fused(1e3, 0.0, 1)


# What a listwise answer may hold


def test_a_number_off_the_list_is_no_label(run: Run, large: Make) -> None:
    wrong = (0, -1, 9, 10**30)
    for number in wrong:
        assert failure(run(large(chosen(number)), turns=0)) == ("select", "invalid_output")
    result = run(large(chosen(*wrong, 2)), turns=0)
    assert ids(result) == [result.shortlist[1].id]


def test_a_student_chooses_by_name_and_can_name_none_that_is_not_there(run: Run, large: Make) -> None:
    names = ["Inflation", "Interest", "Inflation", "Interest rates"]
    model = large(json.dumps({"labels": [{"label": name, "score": 0.5} for name in names]}))
    result = run(replace(model, manner=Manner(names=True)), turns=0)
    assert [(label.name, label.rank) for label in result.labels] == [("Inflation", 1), ("Interest rates", 2)]
    answer = model.chat.options[0]["response_format"]["json_schema"]["schema"]["properties"]["labels"]["items"]
    assert len(answer["properties"]["label"]["enum"]) == len(result.shortlist)
    assert {"Inflation", "Interest rates"} <= {*answer["properties"]["label"]["enum"]}


def test_namesakes_are_told_apart(large: Make, tmp_path: Path) -> None:
    named = {"tennis": "Set", "maths": "Set", "odd": "Set (2)"}
    labels = [Label(id=key, name=name) for key, name in named.items()]
    index = LabelIndex.build(labels, tmp_path / "index")

    def last_first(prompt: list[dict[str, Any]], options: dict[str, Any]) -> str:
        schema = options["response_format"]["json_schema"]["schema"]["properties"]["labels"]["items"]
        return json.dumps({"labels": [{"label": name} for name in reversed(schema["properties"]["label"]["enum"])]})

    model = replace(large(otherwise=last_first), manner=Manner(names=True))
    graph = build_graph(model, model, index, budget=Budget(turns=0))
    result = graph.invoke({"document": Document(id="1", text="a set")})["result"]
    assert ids(result) == [entry.id for entry in reversed(result.shortlist)]
    assert {*ids(result)} == named.keys()


def test_a_number_given_twice_counts_once(run: Run, large: Make) -> None:
    result = run(large(AIMessage(""), chosen(2, 1, 2, 2)))
    assert ids(result) == [result.shortlist[1].id, result.shortlist[0].id]
    assert [label.rank for label in result.labels] == [1, 2]


def test_a_listwise_answer_has_no_more_labels_than_the_shortlist(run: Run, large: Make) -> None:
    model = large(chosen(1))
    result = run(model, turns=0)
    answer = model.chat.options[0]["response_format"]["json_schema"]["schema"]
    assert answer["properties"]["labels"]["maxItems"] == len(result.shortlist)


def test_a_listwise_score_is_kept_between_zero_and_one(run: Run, large: Make) -> None:
    kept = {7: 1.0, -3: 0.0, 10**30: 1.0, 0.25: 0.25}
    answer = json.dumps({"labels": [{"number": number, "score": score} for number, score in enumerate(kept, start=1)]})
    assert [label.score for label in run(large(answer), turns=0).labels] == [*kept.values()]


def test_an_engine_without_logprobs_is_taken_at_its_word(run: Run, small: Make) -> None:
    def word(prompt: list[dict[str, Any]], options: dict[str, Any]) -> str:
        if without_document(prompt):
            return "Which document?"
        return "Yes" if label_asked(prompt).startswith("Interest") else "no"

    assert ids(run(small(searches(done=True), otherwise=word))) == ["rates"]


def test_logprobs_with_neither_yes_nor_no_are_no_answer(run: Run, small: Make) -> None:
    tokens = {"Maybe": -0.1, "<tool": 0.0, "\ufffd": -1e9, "": float("-inf"), "yesterday": -0.1}
    top = [{"token": token, "logprob": logprob} for token, logprob in tokens.items()]
    answer = AIMessage("Maybe", response_metadata={"logprobs": {"content": [{"top_logprobs": top}]}})
    assert failure(run(small(*[answer] * 8), turns=0)) == ("select", "invalid_output")
