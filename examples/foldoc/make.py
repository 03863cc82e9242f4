"""Make a data set from the Free On-line Dictionary of Computing: its entries, and those that each refers to.

    python examples/foldoc/make.py

The labels are all entries. A document is an entry's text without the marks of its cross references; its
labels are the entries that these name, as its editors chose them. They are written to ``full/`` beside
this script (not kept in git) as ``catalogue.jsonl``, ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``,
with a card. The dictionary comes from Debian's package ``dict-foldoc``.
"""

from __future__ import annotations

import gzip
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, fetched, label, write_data_set  # noqa: E402 - its folder is on the path only now

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
  otherwise stands in the text, nine times in ten by its headword: that is how the dictionary is written.
- A reference is resolved by the headword, by the headword in any case, or by a word of the index that no other
  entry has ("IBM").
- `filter_labels`: the entry itself, which its own text finds first, and which does not count.
- Splits are by a hash of the headword, 80/10/10; rows are in the order of a hash of their id.
- Known flaw: editors mark a term where they think of it; a term that is there unmarked counts as wrong.
- Licence: "Copyright 1993 by Denis Howe. Permission is granted to copy, distribute and/or modify this document under
  the terms of the GNU Free Documentation License, Version 1.1 or any later version published by the Free Software
  Foundation; with no Invariant Sections, Front- or Back-Cover Texts." The licence is the dictionary's entry "GNU Free
  Documentation License". Source: "The Free On-line Dictionary of Computing, http://www.foldoc.org/, Editor Denis Howe".
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


def shown(mark: str) -> str:
    """What a reference shows in the text: of one with an address, what stands before it."""
    return mark.partition("://")[0].rpartition("(")[0].strip() if "://" in mark else mark


def plain(text: str) -> str:
    """A text without the marks of references, and without the gaps that addresses leave."""
    bare = re.sub(r"\(\s*\)", "", REFERENCE.sub(lambda mark: shown(mark[1]), text))
    return re.sub(r"\s+([,.;:])", r"\1", " ".join(bare.split()))


def resolver(found: Iterable[str], words: dict[str, list[str]]) -> Callable[[str], str | None]:
    """Return what finds the entry that a name means: by its headword, in any case, or by a word no other has."""
    heads = set(found)
    ways: list[dict[str, set[str]]] = [defaultdict(set), defaultdict(set)]
    for head in heads:
        ways[0][head.casefold()].add(head)
        for word in words.get(head, []):
            ways[1][word.casefold()].add(head)

    def resolve(name: str) -> str | None:
        if name in heads:
            return name
        named = next((way[name.casefold()] for way in ways if name.casefold() in way), set())
        return next(iter(named)) if len(named) == 1 else None

    return resolve


def referred(body: str, resolve: Callable[[str], str | None]) -> set[str]:
    """The entries that a text refers to."""
    names = (" ".join(shown(mark).split()) for mark in REFERENCE.findall(body))
    return {head for name in names if (head := resolve(name))}


def main() -> None:
    full, package = fetched(
        "Make a data set from the Free On-line Dictionary of Computing.", HERE / "full", "dict-foldoc"
    )
    index = (package / "usr/share/dictd/foldoc.index").read_text(encoding="utf-8")
    text = gzip.decompress((package / "usr/share/dictd/foldoc.dict.dz").read_bytes())
    catalogue, documents = data_set(entries(index, text), headwords(index, text))
    write_data_set(full, catalogue, documents, CARD.replace("{version}", (package / "version").read_text()))


def data_set(found: dict[str, str], words: dict[str, list[str]]) -> tuple[list[Record], list[Record]]:
    """Return the labels and the documents of a dictionary."""
    resolve = resolver(found, words)
    catalogue, documents = [], []
    for head, body in sorted(found.items()):
        said = plain(" ".join(paragraphs(body)))
        aliases = [word for word in words.get(head, []) if word.casefold() != head.casefold()]
        catalogue.append(label(head, head, " ".join(said.split()[:40]), aliases, {}))
        right = referred(body, resolve) - {head}
        if len(right) >= MIN_LABELS and len(said.split()) >= MIN_WORDS:
            row = dict(id=head, text=f"{head}\n{said}", labels=sorted(right), filter_labels=[head], source=head)
            documents.append(row)
    return catalogue, documents


if __name__ == "__main__":
    main()
