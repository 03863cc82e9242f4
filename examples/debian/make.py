"""Make two classification data sets from the Debian archive's own index.

``debian-tags``
    Which debtags describe a package, given its description?  A few hundred
    labels, several per document.
``debian-suggests``
    Which other packages does a package suggest, given its description?  The
    labels are all binary packages of the archive, tens of thousands.

The package index and the English long descriptions are fetched by ``apt-get``
from the Debian sources configured on the machine, into a state folder of their
own; the tag vocabulary comes from the ``debtags`` package, unpacked and not
installed.  Only ``apt-get`` and ``dpkg-deb`` are needed, and no root.

Run ``python make.py`` to write both data sets below ``full/`` (not kept in
git) and the small example beside this script.  The output depends only on the
archive snapshot that apt sees.  Each data set has these files:

``catalogue.jsonl``
    Labels: ``{"id", "name", "description", "aliases", "metadata"}``.
``train.jsonl``, ``dev.jsonl``, ``test.jsonl``
    Documents with gold: ``{"id", "text", "labels"}``.  Packages built from one
    source package are always in the same split (80/10/10), and rows are in a
    fixed shuffled order, so the first n rows are a random sample.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from archive import Record, apt_get, label, unpacked, write_data_set, write_jsonl  # noqa: E402 - its folder is on the path only now

Paragraph = dict[str, str]

CARD = """---
license: gpl-2.0
task_categories: [text-classification]
language: [en]
---
# Packages of the Debian archive

A document is the description of a package. Its labels are the debtags that volunteers gave it (debian-tags), or the
packages that it suggests (debian-suggests; the package itself is in `filter_labels`: it does not count).

{counts}

- Source: the Debian archive's own index, section main, as apt sees it on the day; by `examples/debian/make.py`, whose
  README says how each set was made, what is known to be wrong with it, and whose the texts are.
- Splits are by a hash of the source package, 80/10/10; rows are in the order of a hash of their id.
"""
EXAMPLE_SIZE = 200
MIN_TAGS = 4

# Packages that say little about themselves: what they belong to says it.
AUXILIARY = re.compile(r".*-(dev|doc|dbg|dbgsym)|lib.*[0-9]([a-z][0-9]?)*")
# Facets about the tagging or the support of a package, not about its content.
DROPPED_FACETS = {"special", "secteam"}


def index_files(work: Path, kind: str) -> list[Path]:
    """Local files of Debian's ``Packages`` or ``Translations`` indexes (main).

    The release itself comes first, then its updates and security suites.
    """
    form = "$(CREATED_BY)|$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(FILENAME)"
    listing = apt_get(work, "indextargets", "--format", form)
    rows = [line.split("|") for line in listing.splitlines()]
    found = sorted((row[3], row[4]) for row in rows if row[:3] == [kind, "Debian", "main"])
    return [Path(name) for _, name in found]


def paragraphs(path: Path) -> Iterator[Paragraph]:
    """Read a file of ``Field: value`` paragraphs; continuation lines are kept."""
    fields: Paragraph = {}
    key = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line.strip():
                if fields:
                    yield fields
                fields = {}
            elif line[0] in " \t":
                fields[key] += "\n" + line
            else:
                key, _, value = line.partition(":")
                fields[key] = value.strip()
    if fields:
        yield fields


def read_packages(work: Path) -> dict[str, Paragraph]:
    """All binary packages by name (the first version read), with ``Short`` and ``Text`` added."""
    long: dict[str, str] = {}
    for path in index_files(work, "Translations"):
        for fields in paragraphs(path):
            long.setdefault(fields["Description-md5"], fields["Description-en"])
    packages: dict[str, Paragraph] = {}
    for path in index_files(work, "Packages"):
        for fields in paragraphs(path):
            if fields["Package"] in packages:
                continue
            short, rest = split_description(fields.get("Description", ""))
            _, translated = split_description(long.get(fields.get("Description-md5", ""), ""))
            fields["Short"] = short
            fields["Text"] = f"{short}\n{translated or rest}".strip()
            packages[fields["Package"]] = fields
    return packages


def split_description(value: str) -> tuple[str, str]:
    """Split a Description field into its short and its cleaned long part.

    Wrapped lines are joined and the ``.`` lines between paragraphs dropped;
    list items and lines indented further (verbatim text) keep their line.
    """
    short, *body = value.split("\n")
    lines: list[str] = []
    joining = in_item = False
    for raw in body:
        line = raw.strip()
        if line in ("", "."):
            joining = in_item = False
        elif line.startswith(("* ", "- ", "+ ", "o ", "• ")):
            lines.append(line)
            joining = in_item = True
        elif joining and (in_item or not raw.startswith("  ")):
            lines[-1] += " " + line
        else:
            lines.append(line)
            joining = True
    return short.strip(), "\n".join(lines)


def is_content_tag(tag: str) -> bool:
    """False for tags about the work of tagging or supporting a package."""
    facet, _, name = tag.partition("::")
    return facet not in DROPPED_FACETS and name.split(":")[-1] != "TODO"  # a tag of Debian's: not tagged yet


def tag_catalogue(vocabulary: Path) -> list[Record]:
    """Labels from the vocabulary, named ``Facet description: tag description``."""
    entries = list(paragraphs(vocabulary))
    facets = {e["Facet"]: split_description(e["Description"])[0] for e in entries if "Facet" in e}
    tags = {e["Tag"]: split_description(e["Description"]) for e in entries if "Tag" in e}
    tags = {tag: texts for tag, texts in tags.items() if is_content_tag(tag)}
    uses = Counter(short for short, _ in tags.values())  # a name used twice is no alias
    labels = []
    for tag, (short, long) in sorted(tags.items()):
        facet = tag.partition("::")[0]
        words = re.sub(r"[:_-]+", " ", tag)
        aliases = [words] if uses[short] > 1 or short.lower() == words else [words, short]
        labels.append(label(tag, f"{facets[facet]}: {short}", long, aliases, {"facet": facet}))
    return labels


def package_tags(field: str) -> list[str]:
    """Tags in a ``Tag`` field; ``a::{b,c}`` stands for ``a::b, a::c``."""
    tags = []
    for prefix, group in re.findall(r"([^\s,{}]+)(?:\{([^}]*)\})?", field):
        tags += [prefix + name.strip() for name in group.split(",")]
    return tags


def tag_documents(packages: dict[str, Paragraph], catalogue: list[Record]) -> list[Record]:
    """Well-tagged packages, auxiliary ones left out, with their tags as gold."""
    known = {entry["id"] for entry in catalogue}
    documents = []
    for name, fields in packages.items():
        tags = set(package_tags(fields.get("Tag", "")))
        if AUXILIARY.fullmatch(name) or "role::shared-lib" in tags:
            continue
        if len(tags & known) >= MIN_TAGS:
            documents.append(document(fields, tags & known))
    return documents


def package_catalogue(packages: dict[str, Paragraph]) -> list[Record]:
    """Every binary package as a label, described by its short description."""
    return [
        label(name, name, fields["Short"], [], {"section": fields.get("Section", "")})
        for name, fields in sorted(packages.items())
    ]


def suggested(field: str) -> set[str]:
    """Package names in a relation field, versions and qualifiers dropped."""
    parts = (part.strip() for part in re.split(r"[,|]", field))
    return {re.split(r"[\s:(\[]", part)[0] for part in parts if part}


def suggests_documents(packages: dict[str, Paragraph]) -> list[Record]:
    """Packages that suggest other real packages, with those as gold."""
    documents = []
    for name, fields in packages.items():
        names = {n for n in suggested(fields.get("Suggests", "")) if n in packages} - {name}
        if names:
            documents.append({**document(fields, names), "filter_labels": [name]})
    return documents


def document(fields: Paragraph, labels: Iterable[str]) -> Record:
    """A document record, with the source package (removed before writing)."""
    source = fields.get("Source", fields["Package"]).split(" ")[0]
    return dict(id=fields["Package"], text=fields["Text"], labels=sorted(labels), source=source)


def write_example(folder: Path, catalogue: list[Record], rows: list[Record]) -> None:
    """Write the small example, with documents and gold in files of their own."""
    write_jsonl(folder / "catalogue.jsonl", catalogue)
    write_jsonl(folder / "documents.jsonl", [{"id": r["id"], "text": r["text"]} for r in rows])
    write_jsonl(folder / "gold.jsonl", [{"id": r["id"], "labels": r["labels"]} for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description="Make data sets from the Debian archive index.")
    parser.add_argument("--full", type=Path, default=HERE / "full", help="folder of the data sets")
    parser.add_argument("--example", type=Path, default=HERE, help="folder of the example")
    parser.add_argument("--work", type=Path, help="apt's state folder (default: FULL/work)")
    parser.add_argument("--offline", action="store_true", help="reuse the work folder's indexes")
    options = parser.parse_args()
    work = (options.work or options.full / "work").resolve()
    if options.offline:
        vocabulary = work / "debtags/usr/share/debtags/vocabulary"
    else:
        apt_get(work, "update")
        vocabulary = unpacked(work, "debtags") / "usr/share/debtags/vocabulary"
    packages = read_packages(work)
    tags = tag_catalogue(vocabulary)
    splits = write_data_set(options.full / "debian-tags", tags, tag_documents(packages, tags), CARD)
    write_example(options.example, tags, splits["train"][:EXAMPLE_SIZE])
    names = package_catalogue(packages)
    write_data_set(options.full / "debian-suggests", names, suggests_documents(packages), CARD)


if __name__ == "__main__":
    main()
