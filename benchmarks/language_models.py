r"""Language models as students of one teacher's log, taught along its phases or its whole output, side by side.

    python benchmarks/language_models.py --log teacher.jsonl.transitions.jsonl --gold gold.jsonl --test test.jsonl \
        --labels catalogue.jsonl --student FOLDER --seeds 0 1 2 --out /tmp/language-models

Needs the extra `train`. The ways are `untrained`, `standard` (document to the run's whole output, which `whole.py`
asks for), `phases` (one student for both, in the graph, with one search turn), `phases` without credit, and `standard`
with credit: only searches that surfaced a right label, and only right labels. All learn from the same number of
tokens, prompts included, at the same learning rate: `standard` has fewer in all, and sees each more often, in more
steps. Reasons are left out.

The shortlist is the first of the document's own search and half as many of the student's, in every way. Labels that
are not chosen keep its order in the ranking. `search alone` is the document's own search, in its order, and the
shortlist that is the same for all. `standard` is asked but once, so its choice from that shortlist is the part of its
answer that is on it.

Finished runs in OUT are kept. Figures are means over seeds, then over documents. Intervals are paired.
"""

import argparse
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path

from comparison import GIVEN, Values, arguments, costs, figures, forest, mean_over_seeds, ranking_values, room
from script import label_left, run
from whole import Whole

from ctd_agent.agents.engines import ChatModel, EngineError, load_model
from ctd_agent.agents.engines.student import Student, Target, write_student
from ctd_agent.agents.sampling import GREEDY
from ctd_agent.agents.selecting import Selector, UnusableSelectionError, load_selector
from ctd_agent.console import note, progress
from ctd_agent.distill.corpus import Gates, Recipe, make_corpus
from ctd_agent.distill.corpus.conversations import conversations
from ctd_agent.distill.corpus.formats import FORMATS
from ctd_agent.distill.corpus.lessons import learn, read_runs, worth_making
from ctd_agent.distill.training.language_models.gguf import convert
from ctd_agent.distill.training.language_models.language_model import train_language_model
from ctd_agent.distill.training.language_models.lm_trainer import EXAMPLES_A_STEP
from ctd_agent.distill.training.language_models.rendered import read_rows, rendered
from ctd_agent.distill.training.plan import Plan, read_card
from ctd_agent.errors import UserError
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.state import begin, found_by, shortlist
from ctd_agent.graphs.transitions import log_of
from ctd_agent.measure.evaluate import RANKING
from ctd_agent.measure.metrics import f1, recall
from ctd_agent.measure.trace import Trace, traces
from ctd_agent.records import read_records
from ctd_agent.schema import Candidate, Document, Gold, Label, LabeledDocument, Selection, ShortlistEntry
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import LabelIndex
from ctd_agent.tools.sources import DOCUMENT_HITS


@dataclass(frozen=True)
class Way:
    """A way of teaching: the target, and whether credit prunes the teacher's mistakes."""

    target: Target
    credit: bool = True


WAYS = {
    "untrained": None,
    "standard": Way("standard", credit=False),
    "phases": Way("both"),
    "standard, credit": Way("standard"),
    "phases, no credit": Way("both", credit=False),
}
METRICS = {name: RANKING[name] for name in ("P@1", "RP@5", "nDCG@5")}
SHORTLISTED = "recall of the shortlist"


@dataclass(frozen=True)
class Test:
    """The test of every student: documents, and the graph's other parts."""

    documents: Sequence[Document]
    labels: Sequence[Label]
    index: LabelIndex
    task: str
    budget: Budget

    def given(self) -> dict[str, list[Candidate]]:
        """Return each document's own search, cut to the size of a shortlist that is the same for all students."""
        hits = {document.id: self.index.search(self.text(document), DOCUMENT_HITS) for document in self.documents}
        size = self.budget.candidates
        return {document: shortlist(found_by("labels", "", listed), size) for document, listed in hits.items()}

    def text(self, document: Document) -> str:
        """Return the part of a document that is read."""
        return begin(document, self.budget.document)["text"]


def main() -> None:
    """Train and run what is left, then print the table."""
    parser = arguments(__doc__, "a folder with a small language model that is tuned to chat")
    parser.add_argument("--gold", required=True, help="right labels of training and test documents")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--tokens", type=int, default=37_000, help="that each student learns from")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--candidates", type=int, default=10)
    options = parser.parse_args()
    runs, learned_from = read_runs(options.log)
    labels, budget = read_labels(options.labels), Budget(turns=1, candidates=options.candidates)
    test = Test(read_documents(options.test), labels, cached_index(labels), runs[0].task, budget)
    if both := [document.id for document in test.documents if document.id in learned_from]:
        raise UserError(f"--test: {both[0]!r} is in the teacher's log too; name documents that no student learns from")
    for way in options.ways:
        for seed in seeds(options, way):
            run_way(test, way, room(options.out, way, seed), f"gguf:{train(options, way, seed)}")
    print("\n".join(table(options, read_gold(options.gold), test.given())))


def seeds(options: argparse.Namespace, way: str) -> list[int]:
    """Return the seeds of a way: an untrained model samples nothing, so one is enough."""
    return list(options.seeds if WAYS[way] else options.seeds[:1])


def train(options: argparse.Namespace, way: str, seed: int) -> Path:
    """Return a way's student as a GGUF, trained unless it is there."""
    learned, made = WAYS[way], room(options.out, way, seed) / "student"
    if learned is None:
        return untrained(options.student, made)
    corpus = made.with_name("corpus")
    if not corpus.exists():
        draft = corpus.with_name("corpus.part")
        shutil.rmtree(draft, ignore_errors=True)
        recipe = Recipe(Gates(credit=learned.credit), dev=0, reasoning=False, tool_calls=False)
        make_corpus(options.log, read_gold(options.gold), recipe, draft)
        if is_whole(way) and learned.credit:
            credit_the_whole(draft, options)
        os.replace(draft, corpus)
    steps = steps_for(options, corpus, learned.target)
    plan = Plan(target=learned.target, seed=seed, steps=steps, learning_rate=options.learning_rate)
    train_language_model(corpus, options.student, made, plan)
    return made / "student.gguf"


def steps_for(options: argparse.Namespace, corpus: Path, target: Target) -> int:
    """Return the number of steps that the tokens come to. The last step of a pass may be a partial one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.student)
    sizes = list(map(len, rendered(read_rows(corpus, target, "train"), tokenizer, options.student)))
    passes: float = options.tokens / sum(sizes)
    steps = max(1, round(passes * ceil(len(sizes) / EXAMPLES_A_STEP)))
    note(f"{corpus.parent.name}: {len(sizes)} examples, {sum(sizes):,} tokens, {steps} steps")
    return steps


def untrained(base: str, folder: Path) -> Path:
    """Put a base model into a student's folder as it is."""
    file = folder / "student.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists() and (reason := convert(Path(base), file)):
        raise UserError(f"{base}: {reason}")
    card = Student(kind="language-model", base=base, target="both", teachers=[], task="", catalogue="", seed=0)
    write_student(folder, card)
    return file


def credit_the_whole(corpus: Path, options: argparse.Namespace) -> None:
    """Prune a standard corpus's answers as credit prunes the phases'."""
    lessons, _ = learn(read_runs(options.log)[1], read_gold(options.gold), Gates())
    card, answers = read_card(corpus), {}
    for lesson in lessons:
        if lesson.standard:
            credited = replace(lesson, standard=pruned(lesson.standard, lesson.right.labels))
            for answer in map(FORMATS["trl"].row, conversations(credited, "standard", card.manner, card.credit)):
                answers[json.dumps(answer["prompt"])] = answer
    file = corpus / "standard" / "train.jsonl"
    rows = [answers[json.dumps(json.loads(line)["prompt"])] for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(answer) + "\n" for answer in rows))


def pruned(trace: Trace, right: Collection[str]) -> Trace:
    """Return a trace with only the searches that credit keeps, and only the right labels chosen."""
    kept = worth_making(trace, right, credit=True)
    steps = []
    for step in trace.steps:
        searches = [search for search in step.searches if search in kept]
        selection = step.selection and right_part(step.selection, right)
        steps.append(step.model_copy(update={"searches": searches, "selection": selection}))
    return replace(trace, steps=steps)


def right_part(selection: Selection, right: Collection[str]) -> Selection:
    """Return a selection of the right labels alone."""
    return Selection(labels=[label for label in selection.labels if label.id in right], scores={})


def run_way(test: Test, way: str, folder: Path, spec: str) -> None:
    """Label the test documents, and choose from the given shortlists, as far as it is not done."""
    results, given = folder / "run.jsonl", folder / "given.json"

    def label(todo: list[Document]) -> Iterable[LabeledDocument]:
        model = loaded(spec)
        if is_whole(way):
            return map(Whole(model, test.labels, test.index, test.task, test.budget).label, todo)
        graph = build_graph(model, model, test.index, task=test.task, budget=test.budget, log=log_of(results))
        return label_documents(graph, todo)

    done = label_left(results, test.documents, label)
    if is_whole(way):
        given.write_text(json.dumps({result.id: [label.id for label in result.labels] for result in done}))
    elif not given.exists():
        given.write_text(json.dumps(choices(test, loaded(spec), folder)))


@cache
def loaded(spec: str) -> ChatModel:
    """Return a student's model."""
    model = load_model(spec)
    assert isinstance(model, ChatModel)
    return model


def is_whole(way: str) -> bool:
    """Tell whether a way's student gives its whole output at once."""
    learned = WAYS[way]
    return learned is not None and learned.target == "standard"


def choices(test: Test, model: ChatModel, folder: Path) -> dict[str, list[str]]:
    """Return a student's choices from the given shortlists, by document."""
    selector, given, chosen = load_selector(model, test.task, GREEDY), test.given(), {}
    with progress(f"{folder.name}, given", len(given)) as show:
        for done, document in enumerate(test.documents, start=1):
            chosen[document.id] = choice(selector, test.text(document), given[document.id])
            show(done)
    return chosen


def choice(selector: Selector, text: str, listed: Sequence[Candidate]) -> list[str]:
    """Return a selector's choice from a shortlist, by id. Nothing where there is no usable answer."""
    shown = [selector.show(candidate.label) for candidate in listed]
    try:
        return [label.id for label in selector.read(selector.ask(text, listed, shown, lambda _: True), listed).labels]
    except (EngineError, UnusableSelectionError):
        return []


def table(options: argparse.Namespace, gold: Mapping[str, Gold], given: Mapping[str, Sequence[Candidate]]) -> list[str]:
    """Return the ways' figures, and those of `phases` less the others', as lines of markdown."""
    rows = {}
    for way in options.ways:
        runs = [values(room(options.out, way, seed), gold, given) for seed in seeds(options, way)]
        rows[way] = {name: mean_over_seeds([run[name] for run in runs]) for name in runs[0]}
    rows["search alone"] = of_search(given, gold)
    head = f"seeds {options.seeds}, {options.tokens:,} tokens, learning rate {options.learning_rate:g}"
    pairs = [("phases", other) for other in rows if "phases" in rows and other != "phases"]
    if pairs:
        (options.out / "differences.svg").write_bytes(forest(rows, [SHORTLISTED, *METRICS], pairs))
    results = {way: room(options.out, way, options.seeds[0]) / "run.jsonl" for way in options.ways}
    return [head, "", *figures(rows, pairs), "", f"Of seed {options.seeds[0]}:", "", *costs(results)]


def of_search(given: Mapping[str, Sequence[Candidate]], gold: Mapping[str, Gold]) -> dict[str, Values]:
    """Return the metrics of the documents' own searches, in their order. They choose nothing."""
    shortlists = {key: [ShortlistEntry(c.label.id, c.score, []) for c in listed] for key, listed in given.items()}
    results = [LabeledDocument(id=key, labels=[], shortlist=listed, usage={}) for key, listed in shortlists.items()]
    measured = of_shortlists(traces(results, gold))
    return {**measured, "F1": Values(), **dict(zip(GIVEN, (measured["nDCG@5"], Values()), strict=True))}


def values(folder: Path, gold: Mapping[str, Gold], given: Mapping[str, Sequence[Candidate]]) -> dict[str, Values]:
    """Return every metric of a student's run, by document."""
    run = [trace for trace in traces(read_records(folder / "run.jsonl", LabeledDocument), gold) if trace.right]
    choices = json.loads((folder / "given.json").read_text())
    ndcg_given, f1_given = Values(), Values()
    for trace in run:
        ids = [candidate.label.id for candidate in given[trace.document]]
        listed = [label for label in ids if label not in gold[trace.document].filtered]
        chosen = [label for label in choices[trace.document] if label in listed]
        ndcg_given[trace.document] = METRICS["nDCG@5"]([*chosen, *listed], trace.right)
        f1_given[trace.document] = f1(chosen, trace.right)
    choice = {trace.document: f1(trace.chosen, trace.right) for trace in run}
    return {**of_shortlists(run), "F1": choice, **dict(zip(GIVEN, (ndcg_given, f1_given), strict=True))}


def of_shortlists(run: Sequence[Trace]) -> dict[str, Values]:
    """Return the metrics of shortlists and rankings, by document."""
    recalls = {t.document: recall(t.shortlist, t.right, len(t.shortlist)) for t in run if t.right}
    return {SHORTLISTED: recalls, **ranking_values(run, METRICS)}


if __name__ == "__main__":
    run(main)
