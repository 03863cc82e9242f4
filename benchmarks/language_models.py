r"""Language models as students of one teacher's log, taught along its phases or its whole output, side by side.

    python benchmarks/writers.py --log teacher.jsonl.transitions.jsonl --gold gold.jsonl --test test.jsonl \
        --labels catalogue.jsonl --student FOLDER --seeds 0 1 2 --out /tmp/writers

Needs the extra `train`. The ways: `untrained`; `standard` (document to the run's whole output, which `whole.py` asks
for); `phases` (one student for both, in the graph, with one search turn); `phases` without credit; `standard` with
what credit knows: only searches that surfaced a right label, and only right labels. All learn from the same number of
tokens, prompts included, at the same learning rate: `standard` has fewer in all, and sees each more often, in more
steps. Reasons are left out.

The shortlist is the first of the document's own search and half as many of the student's, in every way; what is not
chosen is ranked as it stands there. `search alone` is the document's own search, in its order, and the shortlist
that is the same for all: of what `standard` names, which is asked but once, that part which is on it is its choice.

What is in OUT is not done again. Figures are means over seeds, then over documents; intervals are paired.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from comparison import GIVEN, Values, arguments, costs, figures, forest, mean_over_seeds, room
from whole import Whole

from ctd_agent.agents.chat_model import ChatModel, EngineError
from ctd_agent.agents.models import load_model
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
from ctd_agent.graphs.state import begin, found_by, shortlist
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
METRICS = {name: RANKING[name] for name in ("P@1", "RP@5", "nDCG@5")}
SHORTLISTED = "recall of the shortlist"


@dataclass(frozen=True)
class Test:
    """What every student is asked: documents, and the graph's other parts."""

    documents: Sequence[Document]
    labels: Sequence[Label]
    index: LabelIndex
    task: str
    budget: Budget

    def given(self) -> dict[str, list[Candidate]]:
        """Return the first of what each document's own search finds: a shortlist that is the same for all."""
        found = {one.id: self.index.search(self.text(one), DOCUMENT_HITS) for one in self.documents}
        return {key: shortlist(found_by(0, "", hits), self.budget.candidates) for key, hits in found.items()}

    def text(self, document: Document) -> str:
        """Return what is read of a document."""
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
    runs, learned_from = read_episodes(options.log)
    labels, budget = read_labels(options.labels), Budget(turns=1, candidates=options.candidates)
    test = Test(read_documents(options.test), labels, cached_index(labels), runs[0].task, budget)
    if both := [one.id for one in test.documents if one.id in learned_from]:
        raise UserError(f"--test: {both[0]!r} is in the teacher's log too; name documents that no student learns from")
    for way in options.ways:
        for seed in seeds(options, way):
            run(test, way, room(options.out, way, seed), f"gguf:{train(options, way, seed)}")
    print(table(options, read_gold(options.gold), test.given()))


def seeds(options: argparse.Namespace, way: str) -> list[int]:
    """Return the seeds of a way: what is not trained, and samples nothing, has but one."""
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
    train_writer(corpus, options.student, made, plan)
    return made / "student.gguf"


def steps_for(options: argparse.Namespace, corpus: Path, target: Target) -> int:
    """Return how many steps the tokens come to; every pass over a corpus ends with what is left of a step."""
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
    write_student(folder, Student(kind="writer", base=base, target="both", teachers=[], task="", catalogue="", seed=0))
    return file


def credit_the_whole(corpus: Path, options: argparse.Namespace) -> None:
    """Keep of a standard corpus's answers what credit keeps of the phases'."""
    lessons, _ = learn(read_episodes(options.log)[1], read_gold(options.gold), Gates())
    form, answers = read_card(corpus).form, {}
    for lesson in lessons:
        if (whole := lesson.standard) and whole.choice:
            right = [label for label in whole.choice.labels if label.id in lesson.right.labels]
            searches = worth_making(whole, lesson.right.labels, credit=True)
            pruned = replace(whole, searches=searches, choice=Selection(labels=right, scores={}))
            for row in map(trl, conversations(replace(lesson, standard=pruned), "standard", form)):
                answers[json.dumps(row["prompt"])] = row
    file = corpus / "standard" / "train.jsonl"
    rows = [answers[json.dumps(json.loads(line)["prompt"])] for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(test: Test, way: str, folder: Path, spec: str) -> None:
    """Label the test documents, and choose from the given shortlists, what of it is not done."""
    with Output(folder / "run.jsonl") as out:
        todo = out.left(test.documents)
        if todo or not (folder / "given.json").exists():
            model = load_model(spec)
            assert isinstance(model, ChatModel)
            with progress(folder.name, len(todo)) as show:
                for done, result in enumerate(labelled(test, way, model, folder, todo), start=1):
                    out.write(result)
                    show(done)
            (folder / "given.json").write_text(json.dumps(choices(test, way, model, folder)))


def labelled(
    test: Test, way: str, model: ChatModel, folder: Path, todo: Sequence[Document]
) -> Iterable[LabeledDocument]:
    """Yield the results of documents, by the graph, or by one answer each."""
    if is_whole(way):
        return map(Whole(model, test.labels, test.index, test.task, test.budget).label, todo)
    log = folder / "run.jsonl.transitions.jsonl"
    return label_documents(build_graph(model, model, test.index, task=test.task, budget=test.budget, log=log), todo)


def is_whole(way: str) -> bool:
    """Tell whether a way's student gives its whole output at once."""
    learned = WAYS[way]
    return learned is not None and learned.target == "standard"


def choices(test: Test, way: str, model: ChatModel, folder: Path) -> dict[str, list[str]]:
    """Return what a student chooses from the given shortlists, by document; of the whole, all that it has named."""
    if is_whole(way):
        return {
            one.id: [label.id for label in one.labels] for one in read_records(folder / "run.jsonl", LabeledDocument)
        }
    selector, given, chosen = load_selector(model, test.task, GREEDY), test.given(), {}
    with progress(f"{folder.name}, given", len(given)) as show:
        for done, document in enumerate(test.documents, start=1):
            chosen[document.id] = choice(selector, test.text(document), given[document.id])
            show(done)
    return chosen


def choice(selector: Selector, text: str, listed: Sequence[Candidate]) -> list[str]:
    """Return what a selector chooses from a shortlist, by id; nothing where there is no answer of use."""
    try:
        return [label.id for label in selector.read(selector.ask(text, listed, lambda _: True), listed).labels]
    except (EngineError, UnusableSelectionError):
        return []


def table(options: argparse.Namespace, gold: Mapping[str, Gold], given: Mapping[str, Sequence[Candidate]]) -> str:
    """Return the ways' figures, and what phases have more than the others, as markdown."""
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
    return "\n".join([head, "", *figures(rows, pairs), "", f"Of seed {options.seeds[0]}:", "", costs(results)])


def of_search(given: Mapping[str, Sequence[Candidate]], gold: Mapping[str, Gold]) -> dict[str, Values]:
    """Return the metrics of what the documents' own searches find, in their order; they choose nothing."""
    found = {name: Values() for name in (SHORTLISTED, *METRICS, "F1", *GIVEN)}
    for key, candidates in given.items():
        known = gold.get(key, Gold(frozenset()))
        listed = [one.label.id for one in candidates if one.label.id not in known.filtered]
        if right := known.labels - known.filtered:
            found[SHORTLISTED][key] = recall(listed, right, len(listed))
            for name, metric in METRICS.items():
                found[name][key] = metric(listed, right)
            found[GIVEN[0]][key] = found["nDCG@5"][key]
    return found


def values(folder: Path, gold: Mapping[str, Gold], given: Mapping[str, Sequence[Candidate]]) -> dict[str, Values]:
    """Return every metric of a student's run, by document."""
    done = scored(list(read_records(folder / "run.jsonl", LabeledDocument)), gold)
    found = {name: Values() for name in (SHORTLISTED, *METRICS, "F1", *GIVEN)}
    choices = json.loads((folder / "given.json").read_text())
    for one in done:
        key, right, filtered = one.result.id, one.right, gold[one.result.id].filtered
        listed = [entry.id for entry in one.result.shortlist if entry.id not in filtered]
        found[SHORTLISTED][key] = recall(listed, right, len(listed))
        for name, metric in METRICS.items():
            found[name][key] = metric(one.ranking, right)
        found["F1"][key] = f1(one.chosen, right)
        listed = [candidate.label.id for candidate in given[key] if candidate.label.id not in filtered]
        chosen = [label for label in choices[key] if label in listed]
        found[GIVEN[0]][key] = METRICS["nDCG@5"]([*chosen, *listed], right)
        found[GIVEN[1]][key] = f1(chosen, right)
    return found


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        note(f"error: {error}")
        raise SystemExit(2) from error
