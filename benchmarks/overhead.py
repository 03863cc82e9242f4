"""The cost of ctd-agent itself a document, beside the same two model calls with no graph at all.

    python benchmarks/overhead.py

The model is a stand-in that answers at once, so the time is our own. Every document has the two calls
of a model with tool calls: a search turn that asks for nothing, then a choice. Bare, the same prompts go
to the same model from as many threads. Processor time is that of the whole process, memory the most it
ever held. Each row is a process of its own. Documents are the example's, numbered anew. The catalogue is
the example's (608 labels), the embedder static. The log and the results are written to a temporary folder.
"""

import argparse
import json
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from script import command_line, in_own_process, print_table, run

from ctd_agent.agents.engines import ChatModel
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.schema import Document
from ctd_agent.tools.index_cache import cached_index

DATA = Path(__file__).parent.parent / "examples/debian"
ROWS = [(2_000, 1), (2_000, 16), (2_000, 64), (2_000, 256), (100, 16), (10_000, 16)]  # documents, concurrency
CHOICE = json.dumps({"reasoning": "It fits.", "labels": [{"number": 1, "score": 0.9, "reason": "It fits."}]})


class Steps(TypedDict):
    """The state of an empty graph."""

    step: int


class Instant(BaseChatModel):
    """Answers at once: no tool call, or the first label."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Take the tools, and call none."""
        return self.bind(tools=tools, **options)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **options: Any) -> ChatResult:
        usage = {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105}
        answer = AIMessage(CHOICE if "response_format" in options else "Enough.", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def main() -> None:
    """Run every row in a process of its own, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--row", help=argparse.SUPPRESS)  # DOCUMENTS,CONCURRENCY: how this starts itself
    if row := parser.parse_args().row:
        print(json.dumps(measure(*map(int, row.split(",")))))
        return
    header = ["documents", "at once", "ms of CPU a document", "bare calls", "empty graph", "one search", "all else",
              "documents/s", "memory, MB", "bare calls, MB"]  # fmt: skip
    print_table(header, (cells(documents, concurrency) for documents, concurrency in ROWS), "r")


def cells(documents: int, concurrency: int) -> list[str]:
    """Return a row's cells."""
    graph, *parts, rate, memory, bare_memory = in_own_process("--row", f"{documents},{concurrency}")
    times = [f"{part:.2f}" for part in (graph, *parts, graph - sum(parts))]
    return [f"{documents:,}", str(concurrency), *times, f"{rate:.0f}", f"{memory:.0f}", f"{bare_memory:.0f}"]


def measure(count: int, concurrency: int) -> list[float]:
    """Return ms of processor time a document: ours, bare calls, an empty graph, a search. Documents/s. Peaks in MB."""
    model = ChatModel("instant", Instant())
    index = cached_index(read_labels(str(DATA / "catalogue.jsonl")), "static")
    texts = [document.text for document in read_documents(str(DATA / "documents.jsonl"))]
    documents = [Document(id=str(n), text=text) for n, text in enumerate(islice(cycle(texts), count))]
    with TemporaryDirectory() as folder:
        prompts = logged(model, index, documents[: len(texts)], Path(folder) / "prompts")
        bare(model, prompts, len(texts), concurrency)  # first calls import and compile
        alone = cost(partial(bare, model, prompts, count, concurrency)) / count
        alone_memory = peak()
        empty, first = empty_graph(), documents[:100]
        empty_cost = cost(lambda: [empty.invoke({"step": 0}) for _ in first]) / len(first)
        search = cost(lambda: [index.search(document.text, 100) for document in first]) / len(first)
        graph = build_graph(model, model, index, log=Path(folder) / "log")
        started, clock = process_time(), perf_counter()
        with Output(Path(folder) / "results") as output:
            for result in label_documents(graph, documents, concurrency=concurrency):
                output.write(result)
        ours, seconds = (process_time() - started) / count, perf_counter() - clock
    return [*(1000 * part for part in (ours, alone, empty_cost, search)), count / seconds, peak(), alone_memory]


def cost(work: Callable[[], Any]) -> float:
    """Return the seconds of processor time that a function takes."""
    started = process_time()
    work()
    return process_time() - started


def empty_graph() -> Any:
    """Return a graph of four steps that do nothing."""
    graph = StateGraph(Steps)
    for step, goto in zip("0123", ("1", "2", "3", END), strict=True):
        graph.add_node(step, partial(advance, goto), destinations=(goto,))
    graph.add_edge(START, "0")
    return graph.compile()


def advance(goto: str, state: Steps) -> Command[Any]:
    """Do nothing, and go on."""
    return Command(update={"step": state["step"] + 1}, goto=goto)


def logged(model: ChatModel, index: Any, documents: list[Document], log: Path) -> list[list[Any]]:
    """Return every document's two calls, as the graph makes them."""
    list(label_documents(build_graph(model, model, index, log=log), documents))
    steps = read_log(log).steps
    return [[step.exchange for step in steps[d.id] if step.exchange] for d in documents]


def bare(model: ChatModel, calls: list[list[Any]], count: int, concurrency: int) -> None:
    """Make the same calls from as many threads, with nothing around them."""

    def send(exchanges: list[Any]) -> None:
        for exchange in exchanges:
            options = dict(exchange.options)
            tools = options.pop("tools", None)
            chat = model.chat.bind_tools(tools) if tools else model.chat
            chat.bind(**options).invoke(convert_to_messages(exchange.messages))

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(send, islice(cycle(calls), count)))


def peak() -> float:
    """Return the most memory the process has ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
