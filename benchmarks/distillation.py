r"""Encoder students of one teacher's log, trained in several ways, side by side in the graph.

    python benchmarks/distillation.py --log train.jsonl.transitions.jsonl --train train.jsonl --test test.jsonl \
        --labels catalogue.jsonl --teacher test-labelled.jsonl --student FOLDER --seeds 0 1 2 --out /tmp/distillation

Needs the extra `train`. The ways are `untrained`, `standard` (a single bi-encoder, document to the teacher's final
labels, which then ranks and chooses too), `phases` (a bi-encoder to shortlist, and another that goes on from it to
select), both without gates, `phases` without credit, and `standard` without gates and with credit: its wrong labels
taken out.
Encoders have no reasoning, so `answers only` is `phases`. R@50 is of the document's own search, for teachers too.
All have the same number of optimiser steps of the same number of texts: `standard` all of them on its one model,
`phases` half on each of its two.

Finished runs in OUT are kept, and other processes may work on its other seeds meanwhile. Figures are means
over seeds, then over documents. 95% intervals are bootstrapped over documents, 10,000 samples, seed 0, paired.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from comparison import GIVEN, Values, arguments, costs, figures, forest, mean_over_seeds, ranking_values, room
from script import label_left, run

from ctd_agent.agents.engines import load_model
from ctd_agent.agents.engines.student import Student, read_student, write_student
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selecting import load_selector
from ctd_agent.distill.corpus import Gates, Recipe, make_corpus
from ctd_agent.distill.corpus.conversations import Judgement, Nearness
from ctd_agent.distill.corpus.lessons import read_runs
from ctd_agent.distill.training.plan import Plan
from ctd_agent.distill.training.students import train
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.job import Job
from ctd_agent.graphs.transitions import log_of
from ctd_agent.measure.evaluate import RANKING
from ctd_agent.measure.metrics import f1, recall
from ctd_agent.measure.trace import read_traces
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Document, Gold, Label, LabeledDocument

WAYS = (
    "untrained",
    "standard",
    "standard, no gates",
    "standard, credit",
    "phases",
    "phases, no credit",
    "phases, no gates",
)
METRICS = {name: RANKING[name] for name in ("R@50", "P@1", "RP@5", "nDCG@5")}


def main() -> None:
    """Train and run what is left, then print the table."""
    parser = arguments(__doc__, "a sentence-transformers model")
    parser.add_argument("--train", required=True, help="training documents with right labels, as --test has them too")
    parser.add_argument("--teacher", type=Path, help="the teacher's run on test documents, its log beside it")
    parser.add_argument("--steps", type=int, default=100, help="of both phases' models together")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that is read")
    parser.add_argument("--documents", type=int, default=200, help="of the test, the first")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--min-recall", type=float, default=0.25)
    parser.add_argument("--min-f1", type=float, default=0.25)
    options = parser.parse_args()
    gold = read_gold(options.test)
    for seed in options.seeds:
        for way in WAYS:
            run_way(options, way, seed)
    print("\n".join(table(options, gold)))


def run_way(options: argparse.Namespace, way: str, seed: int) -> None:
    """Make the corpus, train the student and label the test documents, as far as it is not done."""
    folder = room(options.out, way, seed)
    labels = read_labels(options.labels)
    documents = read_documents(options.test)[: options.documents]
    shortlister, selector = students(options, way, seed, folder, labels)
    budget = {"candidates": options.candidates}
    job = Job(labels=options.labels, shortlister=shortlister, selector=selector, budget=budget)
    results = folder / "run.jsonl"

    def label(todo: list[Document]) -> Iterable[LabeledDocument]:
        return job.open().label(todo, log_of(results))

    label_left(results, documents, label)
    if options.teacher and not (folder / "given.json").exists():
        given = on_the_teachers_shortlists(options, selector, labels)
        (folder / "given.json").write_text(json.dumps(given))


def students(
    options: argparse.Namespace, way: str, seed: int, folder: Path, labels: Sequence[Label]
) -> tuple[str, str]:
    """Return the specs of a way's shortlister and selector, trained."""
    if way == "untrained":
        base = untrained(options.student, folder / "student")
        return f"encoder:{base}", f"encoder:{base}"
    corpus = folder / "corpus"
    if not corpus.exists():
        gold, gated = read_gold(options.train), way in ("standard", "phases", "phases, no credit")
        least = (options.min_recall, options.min_f1) if gated else (0, 0)
        gates = Gates(recall=least[0], f1=least[1], credit=way != "phases, no credit")
        make_corpus(options.log, gold, Recipe(gates=gates, seed=0), corpus)
        if way == "standard, credit":
            take_out_what_is_wrong(corpus, gold)
    standard = way.startswith("standard")
    plan = Plan(
        target="standard" if standard else "both",
        seed=seed,
        steps=options.steps if standard else options.steps // 2,
        max_length=options.max_length,
    )
    made = train(corpus, options.student, folder / "student", plan, labels)
    shortlister, *others = (f"encoder:{at}" for at in made)
    return shortlister, others[0] if others else shortlister


def take_out_what_is_wrong(corpus: Path, gold: Mapping[str, Gold]) -> None:
    """Keep the right labels of a standard corpus near, and move its wrong labels to those that are far."""
    for file in (corpus / "encoder").iterdir():
        rows = list(read_records(file, Judgement))
        for at, judged in enumerate(rows):
            if judged.standard:
                near = [label for label in judged.standard.near if label in gold[judged.id].labels]
                far = [label for label in (*judged.standard.near, *judged.standard.far) if label not in near]
                rows[at] = judged.model_copy(update={"standard": Nearness(near=near, far=far)})
        file.write_text("".join(judged.model_dump_json() + "\n" for judged in rows))


def untrained(base: str, folder: Path) -> Path:
    """Put a base model into a student's folder as it is."""
    from sentence_transformers import SentenceTransformer

    if read_student(folder) is None:
        SentenceTransformer(base).save_pretrained(str(folder))
        card = Student(kind="bi-encoder", base=base, target="standard", teachers=[], task="", catalogue="", seed=0)
        write_student(folder, card)
    return folder


def on_the_teachers_shortlists(options: argparse.Namespace, spec: str, labels: Sequence[Label]) -> dict[str, Values]:
    """Return the nDCG@5 of a selector's ranking of the shortlists that the teacher had, and the F1 of its choice."""
    by_id, gold = {label.id: label for label in labels}, read_gold(options.test)
    selector = load_selector(load_model(spec), "", GREEDY)
    ndcg, choice = Values(), Values()
    _, by_document = read_runs([log_of(options.teacher)])
    for document, (trace, *_) in by_document.items():
        if document not in gold:
            continue
        listed = [Candidate(by_id[label], 0.0, []) for label in trace.shortlist]
        shown = [selector.show(candidate.label) for candidate in listed]
        selection = selector.read(selector.ask(trace.text, listed, shown, lambda _: True), listed)
        ndcg[document] = METRICS["nDCG@5"](list(selection.scores), gold[document].labels)
        choice[document] = f1([label.id for label in selection.labels], gold[document].labels)
    return dict(zip(GIVEN, (ndcg, choice), strict=True))


def table(options: argparse.Namespace, gold: Mapping[str, Gold]) -> list[str]:
    """Return the ways' figures, and the phases' less those of `standard` and the teacher, as lines of markdown."""
    names = (*METRICS, *GIVEN)
    rows = {}
    for way in WAYS:
        runs = [values(room(options.out, way, seed), gold) for seed in options.seeds]
        rows[way] = {name: mean_over_seeds([run[name] for run in runs]) for name in names}
    gates = f"gates at {options.min_recall:g} and {options.min_f1:g}"
    head = f"{options.documents} documents, seeds {options.seeds}, {options.steps} steps, {gates}"
    if options.teacher:
        ranked = of_run(options.teacher, gold)
        rows["teacher"] = ranked | dict(zip(GIVEN, (ranked["nDCG@5"], teachers_f1(options, gold)), strict=True))
    ours = ("phases", "phases, no gates")
    pairs = [(mine, other) for mine in ours for other in rows if not other.startswith("phases")]
    pairs += [("phases", "phases, no credit"), ("phases", "phases, no gates")]
    drawn = [("phases", "standard"), ("phases, no gates", "standard, no gates")]
    (options.out / "differences.svg").write_bytes(forest(rows, METRICS, drawn))
    results = {way: room(options.out, way, options.seeds[0]) / "run.jsonl" for way in WAYS}
    results |= {"teacher": options.teacher} if options.teacher else {}
    return [head, "", *figures(rows, pairs), "", *costs(results)]


def values(folder: Path, gold: Mapping[str, Gold]) -> dict[str, Values]:
    """Return every metric of a student's run, by document."""
    given = folder / "given.json"
    on_given = json.loads(given.read_text()) if given.exists() else {name: {} for name in GIVEN}
    return of_run(folder / "run.jsonl", gold) | on_given


def of_run(run: Path, gold: Mapping[str, Gold]) -> dict[str, Values]:
    """Return a run's ranking metrics by document."""
    traces = read_traces(run, gold, log_of(run))
    # A shortlist is what the searches brought, in their order: the selector has no say in it.
    retrieved = {trace.document: recall(trace.retrieved, trace.right, 50) for trace in traces if trace.right}
    return ranking_values(traces, METRICS) | {"R@50": retrieved}


def teachers_f1(options: argparse.Namespace, gold: Mapping[str, Gold]) -> Values:
    """Return the F1 of the teacher's own choice."""
    traces = read_traces(options.teacher, gold)
    return {trace.document: f1(trace.chosen, trace.right) for trace in traces if trace.right}


if __name__ == "__main__":
    run(main)
