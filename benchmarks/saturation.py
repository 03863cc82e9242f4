"""Whether ctd-agent keeps an engine as busy as the same prompts do that are sent to it with nothing around them.

    python benchmarks/saturation.py --model local --documents 6
    python benchmarks/saturation.py --model vllm:MODEL --documents 64 --concurrency 16 --pointwise

A run of the graph over the example's documents, then its logged prompts, exactly as they were, straight
into the engine's HTTP endpoint: as many documents at once, each document's prompts one after the other.
Each side has a fresh process and with it a fresh engine, so that neither finds the other's prefixes in
the cache; the sides take turns. Only the time after the engine has answered a first call counts.
Tokens are those the engine has worked on: prompts but for what its cache spared, and answers. The
shortlist is cut to the first 20 of the document's search; the embedder is static.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import httpx

from ctd_agent.agents.chat_model import ChatModel
from ctd_agent.agents.models import load_model
from ctd_agent.agents.sampling import Sampling
from ctd_agent.distill.metrics import bootstrap
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.transitions import read_transitions
from ctd_agent.schema import Document, Exchange, Usage
from ctd_agent.tools.index_cache import cached_index

DATA = Path(__file__).parent.parent / "examples/debian"
TASK = "tags that describe the software package"
Measured = tuple[Usage, float]


def main() -> None:
    """Let both sides take turns, and print a row a pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="local")
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--concurrency", type=int, help="documents at once; default: what `label` takes")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--turns", type=int, default=0, help="model turns in phase 1")
    parser.add_argument("--pointwise", action="store_true", help="phase 2 asks about each candidate")
    parser.add_argument("--max-tokens", type=int, help="of a choice from the whole list")
    parser.add_argument("--side", choices=["graph", "raw"], help=argparse.SUPPRESS)  # how this starts itself
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        usage, seconds = (graph if options.side == "graph" else raw)(options)
        print(json.dumps({**usage.model_dump(), "seconds": seconds}))
        return
    print("| pair | documents | tokens, graph | tokens, raw | from cache | tokens/s, graph | tokens/s, raw | ratio |")
    print("| --: | --: | --: | --: | --: | --: | --: | --: |")
    ratios = [pair(number, options) for number in range(1, options.pairs + 1)]
    mean, low, high = bootstrap(ratios)
    print(f"\nratio: mean {mean:.3f}, 95% bootstrap interval over the pairs [{low:.3f}, {high:.3f}]")


def pair(number: int, options: argparse.Namespace) -> float:
    """Measure both sides once, print the row, return the ratio of their tokens a second."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        mine, its = side("graph", log), side("raw", log)
    rates = [work(usage) / seconds for usage, seconds in (mine, its)]
    spared = mine[0].cached_tokens / mine[0].prompt_tokens
    print(
        f"| {number} | {options.documents} | {work(mine[0]):,} | {work(its[0]):,} | {spared:.0%} "
        f"| {rates[0]:.1f} | {rates[1]:.1f} | {rates[0] / rates[1]:.3f} |",
        flush=True,
    )
    return rates[0] / rates[1]


def side(name: str, log: Path) -> Measured:
    """Run one side in a process of its own."""
    command = [sys.executable, *sys.argv, "--side", name, "--log", str(log)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this very script
    fields = json.loads(done.stdout.splitlines()[-1])
    return Usage(**{**fields, "seconds": 0.0}), fields["seconds"]


def work(usage: Usage) -> int:
    """Return the tokens that the engine had to work on."""
    return usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens


def graph(options: argparse.Namespace) -> Measured:
    """Label the documents, and log it."""
    model = loaded(options)
    index = cached_index(read_labels(str(DATA / "catalogue.jsonl")), "static")
    texts = [document.text for document in read_documents(str(DATA / "documents.jsonl"))]
    documents = [Document(id=str(n), text=text) for n, text in enumerate(islice(cycle(texts), options.documents))]
    app = build_graph(
        model,
        model,
        index,
        task=TASK,
        budget=Budget(turns=options.turns, candidates=20, seconds=1e6, tokens=10**9),
        select_sampling=Sampling(max_tokens=options.max_tokens),
        log=options.log,
    )
    started = perf_counter()
    results = list(label_documents(app, documents, concurrency=options.concurrency or model.slots))
    seconds = perf_counter() - started
    return sum((phase for result in results for phase in result.usage.values()), Usage()), seconds


def raw(options: argparse.Namespace) -> Measured:
    """Send the log's prompts to the engine's endpoint."""
    model = loaded(options)
    exchanges = [[step.exchange for step in steps if step.exchange] for steps in read_transitions(options.log).values()]
    client = httpx.Client(timeout=600.0, trust_env=False, limits=httpx.Limits(max_connections=None))
    send = sender(model, client)
    started = perf_counter()
    with ThreadPoolExecutor(options.concurrency or model.slots) as pool:
        usages = list(pool.map(lambda document: sum((send(e) for e in document), Usage()), exchanges))
    return sum(usages, Usage()), perf_counter() - started


def sender(model: ChatModel, client: httpx.Client) -> Callable[[Exchange], Usage]:
    """Return what sends an exchange's prompts one by one, and counts their tokens."""
    chat: Any = model.chat
    url = f"{chat.openai_api_base}/chat/completions"

    def send(exchange: Exchange) -> Usage:
        options = dict(exchange.options)
        thinking = options.pop("thinking", None)
        if thinking is not None and model.thinking:
            options |= model.thinking(thinking)["extra_body"]
        total = Usage()
        for prompt in exchange.prompts:
            answer = client.post(url, json={"model": chat.model_name, "messages": prompt, **options})
            counts = answer.raise_for_status().json()["usage"]
            total += Usage(
                calls=1,
                prompt_tokens=counts["prompt_tokens"],
                cached_tokens=(counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
                completion_tokens=counts["completion_tokens"],
            )
        return total

    return send


def loaded(options: argparse.Namespace) -> ChatModel:
    """Start the engine, and let it answer once."""
    model = load_model(options.model)
    model.ask(Exchange(messages=[{"role": "user", "content": "Hello"}], options={"max_tokens": 1}))
    return replace(model, listwise=False) if options.pointwise else model


if __name__ == "__main__":
    main()
