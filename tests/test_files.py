"""Catalogues and documents are read from files, or refused in one line."""

import csv
import io
import json
import re
import sys
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import NASTY, refusal, write

from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_labels
from ctd_agent.schema import Document, Label


def write_table(path: Path, rows: list[dict]) -> str:
    """Write rows as any other program would: with the format's own library."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.fixture
def pipe(monkeypatch):
    """Put bytes on standard input."""

    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))

    return give


class TestCatalogues:
    """Every format gives the same labels."""

    def test_a_line_of_text_is_a_label(self, tmp_path):
        source = write(tmp_path / "labels.txt", "Acrylics\n\n  Oil paint \r\nשמן")
        assert read_labels(source) == [Label(id=name, name=name) for name in ("Acrylics", "Oil paint", "שמן")]

    @pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".TSV", "\t")])
    def test_a_table_has_a_column_per_field(self, tmp_path, suffix, delimiter):
        rows = [["id", "name", "description", "aliases"], ["7", "Oil", "slow, to dry", "oils | oil paint||"]]
        with (tmp_path / f"labels{suffix}").open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        label = Label(id="7", name="Oil", description="slow, to dry", aliases=["oils", "oil paint"])
        assert read_labels(str(tmp_path / f"labels{suffix}")) == [label]

    @pytest.mark.parametrize("suffix", [".jsonl", ".ndjson"])
    def test_a_json_line_is_a_label(self, tmp_path, suffix):
        label = Label(id="7", name="Oil", aliases=["a|b", "c"], metadata={"parent": {"id": 1}, "n": [1.5, True]})
        source = write(tmp_path / f"labels{suffix}", f"\n{label.model_dump_json()}\r\n\n")
        assert read_labels(source) == [label]

    def test_parquet_rows_are_labels(self, tmp_path):
        source = write_table(tmp_path / "labels.parquet", [{"id": 7, "name": "Oil", "aliases": ["oils"], "rank": 2}])
        assert read_labels(source) == [Label(id="7", name="Oil", aliases=["oils"], metadata={"rank": 2})]

    def test_columns_may_have_other_names(self, tmp_path):
        source = write(tmp_path / "labels.csv", "code,title,gloss,syn,name\nA1,Oil,slow,oils|oil,x\n")
        columns = {"id": "code", "name": "title", "description": "gloss", "aliases": "syn"}
        label = Label(id="A1", name="Oil", description="slow", aliases=["oils", "oil"], metadata={"name": "x"})
        assert read_labels(source, columns) == [label]

    def test_id_and_name_stand_in_for_each_other(self, tmp_path):
        assert read_labels(write(tmp_path / "n.csv", "name\nOil\n")) == [Label(id="Oil", name="Oil")]
        assert read_labels(write(tmp_path / "i.csv", "id\nA1\n")) == [Label(id="A1", name="A1")]
        assert read_labels(write(tmp_path / "t.csv", "title\nOil\n"), {"name": "title"}) == [
            Label(id="Oil", name="Oil")
        ]

    def test_names_may_repeat_where_ids_differ(self, tmp_path):
        source = write(tmp_path / "labels.csv", "id,name\n1,Java\n2,Java\n")
        assert [label.name for label in read_labels(source)] == ["Java", "Java"]

    def test_other_columns_become_metadata_without_nulls(self, tmp_path):
        rows = [{"name": "Oil", "metadata": {"a": 1, "b": None, "kept": "x"}, "a": [2], "gone": None, "c": False}]
        source = write_table(tmp_path / "labels.jsonl", rows)
        assert read_labels(source)[0].metadata == {"a": [2], "kept": "x", "c": False}

    def test_null_optional_fields_are_empty(self, tmp_path):
        source = write(tmp_path / "labels.jsonl", '{"id": 1.5, "name": 3, "description": null, "aliases": null}')
        assert read_labels(source) == [Label(id="1.5", name="3")]

    def test_metadata_of_parquet_is_json(self, tmp_path):
        day = pa.array([18262], pa.date32())
        table = pa.table({"name": ["Oil"], "day": day, "raw": [b"\xff"], "n": [float("nan")], "m": [{"k": 1}]})
        pq.write_table(table, tmp_path / "labels.parquet")
        assert read_labels(str(tmp_path / "labels.parquet"))[0].metadata == {
            "day": "2020-01-01",
            "raw": "_w==",
            "m": {"k": 1},
        }

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
    def test_every_text_survives_exactly(self, tmp_path, suffix):
        rows = [{"id": f"{i}{text[:500]}", "name": text, "description": text} for i, text in enumerate(NASTY)]
        labels = read_labels(write_table(tmp_path / f"labels{suffix}", rows))
        assert [label.model_dump(include={"id", "name", "description"}) for label in labels] == rows


class TestDocuments:
    """Every format gives the same documents; only id and text count."""

    def test_a_line_of_text_is_a_document_named_by_its_number(self, tmp_path):
        source = write(tmp_path / "docs.txt", "one \n\n   \n\tfour\r\nfive\u2028still five")
        documents = [Document(id="1", text="one "), Document(id="4", text="\tfour")]
        assert read_documents(source) == [*documents, Document(id="5", text="five\u2028still five")]

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
    def test_every_text_survives_exactly(self, tmp_path, suffix):
        rows = [{"id": f"d{i}", "text": text} for i, text in enumerate([*NASTY, ""])]
        documents = read_documents(write_table(tmp_path / f"docs{suffix}", rows))
        assert [document.model_dump() for document in documents] == rows

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
    def test_without_an_id_the_row_number_is_the_id(self, tmp_path, suffix):
        source = write_table(tmp_path / f"docs{suffix}", [{"text": "a\nb"}, {"text": "c"}])
        assert read_documents(source) == [Document(id="1", text="a\nb"), Document(id="2", text="c")]

    def test_columns_may_have_other_names_and_the_rest_is_ignored(self, tmp_path):
        source = write(tmp_path / "docs.csv", "key,body,labels\nx,hello,gold\n")
        assert read_documents(source, {"id": "key", "text": "body"}) == [Document(id="x", text="hello")]

    def test_numbers_are_ids(self, tmp_path):
        source = write(tmp_path / "docs.jsonl", '{"id": 12, "text": "a", "labels": [1]}')
        assert read_documents(source) == [Document(id="12", text="a")]

    @pytest.mark.parametrize("name", ["docs.csv", "docs.txt", "docs.jsonl"])
    def test_a_byte_order_mark_is_no_text(self, tmp_path, name):
        content = {"docs.csv": "text\nhi\n", "docs.txt": "hi\n", "docs.jsonl": '{"text": "hi"}\n'}[name]
        assert read_documents(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())) == [
            Document(id="1", text="hi")
        ]


class TestStandardInput:
    """`-` reads a pipe: JSONL if it starts with a brace, else plain text."""

    def test_plain_text(self, pipe):
        pipe("Öl\n\nWasser".encode())
        assert read_documents("-") == [Document(id="1", text="Öl"), Document(id="3", text="Wasser")]

    def test_json_lines(self, pipe):
        pipe(b'\xef\xbb\xbf\n  {"id": "a", "name": "Oil"}\n')
        assert read_labels("-") == [Label(id="a", name="Oil")]

    def test_errors_name_standard_input(self, pipe):
        pipe(b"fine\nnot \xe9 fine\n")
        assert refusal(read_labels, "-").startswith("standard input:2: byte 9 (0xe9) is not UTF-8")
        pipe(b" \n")
        assert refusal(read_documents, "-") == "standard input: no documents in it"


class TestFilesThatCannotBeRead:
    """One line says which file, and why."""

    def test_missing(self, tmp_path):
        path = str(tmp_path / "none.txt")
        assert refusal(read_labels, path) == f"{path}: cannot be read: No such file or directory"

    def test_directory(self, tmp_path):
        assert refusal(read_documents, str(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"

    def test_unknown_format(self, tmp_path):
        message = refusal(read_labels, write(tmp_path / "labels.xlsx", "x"))
        assert "'.xlsx'" in message
        assert ".txt, .csv, .tsv, .jsonl, .ndjson, .parquet" in message

    @pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.tsv", "x.jsonl"])
    @pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
    def test_empty(self, tmp_path, name, content):
        path = write(tmp_path / name, content)
        assert refusal(read_labels, path) == f"{path}: no labels in it"
        assert refusal(read_documents, path) == f"{path}: no documents in it"

    def test_only_a_header(self, tmp_path):
        path = write(tmp_path / "x.csv", "id,name\n")
        assert refusal(read_labels, path) == f"{path}: no labels in it"

    def test_parquet_without_rows(self, tmp_path):
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
        assert refusal(read_documents, str(tmp_path / "x.parquet")).endswith("no documents in it")

    @pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.jsonl"])
    @pytest.mark.parametrize(
        ("content", "line", "byte"),
        [
            (b"name\nfine\ncaf\xe9\n", 3, "byte 13 (0xe9)"),
            (b"name\na\0b\n", 2, "byte 6 (0x00)"),
            ("name\na\n".encode("utf-16"), 1, "byte 0 (0xff)"),
            (b"\xef\xbb\xbfname\n\xff", 2, "byte 8 (0xff)"),
        ],
        ids=["latin-1", "nul", "utf-16", "byte order mark"],
    )
    def test_not_utf8(self, tmp_path, name, content, line, byte):
        path = write(tmp_path / name, content)
        assert refusal(read_labels, path) == f"{path}:{line}: {byte} is not UTF-8; convert the file to UTF-8"

    @pytest.mark.parametrize("keep", [0, 20, -20])
    def test_corrupt_parquet(self, tmp_path, keep):
        path = write_table(tmp_path / "x.parquet", [{"name": "a" * 500}])
        write(Path(path), Path(path).read_bytes()[:keep])
        assert refusal(read_labels, path).startswith(f"{path}: not readable as parquet: ")

    def test_parquet_damaged_inside(self, tmp_path):
        path = write_table(tmp_path / "x.parquet", [{"name": "a" * 500}])
        data = Path(path).read_bytes()
        write(Path(path), data[:4] + b"\xff" * 40 + data[44:])
        assert refusal(read_labels, path).startswith(f"{path}: not readable as parquet: ")


class TestColumnsThatAreMissing:
    """The message lists the columns that exist, and the option that names one."""

    def test_neither_id_nor_name(self, tmp_path):
        path = write(tmp_path / "x.csv", "code,title\n1,Oil\n")
        columns = "its columns are 'code', 'title'; choose one with --name-column"
        assert refusal(read_labels, path) == f"{path}: no column 'name'; {columns}"

    def test_no_text(self, tmp_path):
        path = write(tmp_path / "x.jsonl", '{"id": "1"}\n{"body": "hi"}\n')
        columns = "its columns are 'id', 'body'; choose one with --text-column"
        assert refusal(read_documents, path) == f"{path}: no column 'text'; {columns}"

    @pytest.mark.parametrize("field", ["id", "name", "description", "aliases"])
    def test_a_column_asked_for(self, tmp_path, field):
        path = write(tmp_path / "x.csv", "id,name\n1,Oil\n")
        option = "label-id" if field == "id" else field  # --id-column is the documents'
        message = refusal(read_labels, path, {field: "Nmae"})
        assert message.endswith(f"no column 'Nmae'; its columns are 'id', 'name'; choose one with --{option}-column")

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_two_columns_of_one_name(self, tmp_path, suffix):
        path = tmp_path / f"x{suffix}"
        if suffix == ".csv":
            write(path, "id,name,id\n1,Oil,2\n")
        else:
            pq.write_table(pa.Table.from_arrays([[1], ["Oil"], [2]], ["id", "name", "id"]), path)
        assert re.search(r"2 columns are named 'id'; rename", refusal(read_labels, str(path)))


class TestMalformedLabelsAndDocuments:
    """Each message says file, line and field: the real line, wherever newlines stand."""

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("x.csv", 'id,name\n1,"two\nlines"\n\n2, \n', ":5: field 'name' must not be blank"),
            ("x.csv", "id,name\n,Oil\n", ":2: field 'id' must not be blank"),
            ("x.csv", "id,name\n1,a\n2\n", ':3: 1 fields where the header has 2; put "quotes"'),
            ("x.csv", "id,name\n1,a,b\n", ':2: 3 fields where the header has 2; put "quotes"'),
            ("x.csv", 'id,name\n1,a\n2,"open\n3,c\n', ":3: malformed row: unexpected end of data; close quotes"),
            ("x.csv", 'id,name\n1,"a"b\n', ":2: malformed row: "),
            ("x.jsonl", '{"name": "a"}\n\n{"name": "b"\n', ":3: malformed JSON: "),
            ("x.jsonl", '{"name": "\\ud800"}\n', ":1: malformed JSON: "),
            ("x.jsonl", '{"name": NaN}\n', ":1: malformed JSON: expected value at column 10; write one {...} a line"),
            ("x.jsonl", '{"name": ' + "[" * 9999, ":1: malformed JSON: "),
            ("x.jsonl", '["name"]\n', ":1: not a JSON object; write one {...} a line"),
            ("x.jsonl", '{"id": null, "name": "a"}\n', ":1: field 'id' must not be blank"),
            ("x.jsonl", '{"id": "1", "name": "a"}\n{"name": "b"}\n', ":2: field 'id' must not be blank"),
            ("x.jsonl", '{"name": ["a"]}\n', ":1: field 'name': Input should be a valid string"),
            ("x.jsonl", '{"id": true, "name": "a"}\n', ":1: field 'id': Input should be a valid string"),
            ("x.jsonl", '{"name": "a", "description": 5}\n', ":1: field 'description': Input should be a valid string"),
            ("x.jsonl", '{"name": "a", "aliases": 5}\n', ":1: field 'aliases': Input should be a valid list"),
            (
                "x.jsonl",
                '{"name": "a", "aliases": ["b", 5]}\n',
                ":1: field 'aliases.1': Input should be a valid string",
            ),
        ],
    )
    def test_labels(self, tmp_path, name, content, problem):
        path = write(tmp_path / name, content)
        assert refusal(read_labels, path).startswith(path + problem)

    @pytest.mark.parametrize(
        ("name", "content", "problem"),
        [
            ("x.csv", 'id,text\n"a\nb",hi\n" ",hi\n', ":4: field 'id' must not be blank"),
            ("x.jsonl", '{"text": "a"}\n{"id": 1}\n', ":1: field 'id' must not be blank"),
            ("x.csv", f"id,text\n{'x' * 1001},hi\n", ":2: field 'id': String should have at most 1000 characters"),
            ("x.jsonl", '{"text": "a"}\n{"t": 1}\n', ":2: field 'text': Input should be a valid string"),
            ("x.jsonl", '{"text": {"a": 1}}\n', ":1: field 'text': Input should be a valid string"),
        ],
    )
    def test_documents(self, tmp_path, name, content, problem):
        path = write(tmp_path / name, content)
        assert refusal(read_documents, path).startswith(path + problem)

    @pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
    def test_whatever_the_bytes_only_a_user_error_comes_out(self, tmp_path, name):
        good = {"x.csv": 'id,name\n1,"a ""b"",\nc"\n2,é\n', "x.jsonl": '{"id": 1, "name": "\\u00e9", "aliases": []}\n'}
        random = Random(0)  # noqa: S311 (no secret hangs on it)
        outcomes = []
        for _ in range(300):
            data = bytearray(good[name].encode())
            for _ in range(random.randint(1, 3)):
                data[random.randrange(len(data))] = random.choice(b'"\n\r,{}[]: \\\0\xff1a')
            try:
                outcomes.append(f"{len(read_labels(write(tmp_path / name, bytes(data))))} labels")
            except UserError as error:
                outcomes.append(str(error))
        assert all("\n" not in outcome for outcome in outcomes)
        assert 0 < sum(outcome.endswith(" labels") for outcome in outcomes) < 300

    def test_the_field_has_the_users_name_for_it(self, tmp_path):
        path = write(tmp_path / "x.jsonl", '{"name": "a", "syn": 5}\n')
        message = refusal(read_labels, path, {"aliases": "syn"})
        assert message.startswith(f"{path}:1: field 'syn': Input should be a valid list")

    def test_parquet_rows_are_counted_from_one(self, tmp_path):
        path = write_table(tmp_path / "x.parquet", [{"name": "a"}, {"name": None}])
        assert refusal(read_labels, path) == f"{path}: row 2: field 'name' must not be blank"

    def test_repeated_ids(self, tmp_path):
        path = write(tmp_path / "x.csv", 'id,name\nA,"a\nb"\nB,b\nA,c\nB,d\nA,e\n')
        repeats = f"field 'id' repeats the id 'A' of {path}:2; make ids unique (3 repeated in all)"
        assert refusal(read_labels, path) == f"{path}:5: {repeats}"

    def test_repeated_names_without_ids(self, tmp_path):
        path = write(tmp_path / "x.txt", "Java\n\n Java \n")
        assert refusal(read_labels, path).startswith(f"{path}:3: field 'name' repeats the id 'Java' of {path}:1;")

    def test_repeated_document_ids_of_parquet(self, tmp_path):
        path = write_table(tmp_path / "x.parquet", [{"id": 1, "text": ""}, {"id": 1, "text": ""}])
        assert refusal(read_documents, path).startswith(
            f"{path}: row 2: field 'id' repeats the id '1' of {path}: row 1;"
        )
