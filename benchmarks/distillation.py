r"""Encoder students of one teacher's log, trained in several ways, side by side in the graph.

    python benchmarks/distillation.py --log train.jsonl.transitions.jsonl --train train.jsonl --test test.jsonl \
        --labels catalogue.jsonl --teacher test-labelled.jsonl --student FOLDER --seeds 0 1 2 --out /tmp/distillation

Needs the extra `train`. The ways: `untrained`; `standard` (one bi-encoder, document to the teacher's final labels,
which then ranks and chooses too); `phases` (a bi-encoder to shortlist, and one that goes on from it to select); both
without gates; `phases` without credit; `standard` without gates and with what credit knows, its wrong labels taken out.
Encoders have no reasoning, so `answers only` is `phases`. R@50 is of the document's own search, for teachers too.
All have the same number of optimiser steps of the same number of texts: `standard` all of them on its one model,
`phases` half on each of its two.

What is in OUT is not done again; other processes may work on other seeds of it meanwhile. Figures are means
over seeds, then over documents; 95% intervals are bootstrapped over documents, 10,000 samples, seed 0, paired.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from comparison import GIVEN, Values, arguments, costs, figures, forest, mean_over_seeds, room

from ctd_agent.agents.encoders import Encoder
from ctd_agent.agents.models import load_phases
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selector import load_selector
from ctd_agent.agents.student import Student, read_student, write_student
from ctd_agent.console import note, progress
from ctd_agent.distill.corpora import Recipe, make_corpus
from ctd_agent.distill.evaluation import RANKING, scored
from ctd_agent.distill.examples import Judgement, Nearness
from ctd_agent.distill.metrics import f1, recall
from ctd_agent.distill.supervision import Gates, read_episodes
from ctd_agent.distill.training.course import Plan
from ctd_agent.distill.training.students import train
from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.transitions import read_transitions
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Gold, Label, LabeledDocument
from ctd_agent.tools.index_cache import cached_index

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
    print(table(options, gold))


def run_way(options: argparse.Namespace, way: str, seed: int) -> None:
    """Make the corpus, train the student and label the test documents, what of it is not done."""
    folder = room(options.out, way, seed)
    labels = read_labels(options.labels)
    documents = read_documents(options.test)[: options.documents]
    specs = students(options, way, seed, folder, labels)
    models = load_phases(*specs)
    assert isinstance(models[0], Encoder)
    with Output(folder / "run.jsonl") as out:
        todo = out.left(documents)
        if todo:
            with progress(f"indexing for {folder.name}", len(labels)) as show:
                index = cached_index(labels, models[0].embedder, show)
            graph = build_graph(
                *models, index, budget=Budget.fitting(*models, candidates=options.candidates),
                log=folder / "run.jsonl.transitions.jsonl",
            )  # fmt: skip
            with progress(folder.name, len(todo)) as show:
                for done, result in enumerate(label_documents(graph, todo), start=1):
                    out.write(result)
                    show(done)
    if options.teacher and not (folder / "given.json").exists():
        given = on_the_teachers_shortlists(options, specs[1], labels)
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
    one = way.startswith("standard")
    plan = Plan(
        target="standard" if one else "both",
        seed=seed,
        steps=options.steps if one else options.steps // 2,
        max_length=options.max_length,
    )
    made = train(corpus, options.student, folder / "student", plan, labels)
    shortlister, *others = (f"encoder:{at}" for at in made)
    return shortlister, others[0] if others else shortlister


def take_out_what_is_wrong(corpus: Path, gold: dict[str, Gold]) -> None:
    """Keep of a standard corpus's labels those that are right, and move the others to those that are not near."""
    for file in (corpus / "encoder").iterdir():
        rows = list(read_records(file, Judgement))
        for at, one in enumerate(rows):
            if one.standard:
                near = [label for label in one.standard.near if label in gold[one.id].labels]
                far = [label for label in (*one.standard.near, *one.standard.far) if label not in near]
                rows[at] = one.model_copy(update={"standard": Nearness(near=near, far=far)})
        file.write_text("".join(one.model_dump_json() + "\n" for one in rows))


def untrained(base: str, folder: Path) -> Path:
    """Put a base model into a student's folder as it is."""
    from sentence_transformers import SentenceTransformer

    if read_student(folder) is None:
        SentenceTransformer(base).save_pretrained(str(folder))
        card = Student(kind="bi-encoder", base=base, target="standard", teachers=[], task="", catalogue="", seed=0)
        write_student(folder, card)
    return folder


def on_the_teachers_shortlists(options: argparse.Namespace, spec: str, labels: Sequence[Label]) -> dict[str, Values]:
    """Return how well a selector ranks the shortlists that the teacher chose from, and the F1 of its choice."""
    by_id, gold = {label.id: label for label in labels}, read_gold(options.test)
    selector = load_selector(load_phases(spec, spec)[1], "", GREEDY)
    ndcg, chose = Values(), Values()
    _, episodes = read_episodes([options.teacher.with_name(f"{options.teacher.name}.transitions.jsonl")])
    for document, (episode, *_) in episodes.items():
        if document not in gold:
            continue
        listed = [Candidate(by_id[one.label.id], one.score, one.found_by) for one in episode.shortlist]
        chosen = selector.read(selector.ask(episode.text, listed, lambda _: True), listed)
        ndcg[document] = METRICS["nDCG@5"](list(chosen.scores), gold[document].labels)
        chose[document] = f1([label.id for label in chosen.labels], gold[document].labels)
    return dict(zip(GIVEN, (ndcg, chose), strict=True))


def table(options: argparse.Namespace, gold: dict[str, Gold]) -> str:
    """Return the ways' figures, and what each has less than `standard`'s and the teacher's, as markdown."""
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
    pairs = [(one, other) for one in ours for other in rows if not other.startswith("phases")]
    pairs += [("phases", "phases, no credit"), ("phases", "phases, no gates")]
    drawn = [("phases", "standard"), ("phases, no gates", "standard, no gates")]
    (options.out / "differences.svg").write_bytes(forest(rows, METRICS, drawn))
    results = {way: room(options.out, way, options.seeds[0]) / "run.jsonl" for way in WAYS}
    results |= {"teacher": options.teacher} if options.teacher else {}
    return "\n".join([head, "", *figures(rows, pairs), "", costs(results)])


def values(folder: Path, gold: dict[str, Gold]) -> dict[str, Values]:
    """Return every metric of a student's run, by document."""
    given = folder / "given.json"
    on_given = json.loads(given.read_text()) if given.exists() else {name: {} for name in GIVEN}
    return of_run(folder / "run.jsonl", gold) | on_given


def of_run(run: Path, gold: dict[str, Gold]) -> dict[str, Values]:
    """Return a run's ranking metrics by document."""
    log = read_transitions(run.with_name(f"{run.name}.transitions.jsonl"))
    done = scored(list(read_records(run, LabeledDocument)), gold, log)
    found = {name: {one.result.id: metric(one.ranking, one.right) for one in done} for name, metric in METRICS.items()}
    # A shortlist is what the searches brought, in their order: the selector has no say in it.
    for one in done:
        searched = [label for step in log[one.result.id] for search in step.searches for label in search.found]
        order = [label.id for label in searched if label.id not in gold[one.result.id].filtered]
        found["R@50"][one.result.id] = recall(order, one.right, 50)
    return found


def teachers_f1(options: argparse.Namespace, gold: dict[str, Gold]) -> Values:
    """Return the F1 of the teacher's own choice."""
    done = scored(list(read_records(options.teacher, LabeledDocument)), gold)
    return {one.result.id: f1(one.chosen, one.right) for one in done}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        raise SystemExit(2) from error
