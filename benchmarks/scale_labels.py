"""The labels and the queries of index_scale.py. Its docstring describes them."""

import random
from collections.abc import Iterator
from pathlib import Path

from script import as_read

from ctd_agent.files import read_documents, read_labels
from ctd_agent.schema import Label


def catalogue(size: int, seed: int, debian: Path, synsets: Path) -> list[Label]:
    """Return the first labels of the composed catalogue."""
    rng = random.Random(seed)  # noqa: S311 - invents labels, no secrets
    packages = read_labels(str(debian / "debian-suggests/catalogue.jsonl"))
    meanings = list(wordnet(synsets))
    rng.shuffle(packages)
    rng.shuffle(meanings)
    real = packages + meanings
    words = [word for label in real for word in label.text.split()]

    def noisy(text: str) -> str:
        return " ".join(rng.choice(words) if rng.random() < 0.25 else word for word in text.split())

    def copies() -> Iterator[Label]:
        for number in range(size - len(real)):
            label = rng.choice(real)
            aliases = [noisy(alias) for alias in label.aliases]
            yield Label(
                id=f"{label.id} {number}",
                name=noisy(label.name),
                aliases=aliases,
                description=noisy(label.description),
            )

    return real[:size] + list(copies())


def wordnet(folder: Path) -> Iterator[Label]:
    """Yield WordNet's synsets: the first word is the name, the others are aliases, the gloss describes."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{part}").read_text().splitlines():
            if line.startswith("  "):  # the licence
                continue
            head, _, gloss = line.partition(" | ")
            fields = head.split()
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            name, *aliases = (word.partition("(")[0].replace("_", " ") for word in words)
            yield Label(id=f"{part} {fields[0]}", name=name, aliases=aliases, description=gloss.strip())


def queries(debian: Path) -> list[str]:
    """Return the documents' texts, cut as the labelling graph cuts them."""
    return [
        as_read(document)
        for data in ("debian-tags", "debian-suggests")
        for document in read_documents(str(debian / data / "dev.jsonl"))[:100]
    ]
