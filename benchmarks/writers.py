r"""Language models as students of one teacher's log, taught along its phases or its whole output, side by side.

    python benchmarks/writers.py --log teacher.jsonl.transitions.jsonl --gold gold.jsonl --test test.jsonl \
        --labels catalogue.jsonl --student FOLDER --seeds 0 1 2 --out /tmp/writers

Needs the extra `train`. The ways: `untrained`; `standard` (document to the run's whole output, which `whole.py` asks
for); `phases` (one student for both, in the graph, with one search turn); `phases` without credit; `standard` with
what credit knows: only searches that surfaced a right label, and only right labels. All learn from the same number of
tokens, prompts included, at the same learning rate; a way with fewer of them sees each more often. The shortlist is
the first of the document's own search and half as many of the student's, in every way; what is not chosen is ranked as
it stands there.

What is in OUT is not done again. Figures are means over seeds, then over documents; intervals are paired.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from comparison import Values, costs, difference, interval, mean_over_seeds
from whole import Whole

from ctd_agent.agents.models import ChatModel, load_model
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selector import Selector, UnusableSelectionError, load_selector
from ctd_agent.agents.student import Student, Target, write_student
from ctd_agent.console import note, progress
from ctd_agent.distill.corpora import Recipe, make_corpus
from ctd_agent.distill.evaluation import RANKING, scored
from ctd_agent.distill.examples import conversations
from ctd_agent.distill.formats import trl
from ctd_agent.distill.metrics import f1, recall
from ctd_agent.distill.supervision import Gates, learn, read_episodes, worth_making
from ctd_agent.distill.training.course import Plan, read_card
from ctd_agent.distill.training.gguf import convert
from ctd_agent.distill.training.rendered import read_rows, rendered
from ctd_agent.distill.training.tuning import EXAMPLES_A_STEP
from ctd_agent.distill.training.writers import train_writer
from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import DOCUMENT_HITS, build_graph
from ctd_agent.graphs.state import found_by, shortlist
from ctd_agent.graphs.transitions import read_runs
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Document, Gold, Label, LabeledDocument, Selection
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import LabelIndex


@dataclass(frozen=True)
class Way:
    """What a student learns, and whether only what was right of it."""

    target: Target
    credit: bool = True


WAYS = {
    "untrained": None,
    "standard": Way("standard", credit=False),
    "phases": Way("both"),
    "standard, credit": Way("standard"),
    "phases, no credit": Way("both", credit=False),
}
LISTED, GIVEN = "recall of the shortlist", ("nDCG@5, same shortlist", "F1, same shortlist")
METRICS = {name: RANKING[name] for name in ("P@1", "RP@5", "nDCG@5")}


def main() -> None:
    """Train and run what is left, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, nargs="+", required=True, help="the teacher's, over training documents")
    parser.add_argument("--gold", required=True, help="right labels of training and test documents")
    parser.add_argument("--test", required=True, help="documents that the teacher's log does not have")
    parser.add_argument("--labels", required=True, help="the catalogue")
    parser.add_argument("--student", required=True, help="a folder with a small language model that is tuned to chat")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=60_000, help="that each student learns from")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--candidates", type=int, default=10)
    options = parser.parse_args()
    labels = read_labels(options.labels)
    index = cached_index(labels)
    for seed in options.seeds:
        for way in options.ways:
            run_way(options, way, seed, labels, index)
    print(table(options, read_gold(options.gold)))


def run_way(options: argparse.Namespace, way: str, seed: int, labels: Sequence[Label], index: LabelIndex) -> None:
    """Make the corpus, train the student and label the test documents, what of it is not done."""
    folder, task = room(options, way, seed), read_runs(options.log[0])[0].task
    documents = read_documents(options.test)
    model = load_model(f"gguf:{student(options, way, seed, folder)}")
    assert isinstance(model, ChatModel)
    budget = Budget(turns=1, candidates=options.candidates)
    graph = build_graph(model, model, index, task=task, budget=budget, log=folder / "run.jsonl.transitions.jsonl")
    whole = Whole(model, labels, index, task, options.candidates) if way.startswith("standard") else None
    with Output(folder / "run.jsonl") as out:
        todo = out.left(documents)
        results = map(whole.label, todo) if whole else label_documents(graph, todo)
        with progress(folder.name, len(todo)) as show:
            for done, result in enumerate(results, start=1):
                out.write(result)
                show(done)
    if not (folder / "given.json").exists():
        run = {
            one.id: [label.id for label in one.labels] for one in read_records(folder / "run.jsonl", LabeledDocument)
        }
        choose = None if whole else load_selector(model, task, GREEDY)
        given = {}
        with progress(f"{folder.name} given", len(documents)) as show:
            for done, document in enumerate(documents, start=1):
                found = found_by(0, "", index.search(document.text.strip(), DOCUMENT_HITS))
                listed = shortlist(found, options.candidates)
                given[document.id] = choice(choose, document, listed) if choose else run[document.id]
                given[document.id] = [[c.label.id for c in listed], given[document.id]]
                show(done)
        (folder / "given.json").write_text(json.dumps(given))


def choice(selector: Selector, document: Document, listed: Sequence[Candidate]) -> list[str]:
    """Return what a selector chooses from a shortlist, by id; nothing where its answer is of no use."""
    try:
        chosen = selector.read(selector.ask(document.text.strip(), listed, lambda _: True), listed)
    except UnusableSelectionError:
        return []
    return [label.id for label in chosen.labels]


def room(options: argparse.Namespace, way: str, seed: int) -> Path:
    """Return the folder of a way's student of one seed."""
    return Path(options.out / f"{way.replace(',', '').replace(' ', '-')}-{seed}")


def student(options: argparse.Namespace, way: str, seed: int, folder: Path) -> Path:
    """Return a way's student, trained, as a GGUF."""
    learned, made = WAYS[way], folder / "student"
    if learned is None:
        return untrained(options.student, made)
    corpus = folder / "corpus"
    if not corpus.exists():
        make_corpus(options.log, read_gold(options.gold), Recipe(Gates(credit=learned.credit), dev=0), corpus)
        if way == "standard, credit":
            credit_the_whole(corpus, options)
    size = [len(one) for one in rendered(read_rows(corpus, learned.target, "train"), tokenizer(options), "the student")]
    steps = round(options.tokens / fmean(size) / EXAMPLES_A_STEP)
    note(f"{folder.name}: {len(size)} examples, {sum(size):,} tokens, {steps} steps")
    plan = Plan(target=learned.target, seed=seed, steps=steps, learning_rate=options.learning_rate)
    train_writer(corpus, options.student, made, plan)
    return made / "student.gguf"


def tokenizer(options: argparse.Namespace) -> Any:
    """Return the student's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(options.student)


def untrained(base: str, folder: Path) -> Path:
    """Put a base model into a student's folder as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "student.gguf").exists() and (reason := convert(Path(base), folder / "student.gguf")):
        raise UserError(f"{base}: {reason}")
    write_student(folder, Student(kind="writer", base=base, target="both", teachers=[], task="", catalogue="", seed=0))
    return folder / "student.gguf"


def credit_the_whole(corpus: Path, options: argparse.Namespace) -> None:
    """Keep of the standard corpus's outputs what credit keeps of the phases'."""
    lessons, _ = learn(read_episodes(options.log)[1], read_gold(options.gold), Gates())
    rows = []
    for lesson in lessons:
        if (run := lesson.standard) and run.choice:
            right = lesson.right.labels
            choice = Selection(labels=[one for one in run.choice.labels if one.id in right], scores={})
            pruned = replace(lesson, standard=replace(run, searches=worth_making(run, right, True), choice=choice))
            rows += [trl(example) for example in conversations(pruned, "standard", read_card(corpus).form)]
    (corpus / "standard" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(options: argparse.Namespace, gold: dict[str, Gold]) -> str:
    """Return the ways' figures, and what phases have less than the others, as markdown."""
    names = (LISTED, *METRICS, "F1", *GIVEN)
    rows = {}
    for way in options.ways:
        runs = [values(room(options, way, seed), gold) for seed in options.seeds]
        rows[way] = {name: mean_over_seeds([run[name] for run in runs]) for name in names}
    head = f"seeds {options.seeds}, {options.tokens:,} tokens, learning rate {options.learning_rate:g}"
    lines = [head, "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for way, by_metric in rows.items():
        lines.append(f"| {way} | " + " | ".join(interval(list(by_metric[name].values())) for name in names) + " |")
    for other in rows:
        if other != "phases":
            cells = [difference(rows["phases"][name], rows[other][name]) for name in names]
            lines.append(f"| phases less {other} | " + " | ".join(cells) + " |")
    runs = {way: room(options, way, options.seeds[0]) / "run.jsonl" for way in options.ways}
    return "\n".join([*lines, "", costs(runs)])


def values(folder: Path, gold: dict[str, Gold]) -> dict[str, Values]:
    """Return every metric of a student's run, by document."""
    done = scored(list(read_records(folder / "run.jsonl", LabeledDocument)), gold)
    found = {name: {one.result.id: metric(one.ranking, one.right) for one in done} for name, metric in METRICS.items()}
    found["F1"] = {one.result.id: f1(one.chosen, one.right) for one in done}
    found[LISTED] = {}
    for one in done:
        listed = [entry.id for entry in one.result.shortlist]
        found[LISTED][one.result.id] = recall(listed, one.right, len(listed))
    by_rank, of_set = found.setdefault(GIVEN[0], {}), found.setdefault(GIVEN[1], {})
    for document, (listed, chosen) in json.loads((folder / "given.json").read_text()).items():
        chosen = [label for label in chosen if label in listed]
        by_rank[document] = METRICS["nDCG@5"]([*chosen, *listed], gold[document].labels)
        of_set[document] = f1(chosen, gold[document].labels)
    return found


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        raise SystemExit(2) from error
