"""Our own JSONL files: append to them, read them, and go on with them after they were cut."""

import os
from collections.abc import Callable, Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ctd_agent.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def append_lines(file: IO[bytes], *records: BaseModel) -> None:
    """Append records as JSON lines to a file opened without a buffer: all of them, or none.

    Once this returns, the lines survive the death of the process, though not a power cut.
    Raises OSError where they do not fit.
    """
    lines = b"".join(record.model_dump_json().encode() + b"\n" for record in records)
    end = file.seek(0, os.SEEK_END)
    try:
        while lines:  # a full disk takes a part; it says so at the rest
            lines = lines[file.write(lines) :]
    except OSError:
        file.truncate(end)
        raise


def read_records(path: Path, model: type[Model]) -> Iterator[Model]:
    """Read a JSONL file of ours record by record, also while it is still being written.

    A torn last line, as a process leaves it that dies while writing, is skipped. So are blank lines.

    Raises:
        UserError: The file cannot be read, or another line is not a record.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not file.peek(1) and _is_torn(line):
                    return
                if line.strip():
                    yield validated(f"{path}:{number}: not a {model.__name__}", model.model_validate_json, line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def read_record(path: Path, model: type[Model], what: str, advice: str = "") -> Model:
    """Read a file that holds one record. `what` is the kind of file, `advice` helps where there is none.

    Raises UserError where it cannot be read, or holds something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}{advice}") from error
    return validated(f"{path}: not {what}", model.model_validate_json, data)


def write_text(path: Path, text: str) -> None:
    """Write a file, and its folder where that is new. Raises UserError where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def cut_torn_line(path: Path) -> None:
    """Cut a torn last line, one that is not JSON, off a JSONL file of ours, so that appending goes on cleanly.

    One that only lacks its newline gets it. Only what starts as a record is cut: another kind of
    file, given by mistake, stays as it is. No file is no error.

    Raises UserError where the file cannot be read or written.
    """
    try:
        with path.open("r+b") as file:
            if not file.seek(0, os.SEEK_END):
                return
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:  # a log may be long: only its end is read
                start = data.rfind(b"\n", 0, len(data) - 1) + 1
                last = data[start:]
            if _is_torn(last):
                file.truncate(start)
            elif last[:1] == b"{" and last[-1:] != b"\n":
                file.write(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be resumed: {error.strerror}") from error


def validated(place: str, validate: Callable[[Any], Model], data: Any, column: Mapping[str, str] = {}) -> Model:
    """Return the record that `validate` makes of a file's data at `place`.

    Raises UserError with pydantic's first complaint, on one line, that names the field as the file does:
    `column` has the names that differ.
    """
    try:
        return validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(column.get(str(part), str(part)) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{place}: field {where!r}: {problem}" if where else f"{place}: {problem}") from error


def _is_torn(line: bytes) -> bool:
    if not line.startswith((b"{", b"\0")):  # some file systems leave zeros after a crash
        return False
    try:
        return from_json(line) is None
    except ValueError:
        return True
