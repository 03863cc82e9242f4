"""What langgraph.json names, loads as LangGraph's own tools load it; the example data is sound."""

import asyncio
import json
import runpy
from pathlib import Path

import pytest

from ctd_agent.files import read_documents, read_labels

ROOT = Path(__file__).parent.parent


def test_langgraph_json_names_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("Mail\nChess\n")
    monkeypatch.setenv("CTD_AGENT_CACHE", str(tmp_path))
    monkeypatch.setenv("CTD_AGENT_LABELS", str(labels))
    monkeypatch.setenv("CTD_AGENT_MODEL", "openai:none@http://127.0.0.1:9")
    (where,) = json.loads((ROOT / "langgraph.json").read_text())["graphs"].values()
    path, _, name = where.partition(":")

    graph = asyncio.run(runpy.run_path(str(ROOT / path))[name]())

    assert {"read", "shortlist", "search", "select", "finish"} <= graph.get_graph().nodes.keys()


def test_the_example_s_gold_labels_are_all_in_its_catalogue() -> None:
    example = ROOT / "examples" / "debian"
    catalogue = {label.id for label in read_labels(str(example / "catalogue.jsonl"))}
    documents = [document.id for document in read_documents(str(example / "documents.jsonl"))]
    gold = [json.loads(line) for line in (example / "gold.jsonl").read_text().splitlines()]
    assert [row["id"] for row in gold] == documents
    assert len(documents) == 200
    assert {label for row in gold for label in row["labels"]} <= catalogue


def test_no_table_of_the_docs_is_still_to_be_filled() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        assert not {"RESULTS", "PHASES", "FINDINGS", "RETRIEVAL"} & set(page.read_text().split())
