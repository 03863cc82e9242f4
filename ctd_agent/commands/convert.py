"""`ctd-agent dataset`: data sets of others, in our form."""

from pathlib import Path
from typing import Annotated

import typer


def dataset(
    source: Annotated[
        str, typer.Argument(help="A folder of the extreme classification repository's files, or hf:NAME or hf:FOLDER.")
    ],
    out: Annotated[Path, typer.Option(help="A folder for catalogue.jsonl, train.jsonl, dev.jsonl and test.jsonl.")],
    text_column: Annotated[str, typer.Option(help="Of hf: the column of texts.")] = "text",
    labels_column: Annotated[str, typer.Option(help="Of hf: the column of labels.")] = "labels",
) -> None:
    """Convert a data set with gold labels: for `label`, `eval --gold` and `characterize`.

    Of the extreme classification repository (LF-AmazonTitles-131K and the like) it reads lbl.json, trn.json
    and tst.json, or Y.txt, trn_X.txt, tst_X.txt, trn_X_Y.txt and tst_X_Y.txt, also gzipped, with
    filter_labels_train.txt and filter_labels_test.txt; of Hugging Face's what `datasets` loads.
    """
    from ctd_agent.console import note
    from ctd_agent.datasets import convert_hf, convert_xmc

    if source.startswith("hf:"):
        written = convert_hf(source.removeprefix("hf:"), out, text_column, labels_column)
    else:
        written = convert_xmc(Path(source), out)
    for name, count in written.items():
        note(f"{out / name}.jsonl: {count:,} {'labels' if name == 'catalogue' else 'documents'}")
