"""Our own JSONL files: append to them, read them, and go on with them after they were cut."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ctd_agent.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def opened(path: Path) -> IO[bytes]:
    """Open a file to append to, without a buffer. A new one only its owner may read.

    Raises OSError where it cannot be.
    """
    return open(path, "ab", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


def put_in_place(draft: Path, path: Path) -> None:
    """Rename a file or folder to the one that it replaces, whose mode it takes. Both survive a power cut from then on.

    Raises OSError where it cannot be.
    """
    if path.is_file():
        shutil.copymode(path, draft)
    for written in [draft, *draft.rglob("*")]:
        _sync(written)
    os.replace(draft, path)
    _sync(path.parent)


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


class Line(NamedTuple):
    """A line of a file: its place as an error names it, the byte that it begins at, its bytes."""

    place: str
    start: int
    data: bytes


def read_lines(path: Path) -> Iterator[Line]:
    """Read a JSONL file of ours line by line, also while it is still being written.

    A torn last line, as a process leaves it that dies while writing, is skipped. So are blank lines.
    Raises UserError where the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                # A line that is being written ends without a newline, even where the rest has come meanwhile.
                if (line[-1:] != b"\n" or not file.peek(1)) and _is_torn(line):
                    return
                if not line.isspace():
                    yield Line(f"{path}:{number}", start, line)
                start += len(line)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def read_records(path: Path, model: type[Model]) -> Iterator[Model]:
    """Read a JSONL file of ours record by record, as `read_lines` does.

    Raises:
        UserError: The file cannot be read, or a line is not a record.
    """
    for line in read_lines(path):
        yield validated(f"{line.place}: not a {model.__name__}", model.model_validate_json, line.data)


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
    """Write a file, whole or not at all, and its folder where that is new. Raises UserError where it cannot be.

    A link stays, and the file that it names is written. What is no file, as /dev/stdout, is written to.
    """
    real = path.resolve()
    draft = real.with_name(f"{real.name}.part")
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        if real.exists() and not real.is_file():
            real.write_text(text, encoding="utf-8")
            return
        try:
            draft.write_text(text, encoding="utf-8")
            put_in_place(draft, real)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def cut_torn_line(path: Path, *kinds: type[BaseModel], cut: bool = True) -> None:
    """Cut a torn last line, one that is not JSON, off a JSONL file of ours, so that appending goes on cleanly.

    One that only lacks its newline gets it. `kinds` are the file's records, that of its first line first: only the
    beginning of a record is cut, behind a whole one or alone. With `cut` false nothing is written, and all that is
    checked is whether it may be. No file is no error.

    Raises UserError where the file cannot be read or written, or its torn line is not ours.
    """
    try:
        with path.open("r+b") as file:
            if not file.seek(0, os.SEEK_END):
                return
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:  # a log may be long: only its end is read
                start = data.rfind(b"\n", 0, len(data) - 1) + 1
                before = data[data.rfind(b"\n", 0, max(start - 1, 0)) + 1 : start]
                last = data[start:]
            if _is_torn(last):
                if not _is_ours(before, last, kinds):
                    raise UserError(f"{path}: its last line is broken and not one of ours; give another file")
                if cut:
                    file.truncate(start)
            elif cut and last[:1] == b"{" and last[-1:] != b"\n":
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


def _is_ours(before: bytes, torn: bytes, kinds: Sequence[type[BaseModel]]) -> bool:
    """Tell whether a torn line is the beginning of a record: a whole one is before it, or it has two of its fields."""
    if before:
        return any(_is_record(before, kind) for kind in kinds)
    if not torn.strip(b"\0\n"):
        return True
    try:
        begun = from_json(torn, allow_partial="trailing-strings")
    except ValueError:
        return False
    return isinstance(begun, dict) and [*begun][:2] == [*kinds[0].model_fields][:2]


def _is_record(line: bytes, kind: type[BaseModel]) -> bool:
    try:
        return bool(kind.model_validate_json(line))
    except ValidationError:
        return False


def _is_torn(line: bytes) -> bool:
    if not line.startswith((b"{", b"\0")):  # some file systems leave zeros after a crash
        return False
    try:
        return from_json(line) is None
    except ValueError:
        return True


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
