"""Reader of Hugging Face data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctd_agent.errors import UserError, one_line
from ctd_agent.extras import library
from ctd_agent.files.tables import Fields

SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "dev": "dev", "test": "test"}


def read_hub(source: str, text: str, labels: str) -> tuple[list[str], dict[str, Iterator[Fields]]]:
    """Read a data set by its name, or from a folder it was saved to: its class names, and the rows of each split.

    `text` and `labels` are columns. Labels are class labels or strings, each a single value or a list. There
    are no class names for strings. Raises UserError if the data set cannot be loaded, a column is missing,
    or no split is named train, validation or test.
    """
    splits = _load(source)
    for split in splits.values():
        if absent := {text, labels} - set(split.column_names):
            columns = ", ".join(split.column_names)
            choose = "choose with --text-column and --labels-column"
            raise UserError(f"{source}: no column {min(absent)!r}; its columns are {columns}; {choose}")
    names = _class_names(next(iter(splits.values())).features[labels])
    return names, {name: _rows(name, split, text, labels, names) for name, split in splits.items()}


def _load(source: str) -> dict[str, Any]:
    datasets = library("datasets", "hf", f"hf:{source}")
    try:
        loaded = datasets.load_from_disk(source) if Path(source).is_dir() else datasets.load_dataset(source)
    except Exception as error:  # the library has many exception types
        raise UserError(f"{source}: cannot be loaded: {one_line(error)}") from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    known = {SPLITS[name]: split for name, split in splits.items() if name in SPLITS}
    if not known:
        raise UserError(f"{source}: no split is named train, validation or test, but {', '.join(splits)}")
    return known


def _class_names(feature: Any) -> list[str]:
    inner = getattr(feature, "feature", feature)
    return list(getattr(inner[0] if isinstance(inner, list) else inner, "names", None) or [])


def _rows(name: str, split: Any, text: str, labels: str, names: list[str]) -> Iterator[Fields]:
    for number, row in enumerate(split):
        value = row[labels]
        values = value if isinstance(value, list) else [] if value is None else [value]
        # -1 is an unknown class label.
        ids = [names[value] if names and isinstance(value, int) else str(value) for value in values if value != -1]
        yield {"id": str(row.get("id") or f"{name}-{number}"), "text": row[text] or "", "labels": ids}
