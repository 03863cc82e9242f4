"""A job: everything that one labelling run is. It runs here, or on the nodes of a cluster."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import field_validator

from ctd_agent.agents.engines import Model, load_phases
from ctd_agent.agents.engines.encoder import embedder_of
from ctd_agent.agents.prompts import DEFAULT_TASK
from ctd_agent.agents.sampling import GREEDY, Sampling
from ctd_agent.agents.selecting import way_named
from ctd_agent.console import progress
from ctd_agent.errors import UserError
from ctd_agent.files import read_labels
from ctd_agent.graphs.batch import label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import LabelingGraph, build_graph
from ctd_agent.graphs.transitions import Run, TransitionLog
from ctd_agent.schema import Document, LabeledDocument, Record
from ctd_agent.tools.index_cache import cached_index
from ctd_agent.tools.label_index import LabelIndex, fingerprint


class Job(Record):
    """Everything that one labelling run is: its index, models, task, budget and sampling.

    `labels` is the file of a catalogue, `label_columns` its columns' names where they differ; its index is built in
    the cache. Or `index` is one that is built already. `selecting` is the selector's way of selecting, None for the
    one that fits it. `budget` holds the numbers of a Budget that are not left to the models. `columns` are the
    documents'. `concurrency` is the number of documents at once, None for what the engines carry. With `trace` the
    LangSmith variables of the environment are heeded: it gets every document. With `force` it goes on with the results
    and the log of a run that differs.

    >>> Job(index="my-index", selector="openai:gpt-5-mini", budget={"candidates": 30}).shortlister
    'local'
    """

    labels: str | None = None
    label_columns: dict[str, str] = {}
    index: str | None = None
    embedder: str | None = None
    shortlister: str = "local"
    selector: str = "local"
    selecting: str | None = None
    shortlist_sampling: Sampling = GREEDY
    select_sampling: Sampling = GREEDY
    task: str = DEFAULT_TASK
    budget: dict[str, int | float] = {}
    columns: dict[str, str] = {}
    concurrency: int | None = None
    ordered: bool = True
    retry_failed: bool = False
    trace: bool = False
    force: bool = False

    @field_validator("budget")
    @classmethod
    def _names_a_budget(cls, wanted: dict[str, Any]) -> dict[str, Any]:
        return Budget(**wanted).model_dump(include={*wanted})

    def open_index(self) -> LabelIndex:
        """Open the index, or build that of the catalogue, its progress shown on stderr.

        Raises UserError for both or neither, and for an embedder that does not fit the index or the shortlister.
        """
        embedder = self.embedder
        self._check_catalogue()
        if needed := embedder_of(self.shortlister):
            if embedder not in (None, needed):
                raise UserError(
                    f"--embedder {embedder}: {self.shortlister} shortlists by its own vectors; leave --embedder out"
                )
            embedder = needed
        if self.index is not None:
            return LabelIndex.open(self.index, embedder)
        labels = read_labels(str(self.labels), self.label_columns)
        with progress("indexing", len(labels)) as show:
            return cached_index(labels, embedder, show)

    def settled(self, run: Run) -> Run:
        """Return a run's header as it would be of this job, in all that can be told without its models.

        Raises UserError for a catalogue and an index, or neither, and where the one given cannot be read.
        """
        self._check_catalogue()
        if self.index is not None:
            manifest = LabelIndex.open(self.index, self.embedder).manifest
            catalogue, labels = manifest.fingerprint, manifest.labels
        else:
            read = read_labels(str(self.labels), self.label_columns)
            catalogue, labels = fingerprint(read), len(read)
        stated = {
            "task": self.task,
            "shortlister": self.shortlister,
            "selector": self.selector,
            "catalogue": catalogue,
            "labels": labels,
            "budget": run.budget.model_dump() | self.budget,
            "sampling": {"shortlist": self.shortlist_sampling, "select": self.select_sampling},
        }
        return Run.model_validate(run.model_dump() | stated)

    def _check_catalogue(self) -> None:
        if (self.labels is None) == (self.index is None):
            raise UserError("give either --labels CATALOGUE or --index INDEX")

    def open(self) -> "Labeller":
        """Open the index and load the models. Raises as `open_index`, `load_phases` and `build_graph` do."""
        if self.selecting:
            way_named(self.selecting)
        index = self.open_index()
        return Labeller(self, index, *load_phases(self.shortlister, self.selector, self.selecting))


class Labeller:
    r"""A job with its index and models opened, ready for any number of files.

    >>> _ = Path("labels.txt").write_text("Mail\nGames\n")
    >>> labeller = Job(labels="labels.txt", embedder="static", task="topics").open()  # fetches the weights once
    >>> [result.labels[0].name for result in labeller.label([Document(id="a", text="An SMTP client")])]
    ['Mail']
    """

    def __init__(self, job: Job, index: LabelIndex, shortlister: Model, selector: Model) -> None:
        self.index, self.shortlister, self.selector = index, shortlister, selector
        self.budget = Budget.fitting(shortlister, selector, **job.budget)
        self.concurrency = job.concurrency or min(shortlister.slots, selector.slots)
        self.job = job

    def graph(self, log: str | Path | TransitionLog | None = None) -> LabelingGraph:
        """Return the job's graph, logging to a file. Raises UserError as `build_graph` does for a log."""
        job = self.job
        return build_graph(
            self.shortlister,
            self.selector,
            self.index,
            task=job.task,
            budget=self.budget,
            shortlist_sampling=job.shortlist_sampling,
            select_sampling=job.select_sampling,
            log=log,
        )

    def label(
        self, documents: Iterable[Document], log: str | Path | TransitionLog | None = None
    ) -> Iterator[LabeledDocument]:
        """Build the graph, then return every document's result as it comes."""
        graph, job = self.graph(log), self.job
        return label_documents(graph, documents, concurrency=self.concurrency, ordered=job.ordered, trace=job.trace)
