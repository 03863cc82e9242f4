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
from functools import partial
from pathlib import Path
from time import perf_counter

from ctd_agent.agents.models import load_model
from ctd_agent.console import progress
from ctd_agent.distill.metrics import Interval, bootstrap, f1, ndcg, precision, rank_precision, recall
from ctd_agent.files import read_documents, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.labeling import Budget, build_graph
from ctd_agent.graphs.transitions import read_transitions
from ctd_agent.schema import Document, Usage
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
METRICS = {
    "R@10": partial(recall, k=10),
    "R@50": partial(recall, k=50),
    "P@1": partial(precision, k=1),
    "RP@5": partial(rank_precision, k=5),
    "nDCG@5": partial(ndcg, k=5),
}
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
    options = parser.parse_args()

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
    systems["graph"], costs["graph"] = run_graph(options, name, index, documents)
    print_table(systems, gold, costs)
    print_differences(systems, gold)
    print_choice(options.out / f"{name}.jsonl", gold)


def retrieve(index: LabelIndex, documents: Iterable[Document], mode: str) -> tuple[Rankings, float]:
    """Return the top 51 of every document, and the seconds that took."""
    started = perf_counter()
    rankings = {d.id: [hit.label.id for hit in index.search(d.text, 51, mode)] for d in documents}
    return rankings, perf_counter() - started


def run_graph(
    options: argparse.Namespace, name: str, index: LabelIndex, documents: list[Document]
) -> tuple[Rankings, str]:
    """Label what is left of the documents; return the rankings and the table's cells of cost."""
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / f"{name}.transitions.jsonl"
    output = Output(options.out / f"{name}.jsonl")
    todo = output.left(documents)
    if todo:
        model = load_model(options.model)
        budget = Budget.fitting(model, model, turns=options.turns, candidates=options.candidates)
        graph = build_graph(model, model, index, task=TASKS[options.data], budget=budget, log=log)
        with progress(name, len(documents), len(documents) - len(todo)) as show:
            for done, result in enumerate(label_documents(graph, todo, concurrency=model.slots), start=1):
                output.write(result)
                show(len(documents) - len(todo) + done)
    rankings: Rankings = {}
    usage = Usage()
    for document, steps in read_transitions(log).items():
        usage = sum((step.usage for step in steps), usage)
        selection = steps[-1].selection
        judged = list(selection.scores) if selection else []
        rankings[document] = judged + [new for step in steps for new in step.added]
    n = len(rankings)
    return rankings, f"{usage.seconds / n:.1f} | {(usage.prompt_tokens + usage.completion_tokens) / n:,.0f}"


def scores(rankings: Rankings, gold: Gold) -> dict[str, list[float]]:
    """Return every metric's value for every document."""
    clean = {key: [label for label in ranking if label != key] for key, ranking in rankings.items()}
    return {name: [metric(clean[key], gold[key]) for key in sorted(clean)] for name, metric in METRICS.items()}


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


def print_choice(path: Path, gold: Gold) -> None:
    """Print how good the chosen set is, as it stands."""
    with path.open() as file:
        results = [json.loads(line) for line in file]
    chosen = {r["id"]: [label["id"] for label in r["labels"] if label["id"] != r["id"]] for r in results}
    values = [f1(labels, gold[key]) for key, labels in sorted(chosen.items())]
    size = sum(map(len, chosen.values())) / len(chosen)
    failed = sum(r["failure"] is not None for r in results)
    print(f"Chosen set: F1 {shown(bootstrap(values))}, {size:.1f} labels a document, {failed} documents failed.")


def shown(interval: Interval, sign: str = "") -> str:
    """Return an interval as a cell: mean [low, high]."""
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
