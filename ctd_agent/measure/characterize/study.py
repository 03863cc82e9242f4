"""A study takes the two phases apart: the graph runs whole, with one thing changed at a time, and with parts swapped.

Every arm of the study is an ordinary run of the graph: a file of results and a transitions log in one folder, for
`ctd-agent eval` and `ctd-agent report` to read. Documents go one by one through all arms, so that the engine finds
their beginning in its cache. A prompt that a model has answered, in any arm or earlier log, is not sent again.
`analysis` reads the runs.
"""

import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from ctd_agent.agents.engines import ChatModel, Model
from ctd_agent.agents.selecting import way_of
from ctd_agent.graphs.batch import RETRIED, Output, label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import LabelingGraph, build_graph
from ctd_agent.graphs.replay import Memory, ReplayedModel
from ctd_agent.graphs.state import begin
from ctd_agent.graphs.transitions import log_of
from ctd_agent.records import read_records
from ctd_agent.schema import Document, Gold, Label, LabeledDocument
from ctd_agent.tools.label_index import Hit, LabelIndex, Mode
from ctd_agent.tools.label_search import Searchable

DEEP = 1_000  # labels whose order in the document's own search is looked up
NEIGHBOURS = 10  # labels nearest to a label that count as its near-misses

WHOLE = "whole"
NO_DOCUMENT, NO_SEARCHES, NO_DESCRIPTIONS = "no document search", "no model searches", "no descriptions"
NO_REASONING, SHUFFLED = "no reasoning", "shuffled shortlist"
ORACLE, RANDOM = "gold added", "gold among random labels"
NEAR, NEAR_ALONE = "gold among near-misses", "near-misses alone"
ABLATIONS = (NO_DOCUMENT, NO_SEARCHES, NO_REASONING, NO_DESCRIPTIONS, SHUFFLED)
GIVEN = (ORACLE, RANDOM, NEAR, NEAR_ALONE)
RETRIEVAL: dict[str, Mode] = {"hybrid": "hybrid", "bm25": "bm25", "dense": "dense"}


@dataclass(frozen=True)
class Arm:
    """One way to run the graph. Its runs lie in files of its name."""

    name: str
    search: Searchable
    shortlister: Model
    selector: Model
    budget: Budget

    @property
    def file(self) -> str:
        """The results' file name."""
        return f"{re.sub('[^a-z0-9]+', '-', self.name.lower()).strip('-')}.jsonl"


class StandIn:
    """Stands in for a label index: it is searched by a function."""

    def __init__(self, index: LabelIndex, search: Callable[[str, int], list[Hit]]) -> None:
        self.manifest, self.search = index.manifest, search


class Given(StandIn):
    """Stands in for a label index: a document's own hits are given, other queries are searched."""

    def __init__(self, index: LabelIndex) -> None:
        super().__init__(index, self._search)
        self._index = index
        self._given: dict[str, Sequence[Label]] = {}

    def give(self, text: str, labels: Sequence[Label]) -> None:
        """Set the hits of the search for a document's text, best first."""
        self._given[text] = labels

    def _search(self, query: str, limit: int) -> list[Hit]:
        if (labels := self._given.get(query)) is None:
            return self._index.search(query, limit)
        return [Hit(label, 1 / rank) for rank, label in enumerate(labels[:limit], start=1)]


def undescribed(index: LabelIndex, query: str, limit: int) -> list[Hit]:
    """Search an index, and take the descriptions off the labels that are found by them."""
    hits = index.search(query, limit)
    return [Hit(hit.label.model_copy(update={"description": ""}), hit.score) for hit in hits]


class Study:
    """The arms over one index, and the shortlists that are given to some of them."""

    def __init__(
        self,
        index: LabelIndex,
        shortlisters: Sequence[Model],
        selectors: Sequence[Model],
        *,
        task: str,
        budget: Budget,
        seed: int = 0,
    ) -> None:
        """Take the models of the two phases, the whole graph's own first.

        `budget` is the whole graph's: of `turns` it needs one at least, or no model searches.
        """
        self.labels = {label.id: label for label in sorted(index.labels(), key=lambda label: label.id)}
        self.near = cache(self._near)
        self.task, self.seed, self.budget = task, seed, budget
        self.index, self.shortlisters, self.selectors = index, shortlisters, selectors
        self._ids = list(self.labels)
        self._given = {name: Given(index) for name in (NO_DOCUMENT, NO_REASONING, SHUFFLED, *GIVEN)}
        self.arms = [*self._own(), *self._swapped()]

    def _near(self, key: str) -> list[Label]:
        """Return the labels nearest to a label, by a search for its own text."""
        hits = self.index.search(self.labels[key].text, NEIGHBOURS + 1) if key in self.labels else []
        return [hit.label for hit in hits if hit.label.id != key][:NEIGHBOURS]

    def swapped(self, shortlister: str, selector: int) -> str:
        """Return the name of the arm that has a shortlister (by its name) with a selector (by number)."""
        if selector == 0 and shortlister in (WHOLE, "hybrid"):
            return {WHOLE: WHOLE, "hybrid": NO_SEARCHES}[shortlister]
        return f"{shortlister} x {self.selectors[selector].spec}"

    @property
    def shortlister_names(self) -> list[str]:
        """The names of all shortlisters: retrieval's three, the whole graph's, then other models."""
        return [*RETRIEVAL, WHOLE, *(model.spec for model in self.shortlisters[1:])]

    def _own(self) -> Iterator[Arm]:
        """Yield the whole graph, and the arms that differ from it in one thing."""
        index, shortlister, selector = self.index, self.shortlisters[0], self.selectors[0]
        still = self.budget.model_copy(update={"turns": 0})
        as_given = still.model_copy(update={"candidates": self.budget.candidates + self.budget.candidates // 2})
        yield Arm(WHOLE, index, shortlister, selector, self.budget)
        yield Arm(NO_DOCUMENT, self._given[NO_DOCUMENT], shortlister, selector, self.budget)
        yield Arm(NO_SEARCHES, index, shortlister, selector, still)
        yield Arm(NO_DESCRIPTIONS, StandIn(index, partial(undescribed, index)), shortlister, selector, self.budget)
        if way_of(selector).reasons and isinstance(selector, ChatModel):
            direct = replace(selector, manner=selector.manner.model_copy(update={"reasons": False}))
            yield Arm(NO_REASONING, self._given[NO_REASONING], shortlister, direct, as_given)
        for name in (SHUFFLED, *GIVEN):
            yield Arm(name, self._given[name], shortlister, selector, as_given)

    def _swapped(self) -> Iterator[Arm]:
        """Yield every shortlister with every selector, but for the pairs that `_own` yields."""
        still = self.budget.model_copy(update={"turns": 0})
        for number, selector in enumerate(self.selectors):
            for name, mode in RETRIEVAL.items():
                if (pair := self.swapped(name, number)) != NO_SEARCHES:
                    yield Arm(
                        pair,
                        StandIn(self.index, partial(self.index.search, mode=mode)),
                        self.shortlisters[0],
                        selector,
                        still,
                    )
            for name, model in zip(self.shortlister_names[len(RETRIEVAL) :], self.shortlisters, strict=True):
                if (pair := self.swapped(name, number)) != WHOLE:
                    yield Arm(pair, self.index, model, selector, self.budget)

    def begin(self, document: Document) -> None:
        """Take a document's own search away from the arm that is to do without."""
        self._given[NO_DOCUMENT].give(self._read(document), [])

    def give(self, document: Document, whole: LabeledDocument, gold: Gold) -> None:
        """Make the document's other shortlists from that of the whole graph, and give them to their arms."""
        chance = random.Random(f"{self.seed} {document.id}")  # noqa: S311 - draws shortlists, no secret
        real = [self.labels[entry.id] for entry in whole.shortlist if entry.id in self.labels]
        text = self._read(document)
        found = {hit.label.id: rank for rank, hit in enumerate(self.index.search(text, DEEP))}
        for name, labels in self._shortlists(real, gold, chance).items():
            # Those made up are in the order in which retrieval has them: it is a part of what the selector goes by.
            in_order = sorted(labels, key=lambda label: found.get(label.id, DEEP)) if name in GIVEN else labels
            self._given[name].give(text, in_order)

    def _shortlists(self, real: list[Label], gold: Gold, chance: random.Random) -> dict[str, list[Label]]:
        size = len(real)
        right = [self.labels[key] for key in sorted(gold.labels - gold.filtered) if key in self.labels][:size]
        barred = gold.labels | gold.filtered
        shuffled = chance.sample(real, size)
        missing = [label for label in right if label not in real]
        wrong = [place for place, label in enumerate(real) if label.id not in gold.labels]
        oracle = list(real)
        for place, label in zip(chance.sample(wrong, min(len(wrong), len(missing))), missing, strict=False):
            oracle[place] = label
        others = [self.labels[key] for key in chance.sample(self._ids, min(size + len(barred), len(self._ids)))]
        rank = [self.near(label.id) for label in right]
        near = {n.id: n for nth in zip(*rank, strict=False) for n in nth} | {
            n.id: n for nearest in rank for n in nearest
        }
        return {
            NO_REASONING: real,
            SHUFFLED: shuffled,
            ORACLE: oracle,
            RANDOM: _mixed(right, [label for label in others if label.id not in barred], size, chance),
            NEAR: (mixed := _mixed(right, [label for label in near.values() if label.id not in barred], size, chance)),
            NEAR_ALONE: [label for label in mixed if label.id not in gold.labels],
        }

    def _read(self, document: Document) -> str:
        return begin(document, self.budget.document)["text"]


def _mixed(right: list[Label], wrong: list[Label], size: int, chance: random.Random) -> list[Label]:
    """Return right labels with as many wrong ones, the first ones, as make up the size, in a random order."""
    return chance.sample(mixed := [*right, *wrong][:size], len(mixed))


def run(
    study: Study,
    documents: Sequence[Document],
    gold: Mapping[str, Gold],
    out: Path,
    *,
    memory: Memory,
    concurrency: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Run every arm over the documents, each into its file in the folder `out`. Go on where it was cut.

    `memory` holds the models' earlier answers. `progress` is called with the number of documents done.
    Raises UserError where the folder cannot be written or holds another study.
    """
    with ExitStack() as stack:
        runs = _Runs(study, out, memory, documents, stack)
        todo = [document for document in documents if runs.lacks(document)]
        pool = ThreadPoolExecutor(concurrency)
        try:
            under_way = [pool.submit(runs.add, document, gold[document.id]) for document in todo]
            for done, future in enumerate(as_completed(under_way), start=len(documents) - len(todo) + 1):
                future.result()
                progress(done)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        for output in runs.outputs.values():
            output.sort(documents)


class _Runs:
    """The arms' files, and the documents that each lacks."""

    def __init__(
        self, study: Study, out: Path, memory: Memory, documents: Sequence[Document], stack: ExitStack
    ) -> None:
        self.outputs = {arm.name: stack.enter_context(Output(out / arm.file)) for arm in study.arms}
        self._study = study
        self._left = {
            name: {document.id for document in output.left(documents)} for name, output in self.outputs.items()
        }
        self._graphs = {arm.name: _graph(study, arm, out, memory) for arm in study.arms}
        whole = next(arm for arm in study.arms if arm.name == WHOLE)
        self._wholes = {result.id: result for result in read_records(out / whole.file, LabeledDocument)}
        self._writing = threading.Lock()

    def lacks(self, document: Document) -> bool:
        """Tell whether an arm has not done the document."""
        return any(document.id in ids for ids in self._left.values())

    def add(self, document: Document, gold: Gold) -> None:
        """Take a document through the arms that lack it. The others' shortlists are made of the whole graph's."""
        self._study.begin(document)
        whole = self._result(document, WHOLE) or self._wholes[document.id]
        if whole.failure and whole.failure.kind in RETRIED:  # it is tried again, and the others then
            return
        self._study.give(document, whole, gold)
        for name in self._graphs:
            self._result(document, name)

    def _result(self, document: Document, name: str) -> LabeledDocument | None:
        """Run an arm that lacks the document, and write the result."""
        if document.id not in self._left[name]:
            return None
        (result,) = label_documents(self._graphs[name], [document])
        with self._writing:
            self.outputs[name].write(result)
            self._left[name].discard(document.id)
        return result


def _graph(study: Study, arm: Arm, out: Path, memory: Memory) -> LabelingGraph:
    log = log_of(out / arm.file)
    models = [ReplayedModel.over(model, memory) for model in (arm.shortlister, arm.selector)]
    return build_graph(models[0], models[1], arm.search, task=study.task, budget=arm.budget, log=log)
