"""The two-phase graph beside retrieval alone, on the same documents and the same index.

    python examples/debian/make.py                     # once: the two data sets
    python benchmarks/phases.py debian-tags --documents 200 --out /tmp/phases
    python benchmarks/phases.py debian-suggests --documents 200 --out /tmp/phases

    python benchmarks/phases.py debian-tags --split train --embedder static    # retrieval alone

Documents are the first of the split, which is in the order of a hash. The graph's run is
appended to OUT and goes on where it was cut. The table is printed as markdown.

A ranking of the graph is the shortlist by the selector's score, its chosen labels first, then
the candidates that were found but not shortlisted, in the order found. A label whose id is the
document's own is taken out of every ranking: a package does not suggest itself (the extreme
classification repository's `filter_labels`). 95% intervals are bootstrapped over documents,
10,000 samples, seed 0.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter

from script import as_read, command_line, interval, label_left, print_table, run, spent, worked_on
from systems import RETRIEVAL

from ctd_agent.agents import prompts
from ctd_agent.agents.engines import load_phases
from ctd_agent.agents.selecting.pointwise import judge
from ctd_agent.files import read_documents, read_gold
from ctd_agent.graphs.job import Job, Labeller
from ctd_agent.graphs.logged import read_log
from ctd_agent.measure.evaluate import RANKING
from ctd_agent.measure.metrics import f1
from ctd_agent.schema import Candidate, Document, Label, LabeledDocument
from ctd_agent.tools.label_index import LabelIndex, Mode

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
Gold = Mapping[str, frozenset[str]]


def main() -> None:
    """Run the graph over the documents that are left, then print the table."""
    parser = command_line(__doc__)
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
    gold = {document: labels.labels for document, labels in read_gold(split).items()}
    job = job_of(options)
    index = job.open_index()
    print(f"{options.data}, {options.split}, {len(documents)} documents, {index.manifest.labels:,} labels; embedder "
          f"{index.manifest.embedder}, model {options.model}\n")  # fmt: skip
    systems: dict[str, Rankings] = {}
    costs: dict[str, list[str]] = {}
    for mode in RETRIEVAL:
        systems[mode], seconds = retrieve(index, documents, mode)
        costs[mode] = [f"{seconds / len(documents):.3f}", "0"]
    if options.out is None:
        print_systems(systems, gold, costs)
        return
    results, log = run_graph(job, index, documents, options.out, f"{options.data}-{options.split}")
    costs["graph"] = cost(results)
    systems["graph"], chosen = read_again(results, log, index.labels())
    print_systems(systems, gold, costs)
    print_choice(chosen, gold)


def job_of(options: argparse.Namespace) -> Job:
    """Return the graph's job."""
    budget = {"turns": options.turns, "candidates": options.candidates}
    return Job(
        labels=str(DATA / options.data / "catalogue.jsonl"),
        embedder=options.embedder,
        shortlister=options.model,
        selector=options.model,
        task=TASKS[options.data],
        budget={name: number for name, number in budget.items() if number is not None},
    )


def retrieve(index: LabelIndex, documents: Iterable[Document], mode: Mode) -> tuple[Rankings, float]:
    """Return the top 51 of every document, and the seconds that took."""
    started = perf_counter()
    rankings = {d.id: [hit.label.id for hit in index.search(as_read(d), 51, mode)] for d in documents}
    return rankings, perf_counter() - started


def run_graph(
    job: Job, index: LabelIndex, documents: list[Document], out: Path, name: str
) -> tuple[list[LabeledDocument], Path]:
    """Label the documents that are left. Return all results, and the file of the log."""
    log = out / f"{name}.transitions.jsonl"

    def label(todo: list[Document]) -> Iterable[LabeledDocument]:
        return Labeller(job, index, *load_phases(job.shortlister, job.selector)).label(todo, log)

    return label_left(out / f"{name}.jsonl", documents, label), log


def read_again(results: list[LabeledDocument], log: Path, labels: Iterable[Label]) -> tuple[Rankings, Rankings]:
    """Return the rankings and the chosen labels, the selections read again from the model's logged answers.

    So a change of the fusion's coefficients costs no call.
    """
    transitions, by_id = read_log(log).steps, {label.id: label for label in labels}
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


def cost(results: list[LabeledDocument]) -> list[str]:
    """Return the table's cells of cost: seconds, and tokens that the engine's cache did not spare."""
    usage = spent(results)
    return [f"{usage.seconds / len(results):.1f}", f"{worked_on(usage) / len(results):,.0f}"]


def scores(rankings: Rankings, gold: Gold) -> dict[str, list[float]]:
    """Return every metric's value for every document."""
    clean = {key: [label for label in ranking if label != key] for key, ranking in rankings.items()}
    return {name: [metric(clean[key], gold[key]) for key in sorted(clean)] for name, metric in METRICS.items()}


def print_systems(systems: Mapping[str, Rankings], gold: Gold, costs: Mapping[str, list[str]]) -> None:
    """Print a row a system, and the paired difference of the graph and hybrid retrieval."""
    measured = {system: scores(rankings, gold) for system, rankings in systems.items()}
    rows = [[system, *map(interval, values.values()), *costs[system]] for system, values in measured.items()]
    if "graph" in measured:
        pairs = [zip(measured["graph"][name], measured["hybrid"][name], strict=True) for name in METRICS]
        rows.append(["graph - hybrid", *(interval([a - b for a, b in pair], "+") for pair in pairs), "", ""])
    print_table(["", *METRICS, "s/document", "tokens/document"], rows)


def print_choice(chosen: Rankings, gold: Gold) -> None:
    """Print the quality of the chosen set as it stands."""
    clean = {key: [label for label in labels if label != key] for key, labels in chosen.items()}
    values = [f1(labels, gold[key]) for key, labels in sorted(clean.items())]
    size = sum(map(len, clean.values())) / len(clean)
    print(f"\nChosen set: F1 {interval(values)}, {size:.1f} labels a document.")


if __name__ == "__main__":
    run(main)
