"""`ctd-agent dataset`: convert published data sets to catalogue.jsonl, train.jsonl, dev.jsonl and test.jsonl.

A document has `id`, `text`, `labels` and optionally `filter_labels`. Without a dev split, a tenth of train becomes dev.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ctd_agent.commands.options import refuse_inputs

Row = dict[str, Any]
DEV = 10  # percent of train


def dataset(
    source: Annotated[
        str, typer.Argument(help="A folder of the extreme classification repository's files, or hf:NAME or hf:FOLDER.")
    ],
    out: Annotated[Path, typer.Option(help="A folder for catalogue.jsonl, train.jsonl, dev.jsonl and test.jsonl.")],
    text_column: Annotated[str, typer.Option(help="Column of the texts (hf: only).")] = "text",
    labels_column: Annotated[str, typer.Option(help="Column of the labels (hf: only).")] = "labels",
) -> None:
    """Convert a data set with gold labels for `label`, `eval --gold` and `characterize`.

    From the extreme classification repository (LF-AmazonTitles-131K and others) it reads lbl.json, trn.json
    and tst.json, or Y.txt, trn_X.txt, tst_X.txt, trn_X_Y.txt and tst_X_Y.txt, also gzipped, with
    filter_labels_train.txt and filter_labels_test.txt. From Hugging Face it reads any data set that `datasets` loads.
    """
    from ctd_agent.console import note

    refuse_inputs("--out", out, source.removeprefix("hf:"))
    if source.startswith("hf:"):
        counts = _convert_hub(source.removeprefix("hf:"), out, text_column, labels_column)
    else:
        counts = _convert_xmc(Path(source), out)
    for name, count in counts.items():
        note(f"{out / name}.jsonl: {count:,} {'labels' if name == 'catalogue' else 'documents'}")


def _convert_xmc(folder: Path, out: Path) -> dict[str, int]:
    from ctd_agent.files.xmc import read_xmc_documents, read_xmc_labels

    counts = _write(out, read_xmc_labels(folder), "catalogue")
    counts |= _write(out, read_xmc_documents(folder, "train", counts["catalogue"]), "train", "dev")
    return counts | _write(out, read_xmc_documents(folder, "test", counts["catalogue"]), "test")


def _convert_hub(source: str, out: Path, text: str, labels: str) -> dict[str, int]:
    from ctd_agent.files.hub import read_hub

    names, splits = read_hub(source, text, labels)
    catalogue = dict.fromkeys(names)
    counts: dict[str, int] = {}
    for split, rows in splits.items():
        files = ("train", "dev") if split == "train" and "dev" not in splits else (split,)
        counts |= _write(out, _with_labels_noted(rows, catalogue), *files)
    return counts | _write(out, ({"id": name, "name": name} for name in catalogue), "catalogue")


def _with_labels_noted(rows: Iterable[Row], catalogue: dict[str, None]) -> Iterator[Row]:
    for row in rows:
        catalogue |= dict.fromkeys(row["labels"])
        yield row


def _write(out: Path, rows: Iterable[Row], *names: str) -> dict[str, int]:
    """Write rows to NAME.jsonl and count them. A second file gets a tenth of them, chosen by a hash of the id.

    The files are there once they are whole.
    """
    from ctd_agent.records import put_in_place

    out.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(names, 0)
    drafts = {name: out / f"{name}.jsonl.part" for name in names}
    with ExitStack() as stack:
        files = {name: stack.enter_context(draft.open("w", encoding="utf-8")) for name, draft in drafts.items()}
        for row in rows:
            is_dev = int(hashlib.sha256(row["id"].encode()).hexdigest(), 16) % 100 < DEV
            name = names[-1 if is_dev else 0]
            files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            counts[name] += 1
    for name, draft in drafts.items():
        put_in_place(draft, out / f"{name}.jsonl")
    return counts
