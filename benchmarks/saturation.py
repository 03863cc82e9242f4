"""An engine's load under ctd-agent, beside that under the same prompts sent with nothing around them.

    python benchmarks/saturation.py --model local --documents 6
    python benchmarks/saturation.py --model vllm:MODEL --documents 64 --concurrency 16 --pointwise

A run of the graph over the example's documents, then its logged prompts, exactly as they were, straight
into the engine's HTTP endpoint: as many documents at once, each document's prompts one after the other.
Each side has a fresh process and with it a fresh engine, so that neither finds the other's prefixes in
the cache. The sides take turns. Only the time after the engine has answered a first call counts.
Tokens are those the engine has worked on: prompts without the part that its cache spared, and answers. The
shortlist is cut to the first 20 of the document's search. The embedder is static.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import httpx
from script import command_line, in_own_process, print_table, run, spent, worked_on

from ctd_agent.agents.engines import ChatModel, Model, load_model
from ctd_agent.agents.sampling import Sampling
from ctd_agent.files import read_documents
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.job import Job
from ctd_agent.graphs.logged import read_log
from ctd_agent.measure.metrics import bootstrap
from ctd_agent.schema import Document, Exchange, Usage

DATA = Path(__file__).parent.parent / "examples/debian"
TASK = "tags that describe the software package"
Measured = tuple[Usage, float]


def main() -> None:
    """Let both sides take turns, and print a row a pair."""
    parser = command_line(__doc__)
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
    ratios: list[float] = []
    header = ["pair", "documents", "tokens, graph", "tokens, raw", "from cache", "tokens/s, graph", "tokens/s, raw"]
    print_table([*header, "ratio"], pairs(options, ratios), "r")
    mean, low, high = bootstrap(ratios)
    print(f"\nratio: mean {mean:.3f}, 95% bootstrap interval over the pairs [{low:.3f}, {high:.3f}]")


def pairs(options: argparse.Namespace, ratios: list[float]) -> Iterator[list[str]]:
    """Measure both sides once a row, and add the ratio of their tokens a second to `ratios`."""
    for number in range(1, options.pairs + 1):
        with TemporaryDirectory() as folder:
            log = Path(folder) / "log.jsonl"
            mine, its = side("graph", log), side("raw", log)
        tokens = [worked_on(usage) for usage, _ in (mine, its)]
        rates = [count / seconds for count, (_, seconds) in zip(tokens, (mine, its), strict=True)]
        spared = mine[0].cached_tokens / mine[0].prompt_tokens
        ratios.append(rates[0] / rates[1])
        cells = [*(f"{count:,}" for count in tokens), f"{spared:.0%}", *(f"{rate:.1f}" for rate in rates)]
        yield [str(number), str(options.documents), *cells, f"{ratios[-1]:.3f}"]


def side(name: str, log: Path) -> Measured:
    """Run one side in a process of its own."""
    fields = in_own_process("--side", name, "--log", str(log))
    return Usage(**{**fields, "seconds": 0.0}), fields["seconds"]


def graph(options: argparse.Namespace) -> Measured:
    """Label the documents, and log it."""
    job = Job(
        labels=str(DATA / "catalogue.jsonl"),
        embedder="static",
        shortlister=options.model,
        selector=options.model,
        selecting="pointwise" if options.pointwise else None,
        task=TASK,
        budget={"turns": options.turns, "candidates": 20, "seconds": 1e6, "tokens": 10**9},
        select_sampling=Sampling(max_tokens=options.max_tokens),
        concurrency=options.concurrency,
    )
    labeller = job.open()
    warm(labeller.selector)
    texts = [document.text for document in read_documents(str(DATA / "documents.jsonl"))]
    documents = [Document(id=str(n), text=text) for n, text in enumerate(islice(cycle(texts), options.documents))]
    app = labeller.graph(options.log)
    started = perf_counter()
    results = list(label_documents(app, documents, concurrency=labeller.concurrency))
    return spent(results), perf_counter() - started


def raw(options: argparse.Namespace) -> Measured:
    """Send the log's prompts to the engine's endpoint."""
    model = load_model(options.model)
    assert isinstance(model, ChatModel)
    warm(model)
    exchanges = [[step.exchange for step in steps if step.exchange] for steps in read_log(options.log).steps.values()]
    client = httpx.Client(timeout=600.0, trust_env=False, limits=httpx.Limits(max_connections=None))
    send = sender(model, client)
    started = perf_counter()
    with ThreadPoolExecutor(options.concurrency or model.slots) as pool:
        usages = list(pool.map(lambda document: sum((send(e) for e in document), Usage()), exchanges))
    return sum(usages, Usage()), perf_counter() - started


def sender(model: ChatModel, client: httpx.Client) -> Callable[[Exchange], Usage]:
    """Return a function that sends an exchange's prompts one by one, and counts their tokens."""
    chat: Any = model.chat
    url = f"{chat.openai_api_base}/chat/completions"
    key = {"Authorization": f"Bearer {chat.openai_api_key.get_secret_value()}"}

    def send(exchange: Exchange) -> Usage:
        options = dict(exchange.options)
        thinking = options.pop("thinking", None)
        if thinking is not None and model.thinking:
            options |= model.thinking(thinking)["extra_body"]
        total = Usage()
        for prompt in exchange.prompts:
            answer = client.post(url, headers=key, json={"model": chat.model_name, "messages": prompt, **options})
            counts = answer.raise_for_status().json()["usage"]
            total += Usage(
                calls=1,
                prompt_tokens=counts["prompt_tokens"],
                cached_tokens=(counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
                completion_tokens=counts["completion_tokens"],
            )
        return total

    return send


def warm(model: Model) -> None:
    """Let the engine answer once."""
    model.ask(Exchange(messages=[{"role": "user", "content": "Hello"}], options={"max_tokens": 1}))


if __name__ == "__main__":
    run(main)
