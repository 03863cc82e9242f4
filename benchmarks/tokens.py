"""The tokens of a document's prompts, phase by phase, and how many of them an earlier prompt shares.

    python examples/debian/make.py                     # once: the two data sets
    python benchmarks/tokens.py --documents 100

No prompt is answered. They are put together from the document's own search, as in the graph, and counted by
the tokenizer of `local` (Qwen2.5), chat template included. "Named only" leaves the descriptions out. A prefix
cache spares the shared part: what a document's later questions have in common with its first.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
from phases import TASKS
from script import as_read, command_line, print_table, run

from ctd_agent.agents.engines.llama import llama_server
from ctd_agent.agents.engines.openai_chat import OWN_KEY
from ctd_agent.agents.engines.weights import fetch
from ctd_agent.agents.prompts import described, listwise_prompt, pointwise_prompt, search_prompt
from ctd_agent.agents.selecting.pointwise import Pointwise
from ctd_agent.console import progress
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import SHOWN
from ctd_agent.graphs.state import found_by, shortlist
from ctd_agent.schema import Candidate, Exchange
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_search import found_text
from ctd_agent.tools.sources import DOCUMENT_HITS

DATA = Path(__file__).parent.parent / "examples/debian/full"


def main() -> None:
    """Count for both data sets, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    tokenizer = Tokenizer(llama_server(fetch()))
    rows = (row for data in TASKS for row in counted(tokenizer, data, options.split, options.documents))
    print_table(["data", "documents", "prompt", "tokens", "named only"], rows, "lrl")


def counted(tokenizer: "Tokenizer", data: str, split: str, limit: int) -> Iterator[list[str]]:
    """Yield a data set's rows: the mean tokens of a prompt, with and without descriptions."""
    documents = read_documents(str(DATA / data / f"{split}.jsonl"))[:limit]
    index = cached_index(read_labels(str(DATA / data / "catalogue.jsonl")), "static")
    sizes: list[dict[str, float]] = []
    bare_sizes: list[dict[str, float]] = []
    with progress(data, len(documents)) as show:
        for number, document in enumerate(documents, start=1):
            text = as_read(document)
            candidates = list(found_by("labels", "", index.search(text, DOCUMENT_HITS)).values())
            sizes.append(count(tokenizer, text, TASKS[data], candidates))
            bare_sizes.append(count(tokenizer, text, TASKS[data], list(map(bare, candidates))))
            show(number)
    for name in dict.fromkeys(name for size in sizes for name in size):
        means = [f"{mean(size[name] for size in rows if name in size):,.0f}" for rows in (sizes, bare_sizes)]
        yield [data, str(len(documents)), name, *means]


class Tokenizer:
    """The chat template and the tokenizer of a llama.cpp server."""

    def __init__(self, url: str) -> None:
        key = {"Authorization": f"Bearer {OWN_KEY}"}
        self._client = httpx.Client(base_url=url.removesuffix("/v1"), headers=key, timeout=60.0, trust_env=False)

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


def count(tokenizer: Tokenizer, text: str, task: str, candidates: list[Candidate]) -> dict[str, float]:
    """Return the tokens of each of a document's prompts, by its name."""
    size = Budget().candidates
    opening = search_prompt(text, task, found_text([c.label.name for c in candidates[:SHOWN]]), 8, native=False)
    listed = shortlist({c.label.id: c for c in candidates}, size)
    shown = [described(c.label) for c in listed]
    questions = shown[: Pointwise.candidates]
    prompts = Exchange(messages=pointwise_prompt(text, task), questions=questions).prompts
    first, *later = map(tokenizer.tokens, prompts)
    same = [takewhile(lambda pair: pair[0] == pair[1], zip(first, prompt, strict=False)) for prompt in later]
    shared = sum(len(list(pairs)) for pairs in same)
    total = len(first) + sum(map(len, later))
    return {
        "phase 1, a turn": len(tokenizer.tokens(opening)),
        f"phase 2, listwise, {size} candidates": len(tokenizer.tokens(listwise_prompt(text, task, shown))),
        f"phase 2, pointwise, {len(questions)} questions": total,
        "of these, not shared": total - shared,
    }


if __name__ == "__main__":
    run(main)
