"""Labels, documents and gold labels from the rows of a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from ctd_agent.errors import UserError
from ctd_agent.files.tables import Fields, Table, load_table
from ctd_agent.records import validated
from ctd_agent.schema import Document, Gold, Label


def read_labels(source: str, columns: Mapping[str, str] = {}) -> list[Label]:
    r"""Read a catalogue from a txt, csv, tsv, jsonl or parquet file (`-`: text or JSONL on standard input).

    Raises UserError if the file is unreadable or empty, a column is missing, a label is malformed or an id repeats.

    A line of plain text is a label's name and id. The other formats have the columns `id`, `name`, `description` and
    `aliases` (a list, or a string split on `|`). `columns` maps these fields to other column names. Without ids
    the names serve as ids, and vice versa. All other columns become metadata.

    >>> from pathlib import Path
    >>> _ = Path("labels.csv").write_text("id,name,aliases\nJ45,Asthma,bronchial asthma\n")
    >>> read_labels("labels.csv")
    [Label(id='J45', name='Asthma', description='', aliases=['bronchial asthma'], metadata={})]
    """
    table = load_table(source, "labels", lambda _, text: {"name": text.strip()})
    column = _resolve(table, columns, ("id", "name", "description", "aliases"), needed=("name", "id"))
    column = {"id": column.get("name", ""), "name": column.get("id", "")} | column
    labels = [_label(place, fields, column) for place, fields in table.rows]
    _check_unique(table, column["id"], [label.id for label in labels])
    return labels


def read_documents(source: str, columns: Mapping[str, str] = {}) -> list[Document]:
    r"""Read documents from a txt, csv, tsv, jsonl or parquet file (`-`: text or JSONL on standard input).

    Raises UserError if the file is unreadable or empty, a column is missing, a document is malformed or an id repeats.

    A non-blank line of plain text is a document with its line number as id. The other formats have the columns `text`
    and `id` (by default the row number). `columns` maps these fields to other column names.

    >>> from pathlib import Path
    >>> _ = Path("documents.txt").write_text("Rates rise again.\n")
    >>> read_documents("documents.txt")
    [Document(id='1', text='Rates rise again.')]
    """
    table = load_table(source, "documents", lambda line, text: {"id": str(line), "text": text})
    column = _resolve(table, columns, ("id", "text"), needed=("text",))
    documents = [_document(place, row, fields, column) for row, (place, fields) in enumerate(table.rows, 1)]
    _check_unique(table, column.get("id", "id"), [document.id for document in documents])
    return documents


def read_gold(source: str, columns: Mapping[str, str] = {}) -> dict[str, Gold]:
    r"""Read the gold labels of documents, by document id, from a csv, tsv, jsonl or parquet file.

    Raises UserError if the file is unreadable or empty, a column is missing, a row is malformed or an id repeats.

    The columns are `id`, `labels` and optionally `filter_labels`: lists of label ids, or strings split on `|`.
    `columns` maps these fields to other column names. Documents and their gold labels may share a file.

    >>> from pathlib import Path
    >>> _ = Path("gold.csv").write_text("id,labels\nd1,J44|J45\n")
    >>> sorted(read_gold("gold.csv")["d1"].labels)
    ['J44', 'J45']
    """
    table = load_table(source, "gold labels", lambda line, text: {"id": str(line), "labels": text})
    column = _resolve(table, columns, ("id", "labels", "filter_labels"), needed=("labels",))
    if "id" not in column:
        raise UserError(f"{table.name}: no column 'id': gold is matched to documents by it")
    column = {"filter_labels": "filter_labels"} | column
    ids = [_identity(place, fields, column["id"]) for place, fields in table.rows]
    _check_unique(table, column["id"], ids)
    return {
        key: Gold(_label_ids(place, fields, column["labels"]), _label_ids(place, fields, column["filter_labels"]))
        for key, (place, fields) in zip(ids, table.rows, strict=True)
    }


def _resolve(table: Table, columns: Mapping[str, str], fields: Sequence[str], needed: Sequence[str]) -> dict[str, str]:
    """Map a table's fields to its columns. It must have all of `columns` and at least one of `needed`."""
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
    values |= {field: _identity(place, fields, column[field]) for field in ("id", "name")}
    if isinstance(aliases := values.get("aliases"), str):
        values["aliases"] = _split(aliases)
    values["metadata"] = _metadata({key: value for key, value in fields.items() if key not in column.values()})
    return validated(place, Label.model_validate, values, column)


def _metadata(extra: Fields) -> Fields:
    base = extra.pop("metadata") if isinstance(extra.get("metadata"), dict) else {}
    # Parquet has dates, decimals, bytes and NaN. JSON has none of them.
    jsonable = to_jsonable_python(base | extra, bytes_mode="base64", inf_nan_mode="null", fallback=str)
    return {key: value for key, value in jsonable.items() if value is not None}


def _document(place: str, row: int, fields: Fields, column: Mapping[str, str]) -> Document:
    identity = _identity(place, fields, column["id"]) if "id" in column else str(row)
    return validated(place, Document.model_validate, {"id": identity, "text": fields.get(column["text"])}, column)


def _identity(place: str, fields: Fields, column: str) -> Any:
    """Return an id or a name, numbers as strings. The record's own validation rejects other types."""
    value = fields.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UserError(f"{place}: field {column!r} must not be blank")
    return str(value) if type(value) in (int, float) else value


def _label_ids(place: str, fields: Fields, column: str) -> frozenset[str]:
    value = fields.get(column)
    ids = _split(value) if isinstance(value, str) else [] if value is None else value
    if not isinstance(ids, list) or not all(type(id_) in (str, int) for id_ in ids):
        raise UserError(f"{place}: field {column!r} must be a list of label ids, or a string of them split on |")
    return frozenset(map(str, ids))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split("|") if part.strip()]


def _check_unique(table: Table, column: str, ids: Sequence[str]) -> None:
    first: dict[str, str] = {}
    rows = zip(table.rows, ids, strict=True)
    repeats = [(place, id_) for (place, _), id_ in rows if first.setdefault(id_, place) != place]
    if repeats:
        place, id_ = repeats[0]
        problem = f"field {column!r} repeats the id {id_!r} of {first[id_]}"
        raise UserError(f"{place}: {problem}; make ids unique ({len(repeats)} repeated in all)")
