"""Published data sets are converted to files that can be labelled and scored."""

import gzip
import json
import runpy
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from ctd_agent.cli import run as cli
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.schema import Document, Gold

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("xmc").mkdir()


def write(name: str, *lines: str) -> None:
    """Write a file of the data set, gzipped if its name says so."""
    data = "".join(line + "\n" for line in lines).encode()
    Path("xmc", name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def titled(documents: int = 60) -> None:
    """A data set as LF-AmazonTitles-131K comes: JSON lines, gzipped, with labels to filter."""
    write("lbl.json.gz", *(json.dumps({"uid": f"B{n}", "title": title}) for n, title in enumerate(["Mug", "Pan", ""])))
    train = ({"uid": f"A{n}", "title": f"Kettle {n}", "content": "", "target_ind": [n % 3]} for n in range(documents))
    write("trn.json.gz", *map(json.dumps, train))
    write(
        "tst.json.gz", json.dumps({"title": "Teapot", "content": "of clay", "target_ind": [0, 1], "target_rel": [1, 1]})
    )
    write("filter_labels_train.txt", "2 2")
    write("filter_labels_test.txt", "0 1")


def raw() -> None:
    """The same as raw texts and sparse matrices."""
    write("Y.txt", "Mug", "Pan", "Tray")
    write("trn_X.txt", "Kettle one", "Kettle two")
    write("trn_X_Y.txt", "2 3", "0:1.0 2:1.0", "")
    write("tst_X.txt", "Teapot of clay")
    write("tst_X_Y.txt", "1 3", "0:1 1:1")
    write("filter_labels_test.txt", "0 1")


def test_json_lines_with_titles_become_a_catalogue_and_documents():
    titled()
    assert cli(["dataset", "xmc", "--out", "set"]) == 0
    labels = read_labels("set/catalogue.jsonl")
    assert [(label.id, label.name) for label in labels] == [("0", "Mug"), ("1", "Pan"), ("2", "B2")]
    assert labels[0].metadata == {"uid": "B0"}
    (document,) = read_documents("set/test.jsonl")
    assert document.text == "Teapot\nof clay"
    assert read_gold("set/test.jsonl") == {"tst-0": Gold(frozenset({"0", "1"}), filtered=frozenset({"1"}))}
    train, dev = read_gold("set/train.jsonl"), read_gold("set/dev.jsonl")
    assert (train | dev).keys() == {f"trn-{n}" for n in range(60)}
    assert not train.keys() & dev.keys()
    assert (train | dev)["trn-2"] == Gold(frozenset({"2"}), filtered=frozenset({"2"}))


def test_a_conversion_that_is_cut_leaves_no_file_that_looks_whole():
    titled()
    whole = gzip.decompress(Path("xmc/trn.json.gz").read_bytes()).decode().splitlines()
    write("trn.json.gz", *whole[:-1], '{"title": ')
    assert cli(["dataset", "xmc", "--out", "set"]) == 2
    assert sorted(path.name for path in Path("set").glob("*.jsonl")) == ["catalogue.jsonl"]
    titled()
    assert cli(["dataset", "xmc", "--out", "set"]) == 0
    assert sorted(path.stem for path in Path("set").iterdir()) == ["catalogue", "dev", "test", "train"]


def test_raw_texts_with_sparse_matrices_become_the_same(capfd: pytest.CaptureFixture[str]):
    raw()
    assert cli(["dataset", "xmc", "--out", "set"]) == 0
    assert "set/test.jsonl: 1 documents" in capfd.readouterr().err
    assert read_gold("set/test.jsonl") == {"tst-0": Gold(frozenset({"0", "1"}), filtered=frozenset({"1"}))}
    rows = {}
    for split in ("train", "dev"):
        rows |= {
            json.loads(line)["id"]: json.loads(line) for line in Path(f"set/{split}.jsonl").read_text().splitlines()
        }
    assert rows["trn-0"] == {"id": "trn-0", "text": "Kettle one", "labels": ["0", "2"]}
    assert rows["trn-1"]["labels"] == []


def test_a_perfect_run_scores_one_only_where_filtered_labels_are_left_out(capfd: pytest.CaptureFixture[str]):
    titled()
    cli(["dataset", "xmc", "--out", "set"])
    chosen = [{"id": key, "name": key, "rank": rank, "score": 1} for rank, key in enumerate("10", start=1)]
    result = {"id": "tst-0", "labels": chosen, "shortlist": [], "usage": {}}
    Path("run.jsonl").write_text(json.dumps(result) + "\n")
    capfd.readouterr()
    assert cli(["eval", "run.jsonl", "--gold", "set/test.jsonl", "--train", "set/train.jsonl", "--json"]) == 0
    metrics = json.loads(capfd.readouterr().out)["metrics"]
    assert (metrics["P@1"][0], metrics["PSP@1"][0], metrics["F1"][0]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda: write("trn.json.gz", "{"), "trn.json.gz:1: malformed JSON"),
        (lambda: write("trn.json.gz", '{"title": "x"}'), "trn.json.gz:1: field 'target_ind' must be a list"),
        (lambda: write("tst.json.gz", '{"title": "x", "target_ind": [7]}'), "'7' is no label's number: there are 3"),
        (lambda: write("filter_labels_test.txt", "x 1"), "filter_labels_test.txt:1: not two numbers"),
        (lambda: write("filter_labels_test.txt", "0 99"), "filter_labels_test.txt:1: '99' is no label's number"),
        (lambda: Path("xmc/tst.json.gz").unlink(), "xmc: no file tst.json or tst.json.gz"),
        (lambda: Path("xmc/lbl.json.gz").unlink(), "xmc: no file Y.txt or Y.txt.gz"),
        (lambda: Path("xmc/trn.json.gz").write_bytes(b"\x1f\x8b torn"), "trn.json.gz: cannot be read"),
    ],
    ids=["json", "no targets", "no such label", "filter", "filtered label", "no test", "no labels", "not gzip"],
)
def test_what_is_wrong_is_said_in_a_line(
    break_it: Callable[[], object], complaint: str, capfd: pytest.CaptureFixture[str]
):
    titled()
    break_it()
    assert cli(["dataset", "xmc", "--out", "set"]) == 2
    said = capfd.readouterr().err
    assert complaint in said
    assert "Traceback" not in said


def test_a_matrix_is_as_large_as_it_says(capfd: pytest.CaptureFixture[str]):
    raw()
    write("tst_X_Y.txt", "1 4", "0:1 1:1")
    assert cli(["dataset", "xmc", "--out", "set"]) == 2
    assert "'1 4' is not ROWS COLUMNS with a column for each of 3 labels" in capfd.readouterr().err
    write("tst_X_Y.txt", "9 3", "0:1 1:1")
    assert cli(["dataset", "xmc", "--out", "set"]) == 2
    assert "9 documents are announced, 1 are there" in capfd.readouterr().err


def test_a_carriage_return_within_a_title_ends_no_line():
    raw()
    write("Y.txt", "Mug", "Pan\rlarge", "Tray\r")
    assert cli(["dataset", "xmc", "--out", "set"]) == 0
    assert [label.name for label in read_labels("set/catalogue.jsonl")] == ["Mug", "Pan\rlarge", "Tray"]


def test_texts_and_matrices_of_different_lengths_are_refused(capfd: pytest.CaptureFixture[str]):
    raw()
    write("tst_X.txt", "Teapot", "Cup")
    assert cli(["dataset", "xmc", "--out", "set"]) == 2
    assert "tst_X.txt and tst_X_Y.txt have not the same number of documents" in capfd.readouterr().err


# Hugging Face


def saved(rows: dict[str, list[object]], features: datasets.Features | None = None) -> None:
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk("hub")


def test_a_hugging_face_set_with_class_labels_has_them_all_in_its_catalogue():
    classes = datasets.ClassLabel(names=["cat", "dog", "cow"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(classes)})
    saved({"text": ["a cat", "a cat and a dog"], "labels": [[0], [0, 1, -1]]}, features)
    assert cli(["dataset", "hf:hub", "--out", "set"]) == 0
    assert [label.id for label in read_labels("set/catalogue.jsonl")] == ["cat", "dog", "cow"]
    assert read_gold("set/test.jsonl")["test-1"].labels == {"cat", "dog"}


def test_a_hugging_face_set_with_strings_has_those_that_occur():
    saved({"question": ["why?", "how?"], "tags": [["b"], ["a", "b"]], "id": ["x", "y"]})
    assert cli(["dataset", "hf:hub", "--out", "set", "--text-column", "question", "--labels-column", "tags"]) == 0
    assert [label.id for label in read_labels("set/catalogue.jsonl")] == ["b", "a"]
    assert read_documents("set/test.jsonl") == [Document(id="x", text="why?"), Document(id="y", text="how?")]


def test_a_hugging_face_set_that_lacks_a_column_or_is_not_there_is_refused(capfd: pytest.CaptureFixture[str]):
    saved({"text": ["a"], "tags": [["b"]]})
    assert cli(["dataset", "hf:hub", "--out", "set"]) == 2
    assert "no column 'labels'; its columns are text, tags; choose with" in capfd.readouterr().err
    Path("empty").mkdir()
    assert cli(["dataset", "hf:empty", "--out", "set"]) == 2
    assert "empty: cannot be loaded" in capfd.readouterr().err


# Data sets that the examples make


def test_wordnet_s_sentences_are_documents_and_leave_the_gloss():
    make = runpy.run_path(str(EXAMPLES / "wordnet" / "make.py"))
    line = (
        "00004227 29 v 02 exhale 0 breathe_out 0 001 @ 00001740 v 0000 01 + 02 00 | expel air; "
        '"Exhale when you lift the weight"; "exhale now"  '
    )
    ((synset, sentences),) = make["synsets"](["  1 the licence", line], "verb")
    assert (synset["id"], synset["name"], synset["aliases"]) == ("00004227-v", "exhale", ["breathe out"])
    assert synset["description"] == "expel air"
    (document,) = make["documents"]([(synset, sentences)])
    assert (document["text"], document["labels"]) == ("Exhale when you lift the weight", ["00004227-v"])


def test_foldoc_s_references_are_labels_and_leave_the_text():
    make = runpy.run_path(str(EXAMPLES / "foldoc" / "make.py"))
    body = (
        "\n   <games> A {Widget} and a {gadget} that people who write about such things have often said to be "
        "of more use than most others of its kind, says {IBM}; see {ftp://x/y}.\n\n   See also {gizmo}.\n\n"
        "   (1999-01-02)\n"
    )
    articles = {
        "thing": body,
        "widget": "\n  A widget.",
        "Gadget": "\n  A gadget.",
        "GADGET": "\n  Another.",
        "gizmo": "\n  A gizmo.",
        "International Business Machines": "\n  A company.",
    }
    catalogue, (document,) = make["data_set"](articles, {"International Business Machines": ["ibm"]})
    assert {label["id"] for label in catalogue} == articles.keys()
    # {gadget} may be either of two, and is neither.
    assert document["labels"] == ["International Business Machines", "gizmo", "widget"]
    assert document["filter_labels"] == ["thing"]
    assert "Widget and a gadget that" in document["text"]
    for gone in ("{", "}", "See also", "gizmo", "1999", "ftp:"):
        assert gone not in document["text"]
