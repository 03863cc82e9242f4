"""Read catalogues and documents.

A fault in a user's file is always a `UserError` of one line: the file, the line, the field, what to do.
"""

import codecs
import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json, to_jsonable_python

from ctd_agent.errors import UserError
from ctd_agent.records import validated
from ctd_agent.schema import Document, Gold, Label

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", *DELIMITERS, ".jsonl", ".ndjson", ".parquet")

Fields = dict[str, Any]


class _Table(NamedTuple):
    """A source's columns and its rows, each with its place as messages name it: FILE:LINE."""

    name: str
    columns: list[str]
    rows: list[tuple[str, Fields]]


def read_labels(source: str, columns: Mapping[str, str] = {}) -> list[Label]:
    """Read a catalogue (txt, csv, tsv, jsonl, parquet; `-` for plain text or JSONL on standard input).

    A line of plain text is a label's name and id. Elsewhere columns hold `id`, `name`, `description`
    and `aliases` (a list, or a string split on `|`), or those that `columns` names for them; id and
    name stand in for each other where one has no column. Other columns become metadata, without
    their nulls. All is read into memory.

    Raises:
        UserError: The source cannot be read, has no labels or not the columns, or a label is
            malformed or repeats an id.
    """
    table = _load(source, "labels", lambda _, text: {"name": text.strip()})
    column = _resolve(table, columns, ("id", "name", "description", "aliases"), needed=("name", "id"))
    column = {"id": column.get("name", ""), "name": column.get("id", "")} | column
    labels = [_label(place, fields, column) for place, fields in table.rows]
    _check_unique(table, column["id"], [label.id for label in labels])
    return labels


def read_documents(source: str, columns: Mapping[str, str] = {}) -> list[Document]:
    """Read documents (txt, csv, tsv, jsonl, parquet; `-` for plain text or JSONL on standard input).

    A non-blank line of plain text is a document, its line number the id. Elsewhere the columns `text`
    and `id` count (without an id: the row number), or those that `columns` names for them; others are
    ignored. A text may be empty. All is read into memory.

    Raises:
        UserError: The source cannot be read, has no documents or not the columns, or a document is
            malformed or repeats an id.
    """
    table = _load(source, "documents", lambda line, text: {"id": str(line), "text": text})
    column = _resolve(table, columns, ("id", "text"), needed=("text",))
    documents = [_document(place, row, fields, column) for row, (place, fields) in enumerate(table.rows, 1)]
    _check_unique(table, column.get("id", "id"), [document.id for document in documents])
    return documents


def read_gold(source: str, columns: Mapping[str, str] = {}) -> dict[str, Gold]:
    """Read the right labels of documents (csv, tsv, jsonl, parquet), by document id.

    The columns `id` and `labels` count, and `filter_labels` where it is there, or those that `columns`
    names for them: lists of label ids, or strings split on `|`. A document without right labels is
    no error here. Others, `text` among them, are ignored: documents and gold may be one file.

    Raises:
        UserError: The source cannot be read, or has not the columns, a row is malformed, or an id is
            there twice.
    """
    table = _load(source, "gold labels", lambda line, text: {"id": str(line), "labels": text})
    column = _resolve(table, columns, ("id", "labels", "filter_labels"), needed=("labels",))
    if "id" not in column:
        raise UserError(f"{table.name}: no column 'id': gold is matched to documents by it")
    rows = [(_identity(place, fields, column["id"]), place, fields) for place, fields in table.rows]
    _check_unique(table, column["id"], [key for key, _, _ in rows])
    return {
        key: Gold(
            _ids(place, fields, column["labels"]), _ids(place, fields, column.get("filter_labels", "filter_labels"))
        )
        for key, place, fields in rows
    }


def _ids(place: str, fields: Fields, column: str) -> frozenset[str]:
    value = fields.get(column)
    if isinstance(value, str):
        value = [part.strip() for part in value.split("|") if part.strip()]
    if not isinstance(value, list | None) or not all(type(one) in (str, int) for one in value or []):
        raise UserError(f"{place}: field {column!r} must be a list of label ids, or a string of them split on |")
    return frozenset(map(str, value or []))


def _load(source: str, kind: str, read_plain: Callable[[int, str], Fields]) -> _Table:
    name, suffix, data = _open_stdin() if source == "-" else _open_file(source)
    if suffix == ".parquet":
        table = _parquet_table(name, data)
    elif suffix in DELIMITERS:
        table = _delimited_table(name, data, DELIMITERS[suffix])
    else:
        table = _line_table(name, data, read_plain if suffix == ".txt" else partial(_json_object, name))
    if not table.rows:
        raise UserError(f"{name}: no {kind} in it")
    return table


def _open_stdin() -> tuple[str, str, bytes]:
    data = sys.stdin.buffer.read()
    is_json = data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{")
    return "standard input", ".jsonl" if is_json else ".txt", data


def _open_file(source: str) -> tuple[str, str, bytes]:
    suffix = Path(source).suffix.lower()
    try:
        with Path(source).open("rb") as file:
            if suffix not in SUFFIXES:
                raise UserError(f"{source}: unknown format {suffix!r}; use one of {', '.join(SUFFIXES)}")
            return source, suffix, file.read()
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error.strerror}") from error


def _lines(name: str, data: bytes, newline: str | None = None) -> io.TextIOWrapper:
    """The lines of a text, once all of it has proved to be UTF-8 and free of NUL."""
    try:
        data.decode()
        fault = data.find(b"\0")
    except UnicodeDecodeError as error:
        fault = error.start
    if fault >= 0:
        line = data.count(b"\n", 0, fault) + 1
        raise UserError(f"{name}:{line}: byte {fault} ({data[fault]:#04x}) is not UTF-8; convert the file to UTF-8")
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=newline)


def _line_table(name: str, data: bytes, read_line: Callable[[int, str], Fields]) -> _Table:
    lines = enumerate(_lines(name, data), 1)
    rows = [(f"{name}:{line}", read_line(line, text.removesuffix("\n"))) for line, text in lines if text.strip()]
    return _Table(name, list(dict.fromkeys(key for _, fields in rows for key in fields)), rows)


def _json_object(name: str, line: int, text: str) -> Fields:
    try:
        # Unlike json.loads, this refuses lone surrogates, and deep nesting raises no RecursionError.
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        problem = str(error).replace(" at line 1 column", " at column")
        raise UserError(f"{name}:{line}: malformed JSON: {problem}; write one {{...}} a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}:{line}: not a JSON object; write one {{...}} a line")
    return value


def _delimited_table(name: str, data: bytes, delimiter: str) -> _Table:
    csv.field_size_limit(2**31 - 1)  # the default of 131,072 characters is shorter than some documents
    reader = csv.reader(_lines(name, data, newline=""), delimiter=delimiter, strict=True)
    table = _Table(name, [], [])
    place = f"{name}:1"  # where a row starts: with newlines in quotes it spans several lines
    try:
        for cells in reader:
            if not table.columns:
                table.columns.extend(_header(place, [cell.strip() for cell in cells]))
            elif cells:
                table.rows.append((place, _cells(place, table.columns, cells)))
            place = f"{name}:{reader.line_num + 1}"
    except csv.Error as error:
        raise UserError(f'{place}: malformed row: {error}; close quotes, write a quote inside as ""') from error
    return table


def _cells(place: str, header: Sequence[str], cells: Sequence[str]) -> Fields:
    if len(cells) != len(header):
        problem = f"{len(cells)} fields where the header has {len(header)}"
        raise UserError(f'{place}: {problem}; put "quotes" around a text with delimiters or newlines')
    return dict(zip(header, cells, strict=True))


def _parquet_table(name: str, data: bytes) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = _header(name, file.schema_arrow.names)
        records = [record for batch in file.iter_batches() for record in batch.to_pylist()]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name}: not readable as parquet: {' '.join(str(error).split())}") from error
    return _Table(name, columns, [(f"{name}: row {row}", record) for row, record in enumerate(records, 1)])


def _header(place: str, columns: list[str]) -> list[str]:
    for column, count in Counter(columns).items():
        if count > 1:
            raise UserError(f"{place}: {count} columns are named {column!r}; rename all but one")
    return columns


def _resolve(table: _Table, columns: Mapping[str, str], fields: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    """The fields that a table has, each with its column: one at least of those needed, all that the user named."""
    column_of = {field: columns.get(field, field) for field in fields}
    present = {field: column for field, column in column_of.items() if column in table.columns}
    missing = [field for field, column in columns.items() if column not in table.columns]
    if missing or present.keys().isdisjoint(needed):
        field = (missing or needed)[0]
        option = "label-id" if field == "id" and "name" in fields else field
        problem = f"no column {columns.get(field, field)!r}; its columns are {', '.join(map(repr, table.columns))}"
        raise UserError(f"{table.name}: {problem}; choose one with --{option}-column")
    return present


def _label(place: str, fields: Fields, column: Mapping[str, str]) -> Label:
    values = {field: fields[name] for field, name in column.items() if fields.get(name) is not None}
    values["id"] = _identity(place, fields, column["id"])
    values["name"] = _identity(place, fields, column["name"])
    if isinstance(aliases := values.get("aliases"), str):
        values["aliases"] = [alias.strip() for alias in aliases.split("|") if alias.strip()]
    values["metadata"] = _metadata({key: value for key, value in fields.items() if key not in column.values()})
    return validated(place, Label.model_validate, values, column)


def _metadata(extra: Fields) -> Fields:
    base = extra.pop("metadata") if isinstance(extra.get("metadata"), dict) else {}
    # Parquet has dates, decimals, bytes and NaN, which JSON has not.
    jsonable = to_jsonable_python(base | extra, bytes_mode="base64", inf_nan_mode="null", fallback=str)
    return {key: value for key, value in jsonable.items() if value is not None}


def _document(place: str, row: int, fields: Fields, column: Mapping[str, str]) -> Document:
    identity = _identity(place, fields, column["id"]) if "id" in column else str(row)
    return validated(place, Document.model_validate, {"id": identity, "text": fields.get(column["text"])}, column)


def _identity(place: str, fields: Fields, column: str) -> Any:
    """An id or a name: not blank; a number is written out, other types are left to the model to refuse."""
    value = fields.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{place}: field {column!r} must not be blank")
    return str(value) if type(value) in (int, float) else value


def _check_unique(table: _Table, column: str, ids: Sequence[str]) -> None:
    first: dict[str, str] = {}
    rows = zip(table.rows, ids, strict=True)
    repeats = [(place, id_) for (place, _), id_ in rows if first.setdefault(id_, place) != place]
    for place, id_ in repeats[:1]:
        problem = f"field {column!r} repeats the id {id_!r} of {first[id_]}"
        raise UserError(f"{place}: {problem}; make ids unique ({len(repeats)} repeated in all)")
