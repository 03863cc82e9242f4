"""How many tokens the prompts of a document have, phase by phase, and how many of them an earlier prompt shares.

    python examples/debian/make.py                     # once: the two data sets
    python benchmarks/tokens.py --documents 100

No prompt is answered: they are put together from the document's own search, as the graph does it, and
counted by the tokenizer of `local` (Qwen2.5), chat template included. "Named only" leaves the
descriptions out. Shared is the part of a document's second and later questions that is the same as in
its first: what a prefix cache spares.
"""

import argparse
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
from phases import TASKS

from ctd_agent.agents.llama import llama_server
from ctd_agent.agents.prompts import described, listwise_prompt, pointwise_prompt, search_prompt
from ctd_agent.agents.weights import fetch
from ctd_agent.console import progress
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.budget import POINTWISE_CANDIDATES, Budget
from ctd_agent.graphs.labeling import DOCUMENT_HITS, SHOWN
from ctd_agent.graphs.state import found_by, shortlist
from ctd_agent.schema import Candidate, Exchange
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_search import found_text

DATA = Path(__file__).parent.parent / "examples/debian/full"
Counts = dict[str, list[float]]


def main() -> None:
    """Count for both data sets, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    tokenizer = Tokenizer(llama_server(fetch()))
    print("| data | documents | prompt | tokens | named only |")
    print("| --- | --: | --- | --: | --: |")
    for data, task in TASKS.items():
        documents = read_documents(str(DATA / data / f"{options.split}.jsonl"))[: options.documents]
        index = cached_index(read_labels(str(DATA / data / "catalogue.jsonl")), "static")
        rows: dict[str, tuple[list[float], list[float]]] = {}
        with progress(data, len(documents)) as show:
            for number, document in enumerate(documents, start=1):
                text = document.text.encode()[: Budget.document].decode(errors="ignore")
                found = list(found_by(0, "", index.search(text, DOCUMENT_HITS)).values())
                whole, named = (count(tokenizer, text, task, some) for some in (found, [bare(c) for c in found]))
                for name in whole:
                    both = rows.setdefault(name, ([], []))
                    both[0].append(whole[name])
                    both[1].append(named[name])
                show(number)
        for name, (whole_counts, named_counts) in rows.items():
            print(f"| {data} | {len(documents)} | {name} | {mean(whole_counts):,.0f} | {mean(named_counts):,.0f} |")


class Tokenizer:
    """The chat template and the tokenizer of a llama.cpp server."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url.removesuffix("/v1"), timeout=60.0, trust_env=False)

    def tokens(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """Return the tokens of a prompt."""
        prompt = self._client.post("/apply-template", json={"messages": messages}).raise_for_status().json()["prompt"]
        answer = self._client.post("/tokenize", json={"content": prompt, "parse_special": True})
        tokens: list[int] = answer.raise_for_status().json()["tokens"]
        return tokens


def bare(candidate: Candidate) -> Candidate:
    """Return a candidate whose label has its name alone."""
    label = candidate.label.model_copy(update={"description": ""})
    return Candidate(label=label, score=candidate.score, found_by=candidate.found_by)


def count(tokenizer: Tokenizer, text: str, task: str, found: list[Candidate]) -> dict[str, float]:
    """Return the tokens of each of a document's prompts, by what it is."""
    size = Budget.candidates
    opening = search_prompt(text, task, found_text([c.label.name for c in found[:SHOWN]]), 8, native=False)
    listed = shortlist({c.label.id: c for c in found}, size)
    questions = [described(c.label) for c in listed[:POINTWISE_CANDIDATES]]
    asked = [tokenizer.tokens(p) for p in Exchange(messages=pointwise_prompt(text, task), questions=questions).prompts]
    same = [takewhile(lambda pair: pair[0] == pair[1], zip(asked[0], later, strict=False)) for later in asked[1:]]
    shared = sum(len(list(one)) for one in same)
    total = sum(map(len, asked))
    return {
        "phase 1, a turn": len(tokenizer.tokens(opening)),
        f"phase 2, listwise, {size} candidates": len(tokenizer.tokens(listwise_prompt(text, task, listed))),
        f"phase 2, pointwise, {len(questions)} questions": total,
        "of these, not shared": total - shared,
    }


if __name__ == "__main__":
    main()
