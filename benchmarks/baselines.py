r"""The systems that the two-phase graph is compared with, on the same documents, index and model.

    python benchmarks/baselines.py examples/debian/full/debian-tags --task "tags that describe the package" \
        --documents 20 --out /tmp/baselines --run /tmp/runs/debian-tags.jsonl

FOLDER holds catalogue.jsonl and SPLIT.jsonl, whose lines have id, text, labels and filter_labels. Documents
are the first of the split. Each goes through all systems before the next does, and each system's run is
OUT/SYSTEM.jsonl: what is there is not done again. Then a markdown table is printed. Labels in filter_labels
are taken out of every ranking and choice. Tokens are all that the model was sent and has answered, those of
the engine's cache too, so that the order of the systems does not matter; of the seconds, the first system
with a model pays for reading the document. 95% intervals are bootstrapped over documents, 10,000 samples, seed 0.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ctd_agent.agents.models import load_model
from ctd_agent.agents.prompts import DEFAULT_TASK
from ctd_agent.console import note, progress
from ctd_agent.distill.baselines import RETRIEVAL, System, baselines, retrieval
from ctd_agent.distill.evaluation import RANKING, scored
from ctd_agent.distill.metrics import Interval, bootstrap, f1
from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.transitions import Transition, read_transitions
from ctd_agent.records import read_records
from ctd_agent.schema import Document, Gold, LabeledDocument, Usage
from ctd_agent.tools.index_cache import cached_index

SYSTEMS = (*RETRIEVAL, "no-tool", "retrieve-then-rank", "monolithic")
METRICS = {name: RANKING[name] for name in ("R@10", "R@50", "P@1", "RP@5", "nDCG@5")}
Scores = dict[str, dict[str, float]]  # by metric, by document


def main() -> None:
    """Run what is left of every system, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    runs = {name: {r.id: r for r in read_records(options.out / f"{name}.jsonl", LabeledDocument)}
            for name in options.systems}  # fmt: skip
    by_system = {name: scores(list(run.values()), gold) for name, run in runs.items()}
    if options.run:
        wanted = {document.id for document in documents}
        results = (result for result in read_records(options.run, LabeledDocument) if result.id in wanted)
        runs["graph"] = {result.id: result for result in results}
        steps = read_transitions(options.run.with_name(f"{options.run.name}.transitions.jsonl"))
        by_system["graph"] = scores(list(runs["graph"].values()), gold, steps)
    print_table(runs, by_system)
    if options.run:
        print_differences(by_system)


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
    """Return these systems; the model is loaded only where one needs it."""
    labels = read_labels(str(options.folder / "catalogue.jsonl"))
    with progress("indexing", len(labels)) as show:
        index = cached_index(labels, options.embedder, show)
    systems = retrieval(index)
    if set(names) - set(RETRIEVAL):
        systems |= baselines(load_model(options.model), index, task=options.task, turns=options.turns)
    return {name: systems[name] for name in names}


def scores(
    results: Sequence[LabeledDocument], gold: dict[str, Gold], log: Mapping[str, list[Transition]] = {}
) -> Scores:
    """Return every metric of every document that has gold; F1 is that of the chosen labels."""
    run = scored(results, gold, log)
    ranking = {name: {one.result.id: metric(one.ranking, one.right) for one in run} for name, metric in METRICS.items()}
    return ranking | {"F1": {one.result.id: f1(one.chosen, one.right) for one in run}}


def print_table(runs: dict[str, dict[str, LabeledDocument]], scored: dict[str, Scores]) -> None:
    """Print a row a system; retrieval chooses nothing, so its choice has no score."""
    print("| | documents | " + " | ".join((*METRICS, "F1")) + " | calls | tokens | s/document | failed |")
    print("| --- |" + " --: |" * (len(METRICS) + 6))
    for system, run in runs.items():
        cells = [
            "" if name == "F1" and system in RETRIEVAL else shown(bootstrap(list(values.values())))
            for name, values in scored[system].items()
        ]
        print(f"| {system} | {len(run)} | " + " | ".join([*cells, cost(list(run.values()))]) + " |")


def cost(results: Sequence[LabeledDocument]) -> str:
    """Return the cells of cost: calls, tokens and seconds a document, and how many documents failed."""
    usage = sum((phase for result in results for phase in result.usage.values()), Usage())
    calls, tokens, seconds = (
        total / len(results) for total in (usage.calls, usage.prompt_tokens + usage.completion_tokens, usage.seconds)
    )
    failed = sum(result.failure is not None for result in results)
    return f"{calls:.1f} | {tokens:,.0f} | {seconds:.2f} | {failed}"


def print_differences(scored: dict[str, Scores]) -> None:
    """Print the paired difference of the graph and every other system, on the documents that both have."""
    print("\n| graph minus | documents | " + " | ".join((*METRICS, "F1")) + " |")
    print("| --- |" + " --: |" * (len(METRICS) + 2))
    graph = scored["graph"]
    for system in [name for name in scored if name != "graph"]:
        both = [key for key in scored[system]["P@1"] if key in graph["P@1"]]
        if not both:
            raise UserError(f"the graph's run and that of {system} have no document in common")
        cells = [
            ""
            if name == "F1" and system in RETRIEVAL
            else shown(bootstrap([graph[name][key] - values[key] for key in both]), "+")
            for name, values in scored[system].items()
        ]
        print(f"| {system} | {len(both)} | " + " | ".join(cells) + " |")


def shown(interval: Interval, sign: str = "") -> str:
    """Return an interval as a cell: mean [low, high]."""
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        sys.exit(2)
