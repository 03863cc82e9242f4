r"""The systems that the two-phase graph is compared with, on the same documents, index and model.

    python benchmarks/baselines.py examples/debian/full/debian-tags --task "tags that describe the package" \
        --documents 20 --out /tmp/baselines --run /tmp/runs/debian-tags.jsonl

FOLDER holds catalogue.jsonl and SPLIT.jsonl, whose lines have id, text, labels and filter_labels. Documents
are the first of the split. Each goes through all systems before the next does, and each system's run is
OUT/SYSTEM.jsonl, whose finished documents are kept. Then a markdown table is printed. Labels in filter_labels
are taken out of every ranking and choice. Tokens are those of all prompts and answers, the engine's cache
included, so the order of the systems does not matter. The first system with a model pays the seconds of reading
the document. 95% intervals are bootstrapped over documents, 10,000 samples, seed 0.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from comparison import Values, ranking_values
from script import command_line, interval, print_table, run, spent
from systems import RETRIEVAL, System, baselines, retrieval

from ctd_agent.agents.engines import ChatModel, load_model
from ctd_agent.agents.prompts import DEFAULT_TASK
from ctd_agent.console import progress
from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.transitions import log_of
from ctd_agent.measure.evaluate import RANKING
from ctd_agent.measure.metrics import f1
from ctd_agent.measure.trace import Trace, read_traces
from ctd_agent.schema import Document, LabeledDocument
from ctd_agent.tools.index_cache import cached_index

SYSTEMS = (*RETRIEVAL, "no-tool", "retrieve-then-rank", "monolithic")
METRICS = {name: RANKING[name] for name in ("R@10", "R@50", "P@1", "RP@5", "nDCG@5")}
Scores = Mapping[str, Values]  # by metric


def main() -> None:
    """Run what is left of every system, then print the table."""
    parser = command_line(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", default=DEFAULT_TASK, help="what the labels are, in a few words")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--split", default="dev", help="train, dev or test")
    parser.add_argument("--model", default="local")
    parser.add_argument("--embedder", help="default: what `ctd-agent label` takes")
    parser.add_argument("--turns", type=int, default=1, help="search turns of the monolithic system")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--run", type=Path, help="the graph's own run on these documents, its log beside it")
    options = parser.parse_args()
    split = str(options.folder / f"{options.split}.jsonl")
    documents = read_documents(split)[: options.documents]
    run_systems(options, documents)
    gold = read_gold(split)
    runs = {name: read_traces(options.out / f"{name}.jsonl", gold) for name in options.systems}
    if options.run:
        wanted = {document.id for document in documents}
        graph = read_traces(options.run, gold, log_of(options.run))
        runs["graph"] = [trace for trace in graph if trace.document in wanted]
    by_system = {name: scores(traces) for name, traces in runs.items()}
    print_scores(runs, by_system)
    if options.run:
        print()
        print_table(["graph minus", "documents", *METRICS, "F1"], differences(by_system))


def run_systems(options: argparse.Namespace, documents: Sequence[Document]) -> None:
    """Let every system label the documents that it has not, one document after the other."""
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(Output(options.out / f"{name}.jsonl")) for name in options.systems}
        left = {name: {document.id for document in output.left(documents)} for name, output in outputs.items()}
        if not any(left.values()):
            return
        systems = load_systems(options, [name for name in options.systems if left[name]])
        with progress("baselines", len(documents)) as show:
            for done, document in enumerate(documents, start=1):
                for name, system in systems.items():
                    if document.id in left[name]:
                        outputs[name].write(system(document))
                show(done)


def load_systems(options: argparse.Namespace, names: Sequence[str]) -> dict[str, System]:
    """Return these systems. The model is loaded only for those that need it."""
    labels = read_labels(str(options.folder / "catalogue.jsonl"))
    with progress("indexing", len(labels)) as show:
        index = cached_index(labels, options.embedder, show)
    systems = retrieval(index)
    if set(names) - set(RETRIEVAL):
        model = load_model(options.model)
        if not isinstance(model, ChatModel):
            raise UserError(f"--model {options.model}: an encoder writes no answer; name a chat model")
        systems |= baselines(model, index, task=options.task, turns=options.turns)
    return {name: systems[name] for name in names}


def scores(traces: Sequence[Trace]) -> Scores:
    """Return every metric of every document that has gold. F1 is that of the chosen labels."""
    choice = {trace.document: f1(trace.chosen, trace.right) for trace in traces if trace.right}
    return {**ranking_values(traces, METRICS), "F1": choice}


def print_scores(runs: Mapping[str, Sequence[Trace]], by_system: Mapping[str, Scores]) -> None:
    """Print a row a system. Retrieval chooses nothing, so its choice has no score."""
    rows = []
    for system, traces in runs.items():
        results = [trace.result for trace in traces if trace.result]
        cells = [
            "" if name == "F1" and system in RETRIEVAL else interval(list(values.values()))
            for name, values in by_system[system].items()
        ]
        rows.append([system, str(len(results)), *cells, *cost(results)])
    print_table(["", "documents", *METRICS, "F1", "calls", "tokens", "s/document", "failed"], rows)


def cost(results: Sequence[LabeledDocument]) -> Iterable[str]:
    """Return the cells of cost: calls, tokens and seconds a document, and the number of failed documents."""
    usage, count = spent(results), len(results)
    failed = sum(result.failure is not None for result in results)
    tokens = usage.prompt_tokens + usage.completion_tokens
    return f"{usage.calls / count:.1f}", f"{tokens / count:,.0f}", f"{usage.seconds / count:.2f}", str(failed)


def differences(by_system: Mapping[str, Scores]) -> Iterator[list[str]]:
    """Yield a row a system: the graph less the system, paired, on the documents that both have."""
    graph = by_system["graph"]
    for system, its in by_system.items():
        if system == "graph":
            continue
        both = [key for key in its["P@1"] if key in graph["P@1"]]
        if not both:
            raise UserError(f"the graph's run and that of {system} have no document in common")
        cells = [
            ""
            if name == "F1" and system in RETRIEVAL
            else interval([graph[name][key] - values[key] for key in both], "+")
            for name, values in its.items()
        ]
        yield [system, str(len(both)), *cells]


if __name__ == "__main__":
    run(main)
