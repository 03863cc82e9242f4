"""Make a data set from WordNet: its own example sentences, and the synset that each illustrates.

    python examples/wordnet/make.py

The labels are all synsets, 117,659 in WordNet 3.0. What a gloss says of a synset is its description;
the sentences that the gloss quotes are the documents, and are taken out of it. They are written to
``full/`` beside this script (not kept in git) as ``catalogue.jsonl``, ``train.jsonl``, ``dev.jsonl``
and ``test.jsonl``, with a card. WordNet comes from Debian's package ``wordnet-base``.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, digest, fetched, label, write_data_set  # noqa: E402 - its folder is on the path only now

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
QUOTED = re.compile(r'"([^"]*)"')
MIN_WORDS = 4  # of a sentence: less is a phrase that says nothing else

CARD = """---
license: other
license_name: wordnet
task_categories: [text-classification]
language: [en]
---
# WordNet's example sentences

Given a sentence, which synset does it illustrate? A document is an example sentence that the lexicographers
of WordNet wrote into a synset's gloss; its label is that synset. The word it illustrates is not marked.

{counts}

- Source: Debian's wordnet-base {version} (WordNet 3.0), by `examples/wordnet/make.py`.
- Label: a synset; id `OFFSET-PART`, name its first word, aliases the others, description its gloss without
  the example sentences.
- A sentence has four words or more. One that stands with several synsets is one document with several labels.
- Splits are by a hash of the sentence, 80/10/10; rows are in the order of a hash of their id.
- Known flaw: a sentence illustrates one word, and others in it have their synsets, too; those count as wrong.
- Licence: WordNet's own, which allows any use with the copyright notice (WordNet 3.0 Copyright 2006 by Princeton
  University. All rights reserved.); its text is in the package.
"""


def synsets(lines: Iterable[str], part: str) -> Iterator[tuple[Record, list[str]]]:
    """Yield every synset of a data file as a label, with the sentences that its gloss quotes."""
    for line in lines:
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        fields = head.split()
        words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        name, *aliases = dict.fromkeys(word.partition("(")[0].replace("_", " ") for word in words)
        said = [part.strip(" ;") for part in QUOTED.sub("", gloss).split(";")]
        meaning = "; ".join(part for part in said if part.strip(" -,.'`"))
        sentences = [sentence.strip() for sentence in QUOTED.findall(gloss)]
        yield label(f"{fields[0]}-{PARTS[part]}", name, meaning, aliases, {"part": part}), sentences


def documents(examples: Iterable[tuple[Record, list[str]]]) -> list[Record]:
    """Return a document a sentence, with every synset that quotes it."""
    right: dict[str, set[str]] = defaultdict(set)
    for synset, sentences in examples:
        for sentence in sentences:
            if len(sentence.split()) >= MIN_WORDS:
                right[sentence].add(synset["id"])
    return [
        dict(id=digest(sentence)[:12], text=sentence, labels=sorted(labels), source=sentence)
        for sentence, labels in right.items()
    ]


def main() -> None:
    full, package = fetched("Make a data set from WordNet's example sentences.", HERE / "full", "wordnet-base")
    found = [
        one
        for part in PARTS
        for one in synsets((package / f"usr/share/wordnet/data.{part}").read_text().splitlines(), part)
    ]
    card = CARD.replace("{version}", (package / "version").read_text())
    write_data_set(full, [synset for synset, _ in found], documents(found), card)


if __name__ == "__main__":
    main()
