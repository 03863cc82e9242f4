"""The two-phase graph beside retrieval alone, on the same documents and the same index.

    python examples/debian/make.py                     # once: the two data sets
    python benchmarks/phases.py debian-tags --documents 200 --out /tmp/phases
    python benchmarks/phases.py debian-suggests --documents 200 --out /tmp/phases

    python benchmarks/phases.py debian-tags --split train --embedder static    # retrieval alone

Documents are the first of the split, which is in the order of a hash. The graph's run is
appended to OUT and goes on where it was cut; the table is printed as markdown.

A ranking of the graph is the shortlist by the selector's score, its chosen labels first, then
the candidates that were found but not shortlisted, in the order found. A label whose id is the
document's own is taken out of every ranking: a package does not suggest itself (the extreme
classification repository's `filter_labels`). 95% intervals are bootstrapped over documents,
10,000 samples, seed 0.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter

from ctd_agent.agents import prompts
from ctd_agent.agents.models import load_model
from ctd_agent.agents.selector import judge
from ctd_agent.console import progress
from ctd_agent.distill.evaluation import RANKING
from ctd_agent.distill.metrics import Interval, bootstrap, f1
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.transitions import read_transitions
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Document, Label, LabeledDocument, Usage
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import LabelIndex

DATA = Path(__file__).parent.parent / "examples/debian/full"
TASKS = {
    "debian-tags": "tags that describe the software package: what it is, what it is for, what it works with, its "
    "interface, and what it is written in",
    "debian-suggests": "other packages that the Suggests field of this Debian package names: its documentation or "
    "examples, and optional plugins, front ends and companion tools that make it more useful, not other programs that "
    "do the same",
}
METRICS = {name: RANKING[name] for name in ("R@10", "R@50", "P@1", "RP@5", "nDCG@5")}
Rankings = dict[str, list[str]]
Gold = dict[str, set[str]]


def main() -> None:
    """Run the graph over the documents that are left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=TASKS)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--split", default="dev", help="train, dev or test")
    parser.add_argument("--out", type=Path, help="a folder for the graph's run; without it, retrieval alone")
    parser.add_argument("--model", default="local")
    parser.add_argument("--embedder", help="default: what `ctd-agent label` takes")
    parser.add_argument("--turns", type=int, help="model turns in phase 1; default: what fits the model")
    parser.add_argument("--candidates", type=int, help="on the shortlist; default: what fits the model")
    parser.add_argument("--description", type=int, default=prompts.DESCRIPTION, help="characters that a prompt quotes")
    options = parser.parse_args()

    prompts.DESCRIPTION = options.description
    split = str(DATA / options.data / f"{options.split}.jsonl")
    documents = read_documents(split)[: options.documents]
    with Path(split).open() as file:
        gold = {row["id"]: set(row["labels"]) for row in map(json.loads, file)}
    labels = read_labels(str(DATA / options.data / "catalogue.jsonl"))
    with progress("indexing", len(labels)) as show:
        index = cached_index(labels, options.embedder, show)

    print(f"{options.data}, {options.split}, {len(documents)} documents, {len(labels):,} labels; embedder "
          f"{index.manifest.embedder}, model {options.model}\n")  # fmt: skip
    systems: dict[str, Rankings] = {}
    costs: dict[str, str] = {}
    for mode in ("bm25", "dense", "hybrid"):
        systems[mode], seconds = retrieve(index, documents, mode)
        costs[mode] = f"{seconds / len(documents):.3f} | 0"
    if options.out is None:
        print_table(systems, gold, costs)
        return
    name = f"{options.data}-{options.split}"
    results = run_graph(options, name, index, documents)
    costs["graph"] = cost(results)
    systems["graph"], chosen = read_again(results, options.out / f"{name}.transitions.jsonl", labels)
    print_table(systems, gold, costs)
    print_differences(systems, gold)
    print_choice(chosen, gold)


def retrieve(index: LabelIndex, documents: Iterable[Document], mode: str) -> tuple[Rankings, float]:
    """Return the top 51 of every document, and the seconds that took."""
    started = perf_counter()
    read = {d.id: d.text.encode()[: Budget.document].decode(errors="ignore") for d in documents}  # as the graph does
    rankings = {key: [hit.label.id for hit in index.search(text, 51, mode)] for key, text in read.items()}
    return rankings, perf_counter() - started


def run_graph(
    options: argparse.Namespace, name: str, index: LabelIndex, documents: list[Document]
) -> list[LabeledDocument]:
    """Label what is left of the documents; return all results."""
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.jsonl"
    with Output(path) as output:
        if todo := output.left(documents):
            model = load_model(options.model)
            budget = Budget.fitting(model, model, turns=options.turns, candidates=options.candidates)
            log = options.out / f"{name}.transitions.jsonl"
            graph = build_graph(model, model, index, task=TASKS[options.data], budget=budget, log=log)
            with progress(name, len(documents), len(documents) - len(todo)) as show:
                for done, result in enumerate(label_documents(graph, todo, concurrency=model.slots), start=1):
                    output.write(result)
                    show(len(documents) - len(todo) + done)
    return list(read_records(path, LabeledDocument))


def read_again(results: list[LabeledDocument], log: Path, labels: list[Label]) -> tuple[Rankings, Rankings]:
    """Return the rankings and the chosen labels, the selections read again from the model's logged answers.

    So a change of the fusion's coefficients costs no call.
    """
    transitions, by_id = read_transitions(log), {label.id: label for label in labels}
    baseline: dict[str, float | None] = {}
    rankings: Rankings = {}
    chosen: Rankings = {}
    for result in results:
        steps = transitions[result.id]
        shortlist = [Candidate(label=by_id[e.id], score=e.score, found_by=e.found_by) for e in result.shortlist]
        exchange = steps[-1].exchange
        selection = steps[-1].selection
        if selection and exchange and exchange.questions:
            selection = judge(exchange, shortlist, baseline)
        judged, picked = (list(selection.scores), selection.labels) if selection else ([], [])
        rankings[result.id] = judged + [new for step in steps for new in step.added]
        chosen[result.id] = [label.id for label in picked]
    return rankings, chosen


def cost(results: list[LabeledDocument]) -> str:
    """Return the table's cells of cost: seconds, and tokens that the engine's cache did not spare."""
    usage = sum((phase for result in results for phase in result.usage.values()), Usage())
    tokens = usage.prompt_tokens - usage.cached_tokens + usage.completion_tokens
    return f"{usage.seconds / len(results):.1f} | {tokens / len(results):,.0f}"


def scores(rankings: Rankings, gold: Gold) -> dict[str, list[float]]:
    """Return every metric's value for every document."""
    clean = {key: [label for label in ranking if label != key] for key, ranking in rankings.items()}
    return {
        name: [metric(clean[key], frozenset(gold[key])) for key in sorted(clean)] for name, metric in METRICS.items()
    }


def print_table(systems: dict[str, Rankings], gold: Gold, costs: dict[str, str]) -> None:
    """Print a row a system."""
    print("| | " + " | ".join(METRICS) + " | s/document | tokens/document |")
    print("| --- |" + " --- |" * (len(METRICS) + 2))
    for system, rankings in systems.items():
        cells = [shown(bootstrap(values)) for values in scores(rankings, gold).values()]
        print(f"| {system} | " + " | ".join(cells) + f" | {costs[system]} |")


def print_differences(systems: dict[str, Rankings], gold: Gold) -> None:
    """Print the paired difference of the graph and hybrid retrieval."""
    graph, hybrid = scores(systems["graph"], gold), scores(systems["hybrid"], gold)
    cells = [shown(bootstrap([a - b for a, b in zip(graph[m], hybrid[m], strict=True)]), "+") for m in METRICS]
    print("| graph - hybrid | " + " | ".join(cells) + " | | |\n")


def print_choice(chosen: Rankings, gold: Gold) -> None:
    """Print how good the chosen set is, as it stands."""
    clean = {key: [label for label in labels if label != key] for key, labels in chosen.items()}
    values = [f1(labels, gold[key]) for key, labels in sorted(clean.items())]
    size = sum(map(len, clean.values())) / len(clean)
    print(f"Chosen set: F1 {shown(bootstrap(values))}, {size:.1f} labels a document.")


def shown(interval: Interval, sign: str = "") -> str:
    """Return an interval as a cell: mean [low, high]."""
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
