"""Make a data set from WordNet's domains: what a synset says, and the topics, regions and usages it belongs to.

    python examples/wordnet/domains.py

The labels are all synsets that WordNet names as a domain. A document is a synset that has one: its words and
its gloss. They are written to ``domains/`` beside this script (not kept in git) as ``catalogue.jsonl``,
``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``, with a card. WordNet comes from Debian's package ``wordnet-base``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from archive import Record, fetched, write_data_set  # noqa: E402 - its folder is on the path only now
from make import PARTS, synsets  # noqa: E402 - as above

DOMAIN = re.compile(r" ;([cru]) (\d{8}) ([nvar]) ")
KINDS = {"c": "topic", "r": "region", "u": "usage"}
REMARK = re.compile(r"^\([^()]*\)\s*")

CARD = """---
license: other
license_name: wordnet
task_categories: [text-classification]
language: [en]
---
# WordNet's domains

Given a word sense, which domains does it belong to? Lexicographers marked the topic ("law"), the region
("United Kingdom") and the usage ("slang") of senses that have one.

{counts}

- Source: Debian's wordnet-base {version} (WordNet 3.0), by `examples/wordnet/domains.py`.
- Label: a synset that is a domain of another; id `OFFSET-PART`, name its first word, aliases the others, description
  its gloss, metadata of which kinds it is a domain.
- Document: the words and the gloss of a synset with a domain, without example sentences. A remark in brackets at
  the beginning of the gloss is left out: it may say the domain ("(law) ...").
- Splits are by a hash of the words, 80/10/10; rows are in the order of a hash of their id.
- Known flaw: a sense is marked with the domain that its lexicographer thought of ("baseball", not "sport"); others that
  are as true count as wrong.
- Licence: WordNet's own, which allows any use with the copyright notice (WordNet 3.0 Copyright 2006 by Princeton
  University. All rights reserved.); its text is in the package.
"""


def domains(lines: Iterable[str]) -> list[list[tuple[str, str]]]:
    """Return the kind and the id of every synset's domains, in the order of a data file."""
    heads = [line.partition(" | ")[0] for line in lines if not line.startswith("  ")]
    return [[(KINDS[kind], f"{offset}-{part}") for kind, offset, part in DOMAIN.findall(head)] for head in heads]


def document(synset: Record, labels: Iterable[str]) -> Record:
    """A synset as a document; those of the same words share a split."""
    words = ", ".join([synset["name"], *synset["aliases"]])
    text = f"{words}: {REMARK.sub('', synset['description'])}"
    return dict(id=synset["id"], text=text, labels=sorted(set(labels)), source=words)


def main() -> None:
    full, package = fetched("Make a data set from WordNet's domains.", HERE / "domains", "wordnet-base")
    found: dict[str, Record] = {}
    belongs: dict[str, list[tuple[str, str]]] = {}
    for part in PARTS:
        lines = (package / f"usr/share/wordnet/data.{part}").read_text().splitlines()
        for (synset, _), of in zip(synsets(lines, part), domains(lines), strict=True):
            found[synset["id"]], belongs[synset["id"]] = synset, of
    kinds: dict[str, set[str]] = {}
    for kind, id in (one for of in belongs.values() for one in of):
        kinds.setdefault(id, set()).add(kind)
    catalogue = [found[id] | {"metadata": {"kinds": sorted(kinds[id])}} for id in sorted(kinds)]
    documents = [document(found[id], (domain for _, domain in of)) for id, of in belongs.items() if of]
    write_data_set(full, catalogue, documents, CARD.replace("{version}", (package / "version").read_text()))


if __name__ == "__main__":
    main()
