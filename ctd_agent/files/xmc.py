"""Data sets of others, as a catalogue and documents with their right labels.

What is written: catalogue.jsonl, and train.jsonl, dev.jsonl and test.jsonl with `id`, `text`, `labels` and,
where there are any, `filter_labels`. Where there is no dev split, a tenth of train becomes it, by a hash.
"""

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from pydantic_core import from_json

from ctd_agent.errors import UserError

Row = dict[str, Any]
SPLITS = {"trn": "train", "tst": "test"}  # as the extreme classification repository calls them
HF_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}
DEV = 10  # percent of train


def convert_xmc(folder: Path, out: Path) -> dict[str, int]:
    """Convert a data set of the extreme classification repository (Bhatia et al. 2016); return the rows of each file.

    Two of its forms are read, plain or gzipped. JSON lines with titles: `lbl.json`, `trn.json`, `tst.json`
    (`title`, `content`, `target_ind`). Or raw texts, one a line, with sparse matrices: `Y.txt`, `trn_X.txt`,
    `tst_X.txt`, and `trn_X_Y.txt`, `tst_X_Y.txt` (`ROWS COLUMNS`, then `LABEL:VALUE ...` a line). Beside them,
    `filter_labels_train.txt` and `filter_labels_test.txt`, or `trn_filter_labels.txt` and
    `tst_filter_labels.txt`, may say which labels of which document do not count (`DOCUMENT LABEL` a line,
    from 0). A label's id is its line, from 0; its repository's is in the metadata.

    Raises UserError for files that are not there or are malformed.
    """
    titled = _find(folder, "lbl.json", "lbl.raw.json") is not None
    count = _write(out / "catalogue.jsonl", _titled_labels(folder) if titled else _raw_labels(folder))
    written = {"catalogue": count}
    for short, split in SPLITS.items():
        filtered = _filtered(_find(folder, f"filter_labels_{split}.txt", f"{short}_filter_labels.txt"), count)
        rows = _titled(folder, short, count) if titled else _raw(folder, short, count)
        numbered = (_filter(row, filtered.get(number)) for number, row in enumerate(rows))
        written |= _write_split(out, split, numbered, with_dev=True)
    return written


def convert_hf(source: str, out: Path, text: str = "text", labels: str = "labels") -> dict[str, int]:
    """Convert a Hugging Face data set, a folder that it was saved to or its name; return the rows of each file.

    `text` and `labels` are its columns; the labels are class labels, or strings, one or a list. With no class
    labels the catalogue is what its documents have. Raises UserError where it cannot be loaded, has not these
    columns or no split named train or test.
    """
    splits = _load(source)
    for split in splits.values():
        if absent := {text, labels} - set(split.column_names):
            raise UserError(
                f"{source}: no column {min(absent)!r}; its columns are {', '.join(split.column_names)}; "
                f"choose with --text-column and --labels-column"
            )
    names = _class_names(next(iter(splits.values())).features[labels])
    catalogue = dict.fromkeys(names or [])
    written: dict[str, int] = {}
    out.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        rows = (_hf_row(f"{name}-{number}", row, text, labels, names) for number, row in enumerate(split))
        with_dev = name == "train" and "dev" not in splits
        written |= _write_split(out, name, _noting(rows, catalogue), with_dev)
    written["catalogue"] = _write(out / "catalogue.jsonl", ({"id": one, "name": one} for one in catalogue))
    return written


# The extreme classification repository


def _find(folder: Path, *names: str) -> Path | None:
    places = [folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    return next((place for place in places if place.is_file()), None)


def _lines(folder: Path, *names: str) -> Iterator[tuple[str, str]]:
    """Yield a file's lines with their places. Raises UserError where it is not there."""
    path = _find(folder, *names)
    if path is None:
        raise UserError(f"{folder}: no file {names[0]} or {names[0]}.gz; see `ctd-agent dataset --help`")
    with _text(path) as file:
        try:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.rstrip("\r\n")
        except (OSError, EOFError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error


def _text(path: Path) -> TextIO:
    # Older sets are in Latin-1 here and there: a stray byte is no reason to refuse a million lines.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n")
    return path.open(encoding="utf-8", errors="replace", newline="\n")  # a lone \r within a title ends no line


def _objects(folder: Path, *names: str) -> Iterator[tuple[str, Row]]:
    for place, line in _lines(folder, *names):
        try:
            value = from_json(line)
        except ValueError as error:
            raise UserError(f"{place}: malformed JSON: {error}") from error
        if not isinstance(value, dict):
            raise UserError(f"{place}: not a JSON object")
        yield place, value


def _titled_labels(folder: Path) -> Iterator[Row]:
    for number, (_, row) in enumerate(_objects(folder, "lbl.json", "lbl.raw.json")):
        yield _label(number, str(row.get("title") or ""), str(row.get("content") or ""), str(row.get("uid") or ""))


def _raw_labels(folder: Path) -> Iterator[Row]:
    for number, (_, line) in enumerate(_lines(folder, "Y.txt", "lbl_X.txt")):
        yield _label(number, line, "", "")


def _label(number: int, title: str, content: str, uid: str) -> Row:
    # A label without a title is still one that documents have.
    name = title.strip() or uid or f"label {number}"
    return {"id": str(number), "name": name, "description": content.strip(), "metadata": {"uid": uid} if uid else {}}


def _titled(folder: Path, short: str, labels: int) -> Iterator[Row]:
    for number, (place, row) in enumerate(_objects(folder, f"{short}.json", f"{short}.raw.json")):
        targets = row.get("target_ind")
        if not isinstance(targets, list):
            raise UserError(f"{place}: field 'target_ind' must be a list of label numbers")
        parts = (str(row.get(field) or "").strip() for field in ("title", "content"))
        text = "\n".join(part for part in parts if part)
        yield {"id": f"{short}-{number}", "text": text, "labels": _targets(place, targets, labels)}


def _raw(folder: Path, short: str, labels: int) -> Iterator[Row]:
    texts = _lines(folder, f"{short}_X.txt")
    matrix = _lines(folder, f"{short}_X_Y.txt")
    place, size = next(matrix, (f"{short}_X_Y.txt", ""))
    if size.split()[1:] != [str(labels)]:
        raise UserError(f"{place}: {size!r} is not ROWS COLUMNS with a column for each of {labels} labels")
    number = -1
    for number, (text, targets) in enumerate(zip_longest(texts, matrix)):
        if text is None or targets is None:
            place, _ = text or targets
            raise UserError(f"{place}: {short}_X.txt and {short}_X_Y.txt have not the same number of documents")
        found = [pair.partition(":")[0] for pair in targets[1].split()]
        yield {"id": f"{short}-{number}", "text": text[1].strip(), "labels": _targets(targets[0], found, labels)}
    if number + 1 != int(size.split()[0]):
        raise UserError(f"{place}: {size.split()[0]} documents are announced, {number + 1} are there")


def _targets(place: str, numbers: Iterable[Any], labels: int) -> list[str]:
    found = [str(number) for number in numbers]
    if wrong := [number for number in found if not (number.isdecimal() and int(number) < labels)]:
        raise UserError(f"{place}: {wrong[0]!r} is no label's number: there are {labels}, from 0")
    return found


def _filtered(path: Path | None, labels: int) -> Mapping[int, list[str]]:
    """Return the labels that do not count, by the document's number; without a file there are none."""
    found: dict[int, list[str]] = defaultdict(list)
    if path is not None:
        for place, line in _lines(path.parent, path.name.removesuffix(".gz")):
            if not line.strip():
                continue
            document, _, label = line.strip().partition(" ")
            if not document.isdecimal():
                raise UserError(f"{place}: not two numbers, a document's and a label's")
            found[int(document)] += _targets(place, [label.strip()], labels)
    return found


def _filter(row: Row, labels: list[str] | None) -> Row:
    return row | {"filter_labels": labels} if labels else row


# Hugging Face


def _load(source: str) -> dict[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise UserError("for a Hugging Face data set: pip install 'ctd-agent[hf]'") from error
    try:
        found = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source)
    except Exception as error:  # the library has its own for every way in which this can fail
        raise UserError(f"{source}: cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    splits = found if isinstance(found, dict) else {"train": found}
    named = {HF_SPLITS[name]: split for name, split in splits.items() if name in HF_SPLITS}
    if not named:
        raise UserError(f"{source}: no split is named train, validation or test, but {', '.join(splits)}")
    return named


def _class_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    names = getattr(inner[0] if isinstance(inner, list) else inner, "names", None)
    return list(names) if names else None


def _hf_row(key: str, row: Row, text: str, labels: str, names: list[str] | None) -> Row:
    value = row[labels]
    values = value if isinstance(value, list) else [] if value is None else [value]
    # -1 is how a class label says that it is not known.
    found = [names[one] if names and isinstance(one, int) else str(one) for one in values if one != -1]
    return {"id": str(row.get("id") or key), "text": row[text] or "", "labels": found}


def _noting(rows: Iterable[Row], catalogue: dict[str, None]) -> Iterator[Row]:
    for row in rows:
        catalogue |= dict.fromkeys(row["labels"])
        yield row


# Writing


def _write(path: Path, rows: Iterable[Row]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_split(out: Path, split: str, rows: Iterable[Row], with_dev: bool) -> dict[str, int]:
    """Write a split row by row; of train, where there is no dev split, a tenth goes into one."""
    if split != "train" or not with_dev:
        return {split: _write(out / f"{split}.jsonl", rows)}
    counts = {"train": 0, "dev": 0}
    with (
        (out / "train.jsonl").open("w", encoding="utf-8") as train,
        (out / "dev.jsonl").open("w", encoding="utf-8") as dev,
    ):
        for row in rows:
            part = "dev" if int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 100 < DEV else "train"
            (dev if part == "dev" else train).write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[part] += 1
    return counts
