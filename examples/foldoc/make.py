"""Make a data set from the Free On-line Dictionary of Computing: its entries, and those that each refers to.

    python examples/foldoc/make.py

The labels are all entries. A document is an entry's text without the marks of its cross references; its
labels are the entries that these name, as its editors chose them. They are written to ``full/`` beside
this script (not kept in git) as ``catalogue.jsonl``, ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``,
with a card. The dictionary comes from Debian's package ``dict-foldoc``.
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, apt_get, label, unpacked, write_data_set  # noqa: E402

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # dictd's numbers, base 64
REFERENCE = re.compile(r"\{([^{}]+)\}")
POINTER = re.compile(r"(?:See(?: also)?|Compare|Contrast|Cf\.?)\b[^.]*\.?$", re.IGNORECASE)
DATE = re.compile(r"\(\d{4}-\d\d-\d\d\)")
MIN_LABELS, MIN_WORDS = 2, 20

CARD = """---
license: gfdl
task_categories: [text-classification]
language: [en]
---
# The Free On-line Dictionary of Computing

Given an entry of the dictionary, which other entries does it refer to? The dictionary's editors marked the
cross references; here the marks are taken out of the text, and are the labels.

{counts}

- Source: Debian's dict-foldoc {version}, by `examples/foldoc/make.py`.
- Label: an entry; id and name its headword, aliases its other headwords, description the beginning of its text.
- Document: the headword and the text of an entry with at least two cross references to entries that exist and
  twenty words. Sentences that do nothing but refer ("See also ...", "Compare ...") are left out. What is referred to
  otherwise often stands in the text by name: that is how the dictionary is written.
- `filter_labels`: the entry itself, which its own text finds first, and which does not count.
- Splits are by a hash of the headword, 80/10/10; rows are in the order of a hash of their id.
- Known flaw: editors mark a term where they think of it; a term that is there unmarked counts as wrong.
- Licence: GNU Free Documentation License 1.1 or later, with no Invariant Sections, Front- or Back-Cover Texts.
  Copyright 1993 by Denis Howe. "The Free On-line Dictionary of Computing, http://www.foldoc.org/, Editor Denis Howe".
"""


def number(text: str) -> int:
    """A number of dictd's index."""
    value = 0
    for digit in text:
        value = 64 * value + DIGITS.index(digit)
    return value


def entries(index: str, text: bytes) -> dict[str, str]:
    """Return every entry's text by its headword; what the index names twice is one entry."""
    found: dict[str, str] = {}
    for place in dict.fromkeys(line.partition("\t")[2] for line in index.splitlines()):
        start, size = map(number, place.split("\t")[:2])
        head, _, body = text[start : start + size].decode(errors="replace").strip().partition("\n")
        if body.strip() and not head.startswith("00-database"):
            found.setdefault(" ".join(head.split()), body)
    return found


def headwords(index: str, text: bytes) -> dict[str, list[str]]:
    """Return the index's words for every entry, by the entry's headword."""
    words: dict[str, list[str]] = {}
    for line in index.splitlines():
        word, start, size = line.split("\t")[:3]
        head = text[number(start) : number(start) + number(size)].decode(errors="replace").strip().partition("\n")[0]
        words.setdefault(" ".join(head.split()), []).append(word)
    return words


def paragraphs(body: str) -> list[str]:
    """The paragraphs of an entry, each on one line, without dates and those that only refer."""
    joined = [" ".join(DATE.sub("", part).split()) for part in re.split(r"\n\s*\n", body)]
    sentences = [[one for one in re.split(r"(?<=[.!?])\s+", part) if says(one)] for part in joined]
    return [" ".join(some) for some in sentences if some and any(some)]


def says(sentence: str) -> bool:
    """Whether a sentence has a word, and does more than refer."""
    return re.search(r"\w", sentence) is not None and not POINTER.match(sentence)


def plain(text: str) -> str:
    """A text without the marks of references; of a file's or a page's address nothing is left."""
    return re.sub(r"\(\s*\)", "", REFERENCE.sub(lambda mark: "" if "://" in mark[1] else mark[1], text)).strip()


def referred(body: str, known: dict[str, str]) -> set[str]:
    """The entries that a text refers to, whatever the case it writes them in."""
    names = {" ".join(name.split()).casefold() for name in REFERENCE.findall(body)}
    return {known[name] for name in names if name in known}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a data set from the Free On-line Dictionary of Computing.")
    parser.add_argument("--full", type=Path, default=HERE / "full", help="folder of the data set")
    options = parser.parse_args()
    work = (options.full / "work").resolve()
    apt_get(work, "update")
    package = unpacked(work, "dict-foldoc")
    index = (package / "usr/share/dictd/foldoc.index").read_text(encoding="utf-8")
    text = gzip.decompress((package / "usr/share/dictd/foldoc.dict.dz").read_bytes())
    catalogue, documents = data_set(entries(index, text), headwords(index, text))
    write_data_set(options.full, catalogue, documents, CARD.replace("{version}", (package / "version").read_text()))


def data_set(found: dict[str, str], words: dict[str, list[str]]) -> tuple[list[Record], list[Record]]:
    """Return the labels and the documents of a dictionary."""
    known = {head.casefold(): head for head in found}
    catalogue, documents = [], []
    for head, body in sorted(found.items()):
        said = plain(" ".join(paragraphs(body)))
        aliases = [word for word in words.get(head, []) if word.casefold() != head.casefold()]
        catalogue.append(label(head, head, " ".join(said.split()[:40]), aliases, {}))
        right = referred(body, known) - {head}
        if len(right) >= MIN_LABELS and len(said.split()) >= MIN_WORDS:
            row = dict(id=head, text=f"{head}\n{said}", labels=sorted(right), filter_labels=[head], source=head)
            documents.append(row)
    return catalogue, documents


if __name__ == "__main__":
    main()
