"""What langgraph.json names, loads as LangGraph's own tools load it; the example data is sound."""

import asyncio
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ctd_agent.files import read_documents, read_gold, read_labels

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


# Data sets that are made of a package of PyPI


def test_an_attacker_s_descriptions_are_one_document_and_its_evidence_says_where_each_technique_is(tmp_path: Path):
    make = example("attack")
    catalogue, (document,) = make["data_set"](*an_attacker())

    assert document["id"] == "S0001"
    assert {one["label"] for one in document["evidence"]} == set(document["labels"])
    told = {one["label"]: document["text"][one["start"] : one["end"]] for one in document["evidence"]}
    assert told["T1000"] == told["T1000.001"] == "Moth asks the DNS for orders."  # a text for two stands once
    assert document["text"].count("for orders") == 1
    assert told["T1003"] == "Moth does Technique 3."
    make["write_data_set"](tmp_path, catalogue, [document], make["filled_in"](catalogue, [document]))
    (split,) = {path for path in tmp_path.glob("*.jsonl") if "evidence" in path.read_text()}
    assert [read.text for read in read_documents(str(split))] == [document["text"]]
    assert read_gold(str(split))["S0001"].labels == {label["id"] for label in catalogue}


def test_a_sub_technique_is_named_with_its_technique_and_a_revoked_one_is_no_label():
    make = example("attack")
    catalogue, _ = make["data_set"](*an_attacker())

    names = {label["id"]: label["name"] for label in catalogue}
    assert names["T1000.001"] == "Technique 0: DNS"
    assert "T1999" not in names


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("[Moth](https://attack.mitre.org/software/S1) runs <code>ls</code>.(Citation: A 2020)(Citation: B)", "ls."),
        ("[Moth](https://attack.mitre.org/software/S1) runs `ls`. (Citation: A 20...", "ls."),
        ("[Moth](https://attack.mitre.org/software/S1) runs ls.(Cit...", "ls."),
        ("[Moth](https://attack.mitre.org/software/S1) runs [ls](https://attack.mi...", "ls..."),
        ("[Moth](https://attack.mitre.org/software/S1) runs [l...", "l..."),
        ("[Moth](https://attack.mitre.org/software/S1) runs <code>ls</co...", "ls..."),
        ("[Moth](https://attack.mitre.org/software/S1) runs ls on [kworker/0:1] (al...", "ls on [kworker/0:1] (al..."),
    ],
)
def test_a_description_loses_its_marks_also_where_the_package_has_cut_them(written: str, read: str):
    assert example("attack")["plain"](written) == f"Moth runs {read}"


OBO = r"""format-version: 1.2

[Term]
id: HP:1
name: Chin \"dimple\"
def: "A persistent \"dent\" of the chin." [PMID:1]
synonym: "chin \"DIMPLE\"" EXACT layperson []
synonym: "Chin butt" EXACT layperson [https://orcid.org/0]
synonym: "Face dent" BROAD layperson []
synonym: "Cleft chin" EXACT []

[Term]
id: HP:2
name: Obsolete chin
synonym: "Old chin" EXACT layperson []
is_obsolete: true
"""
HPOA = "\n".join(
    [
        "#version: 1",
        "database_id\tdisease_name\tqualifier\thpo_id\tfrequency\taspect",
        "OMIM:1\tA disease\t\tHP:1\t1/2\tP",
        "OMIM:1\tA disease\tNOT\tHP:2\t\tP",
        "OMIM:1\tA disease\t\tHP:3\t0/7\tP",
        "OMIM:1\tA disease\t\tHP:4\t\tI",
        "ORPHA:1\tA disease\t\tHP:1\t\tP",
    ]
)


def test_a_lay_synonym_is_a_document_and_no_label_has_it():
    make = example("hpo")
    (term,) = make["terms"](OBO)

    assert (term.id, term.name, term.definition) == ("HP:1", 'Chin "dimple"', 'A persistent "dent" of the chin.')
    (document,) = make["synonyms"]([term])  # neither its own name, nor a broad one, nor a doctor's
    assert (document["text"], document["labels"]) == ("Chin butt", ["HP:1"])


def test_a_letter_is_composed_of_one_lay_synonym_for_each_phenotype_that_patients_have():
    make = example("hpo")
    known = [make["Term"](f"HP:{number}", "A name", "", [f"Ache {number}", f"Pain {number}"]) for number in range(6)]
    unsaid = make["Term"]("HP:6", "A name", "", [])

    (letter,) = make["letters"](
        [*known, unsaid], {"OMIM:1": {f"HP:{number}" for number in range(7)}, "OMIM:2": {"HP:1"}}
    )

    assert letter["labels"] == [term.id for term in known]
    sentences = letter["text"].removesuffix(".").split(". ")
    assert sorted(sentence.split()[1] for sentence in sentences) == list("012345")
    assert make["phenotypes"](HPOA) == {"OMIM:1": {"HP:1"}}


@pytest.mark.slow
def test_a_data_set_is_made_of_its_package_and_can_be_read(tmp_path: Path):
    subprocess.run([sys.executable, ROOT / "examples" / "attack" / "make.py", "--full", tmp_path], check=True)
    catalogue = {label.id for label in read_labels(str(tmp_path / "catalogue.jsonl"))}
    for split in ("train", "dev", "test"):
        path = str(tmp_path / f"{split}.jsonl")
        gold = read_gold(path)
        assert [document.id for document in read_documents(path)] == list(gold)
        assert all(right.labels and right.labels <= catalogue for right in gold.values())


def example(name: str) -> dict[str, Any]:
    """What a data set's script defines."""
    return runpy.run_path(str(ROOT / "examples" / name / "make.py"))


def an_attacker() -> tuple[list[dict[str, Any]], ...]:
    """ATT&CK's objects: techniques, a piece of software that uses them all, and what is told of it."""
    names = {f"T100{number}": f"Technique {number}" for number in range(7)} | {"T1000.001": "DNS", "T1999": "Revoked"}
    said = {"T1000": "asks the DNS for orders.", "T1000.001": "asks the DNS for orders."}
    patterns = [
        {
            "stix_id": f"attack-pattern--{technique}", "external_id": technique, "name": name, "description": "",
            "is_subtechnique": "." in technique, "tactics": [], "revoked": name == "Revoked", "deprecated": False,
        }
        for technique, name in names.items()
    ]  # fmt: skip
    relationships = [
        {
            "relationship_type": "uses", "source_ref": "malware--1", "target_ref": f"attack-pattern--{technique}",
            "description": f"[Moth](https://attack.mitre.org/software/S1) {said.get(technique, f'does {name}.')}",
        }
        for technique, name in names.items()
    ]  # fmt: skip
    return patterns, [{"stix_id": "malware--1", "external_id": "S0001"}], relationships


def test_no_table_of_the_docs_is_still_to_be_filled() -> None:
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        assert not {"RESULTS", "PHASES", "FINDINGS", "RETRIEVAL"} & set(page.read_text().split())
