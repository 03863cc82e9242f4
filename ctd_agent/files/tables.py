"""A txt, csv, tsv, jsonl or parquet file, or standard input, as columns and rows."""

import codecs
import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from ctd_agent.errors import UserError, one_line

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".txt", *DELIMITERS, ".jsonl", ".ndjson", ".parquet")
Fields = dict[str, Any]


class Table(NamedTuple):
    """A file's columns, and its rows with their places for error messages: FILE:LINE."""

    name: str
    columns: list[str]
    rows: list[tuple[str, Fields]]


def load_table(source: str, kind: str, read_plain: Callable[[int, str], Fields]) -> Table:
    """Read a whole file, or standard input for `-`. `read_plain` makes a row from a plain line's number and text.

    Raises a one-line UserError if the source is unreadable, malformed or has no rows, which it calls `kind`.
    """
    name, suffix, data = _open_stdin() if source == "-" else _open_file(source)
    if suffix == ".parquet":
        table = _parquet_table(name, data)
    elif suffix in DELIMITERS:
        table = _delimited_table(name, data, DELIMITERS[suffix])
    elif suffix == ".txt":
        table = _line_table(name, data, read_plain)
    else:
        table = _line_table(name, data, lambda line, text: json_object(f"{name}:{line}", text))
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
    """Return a text's lines. Raises UserError unless all of it is UTF-8 without NUL bytes."""
    try:
        data.decode()
        fault = data.find(b"\0")
    except UnicodeDecodeError as error:
        fault = error.start
    if fault >= 0:
        line = data.count(b"\n", 0, fault) + 1
        raise UserError(f"{name}:{line}: byte {fault} ({data[fault]:#04x}) is not UTF-8; convert the file to UTF-8")
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=newline)


def _line_table(name: str, data: bytes, read_line: Callable[[int, str], Fields]) -> Table:
    lines = enumerate(_lines(name, data), 1)
    rows = [(f"{name}:{line}", read_line(line, text.removesuffix("\n"))) for line, text in lines if text.strip()]
    return Table(name, list(dict.fromkeys(key for _, fields in rows for key in fields)), rows)


def json_object(place: str, line: str, allow_inf_nan: bool = False) -> Fields:
    """Parse a line that must be a JSON object. Raises UserError if it is not."""
    try:
        # Unlike json.loads, from_json rejects lone surrogates and raises no RecursionError.
        value = from_json(line, allow_inf_nan=allow_inf_nan)
    except ValueError as error:
        problem = str(error).replace(" at line 1 column", " at column")
        raise UserError(f"{place}: malformed JSON: {problem}; write one {{...}} a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; write one {{...}} a line")
    return value


def _delimited_table(name: str, data: bytes, delimiter: str) -> Table:
    csv.field_size_limit(2**31 - 1)  # by default 131,072 characters, too few for some documents
    reader = csv.reader(_lines(name, data, newline=""), delimiter=delimiter, strict=True)
    table = Table(name, [], [])
    place = f"{name}:1"  # the row's first line; quoted newlines make it span several
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


def _parquet_table(name: str, data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        columns = _header(name, file.schema_arrow.names)
        records = [record for batch in file.iter_batches() for record in batch.to_pylist()]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name}: not readable as parquet: {one_line(error)}") from error
    return Table(name, columns, [(f"{name}: row {row}", record) for row, record in enumerate(records, 1)])


def _header(place: str, columns: list[str]) -> list[str]:
    for column, count in Counter(columns).items():
        if count > 1:
            raise UserError(f"{place}: {count} columns are named {column!r}; rename all but one")
    return columns
