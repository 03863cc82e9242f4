"""Readers of the extreme classification repository's data sets (Bhatia et al. 2016), plain or gzipped.

Two layouts are supported. JSON lines with titles: `lbl.json`, `trn.json` and `tst.json`, with `title`, `content`
and `target_ind`. Raw texts, one a line, with sparse matrices: `Y.txt`, `trn_X.txt`, `tst_X.txt`, `trn_X_Y.txt`
and `tst_X_Y.txt`. A matrix has the header `ROWS COLUMNS`, then a line `LABEL:VALUE ...` per document.

Labels to leave out of scoring are optional: `filter_labels_train.txt` and `filter_labels_test.txt`, or
`trn_filter_labels.txt` and `tst_filter_labels.txt`, with a line `DOCUMENT LABEL` per pair. All numbers start at 0.
"""

import gzip
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from ctd_agent.errors import UserError
from ctd_agent.files.tables import Fields, json_object

CATALOGUE = ("lbl.json", "lbl.raw.json")
PREFIXES = {"train": "trn", "test": "tst"}


def read_xmc_labels(folder: Path) -> Iterator[Fields]:
    """Yield the labels. The id is the label's number, and the metadata has the repository's `uid`.

    Raises UserError if the file is missing or malformed.
    """
    if _find(folder, *CATALOGUE):
        for number, (_, row) in enumerate(_objects(folder, *CATALOGUE)):
            yield _label(number, *(str(row.get(field) or "") for field in ("title", "content", "uid")))
    else:
        for number, (_, line) in enumerate(_lines(folder, "Y.txt", "lbl_X.txt")):
            yield _label(number, line)


def read_xmc_documents(folder: Path, split: str, label_count: int) -> Iterator[Fields]:
    """Yield the documents of the split `train` or `test` with the numbers of their labels, below `label_count`.

    Raises UserError if a file is missing or malformed, or a label is not in the catalogue.
    """
    prefix = PREFIXES[split]
    filtered = _filtered(_find(folder, f"filter_labels_{split}.txt", f"{prefix}_filter_labels.txt"), label_count)
    rows = (_titled if _find(folder, *CATALOGUE) else _raw)(folder, prefix, label_count)
    return (row | filtered.get(number, {}) for number, row in enumerate(rows))


def _find(folder: Path, *names: str) -> Path | None:
    paths = [folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    return next((path for path in paths if path.is_file()), None)


def _lines(folder: Path, *names: str) -> Iterator[tuple[str, str]]:
    """Yield a file's lines with their places. Raises UserError if the file is missing or unreadable."""
    path = _find(folder, *names)
    if path is None:
        raise UserError(f"{folder}: no file {names[0]} or {names[0]}.gz; see `ctd-agent dataset --help`")
    opener: Callable[..., TextIO] = gzip.open if path.suffix == ".gz" else open
    # Some older data sets have stray Latin-1 bytes, and titles may contain a lone \r.
    with opener(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.rstrip("\r\n")
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error


def _objects(folder: Path, *names: str) -> Iterator[tuple[str, Fields]]:
    return ((place, json_object(place, line, allow_inf_nan=True)) for place, line in _lines(folder, *names))


def _label(number: int, title: str, content: str = "", uid: str = "") -> Fields:
    # Documents may have labels without a title.
    name = title.strip() or uid or f"label {number}"
    return {"id": str(number), "name": name, "description": content.strip(), "metadata": {"uid": uid} if uid else {}}


def _titled(folder: Path, prefix: str, label_count: int) -> Iterator[Fields]:
    for number, (place, row) in enumerate(_objects(folder, f"{prefix}.json", f"{prefix}.raw.json")):
        targets = row.get("target_ind")
        if not isinstance(targets, list):
            raise UserError(f"{place}: field 'target_ind' must be a list of label numbers")
        text = "\n".join(filter(None, (str(row.get(field) or "").strip() for field in ("title", "content"))))
        yield {"id": f"{prefix}-{number}", "text": text, "labels": _label_ids(place, targets, label_count)}


def _raw(folder: Path, prefix: str, label_count: int) -> Iterator[Fields]:
    texts = _lines(folder, f"{prefix}_X.txt")
    matrix = _lines(folder, f"{prefix}_X_Y.txt")
    place, size = next(matrix, (f"{prefix}_X_Y.txt", ""))
    if size.split()[1:] != [str(label_count)]:
        raise UserError(f"{place}: {size!r} is not ROWS COLUMNS with a column for each of {label_count} labels")
    number = -1
    for number, (text, targets) in enumerate(zip_longest(texts, matrix)):
        if text is None or targets is None:
            place, _ = text or targets
            raise UserError(f"{place}: {prefix}_X.txt and {prefix}_X_Y.txt have not the same number of documents")
        ids = _label_ids(targets[0], (pair.partition(":")[0] for pair in targets[1].split()), label_count)
        yield {"id": f"{prefix}-{number}", "text": text[1].strip(), "labels": ids}
    if number + 1 != int(size.split()[0]):
        raise UserError(f"{place}: {size.split()[0]} documents are announced, {number + 1} are there")


def _label_ids(place: str, numbers: Iterable[Any], label_count: int) -> list[str]:
    ids = [str(number) for number in numbers]
    if wrong := [id_ for id_ in ids if not (id_.isdecimal() and int(id_) < label_count)]:
        raise UserError(f"{place}: {wrong[0]!r} is no label's number: there are {label_count}, from 0")
    return ids


def _filtered(path: Path | None, label_count: int) -> Mapping[int, dict[str, list[str]]]:
    """Return the field `filter_labels` of the documents that have it, by document number."""
    filtered: dict[int, dict[str, list[str]]] = defaultdict(lambda: {"filter_labels": []})
    for place, line in _lines(path.parent, path.name.removesuffix(".gz")) if path else ():
        if line.strip():
            document, _, label = line.strip().partition(" ")
            if not document.isdecimal():
                raise UserError(f"{place}: not two numbers, a document's and a label's")
            filtered[int(document)]["filter_labels"] += _label_ids(place, [label.strip()], label_count)
    return filtered
