"""The two-phase graph: search for the document, let a model search on, let a model choose.

    START ──▶ read ──▶ shortlist ⇄ search
                           └──▶ select ──▶ finish ──▶ END

Every node but `finish` is a transition of the log. Budgets are checked before each call. They end a phase, never the
run. An engine that fails ends the document.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from ctd_agent.agents.engines import EngineError, Model, load_model
from ctd_agent.agents.prompts import DEFAULT_TASK
from ctd_agent.agents.sampling import GREEDY, Sampling
from ctd_agent.agents.selecting import Selector, UnusableSelectionError, load_selector
from ctd_agent.agents.shortlister import Shortlister, UnusableTurnError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.checks import check_shortlister, check_thinking
from ctd_agent.graphs.faults import in_phase
from ctd_agent.graphs.state import (
    LabelingInput,
    LabelingOutput,
    LabelingState,
    asked_before,
    begin,
    found_by,
    merge,
    result,
    shortlist,
    spent,
)
from ctd_agent.graphs.transitions import Goto, Node, Run, Transition, TransitionLog, new_run
from ctd_agent.lengths import cut
from ctd_agent.schema import MODEL, Candidate, Document, Failure, Phase, SearchResult, Selection, ShownCandidate, Usage
from ctd_agent.tools.label_search import SEARCH_LABELS, Searchable, found_text, log_entry
from ctd_agent.tools.sources import SOURCES

SHOWN = 10  # of the document's own hits, as the shortlister is shown

Change = dict[str, Any]
PHASES: dict[Node, Phase] = {"read": "search", "shortlist": "shortlist", "search": "search", "select": "select"}
LabelingGraph = CompiledStateGraph[LabelingState, None, LabelingInput, LabelingOutput]


def build_graph(
    shortlister: str | Model,
    selector: str | Model,
    index: Searchable,
    *,
    task: str = DEFAULT_TASK,
    budget: Budget | None = None,
    shortlist_sampling: Sampling = GREEDY,
    select_sampling: Sampling = GREEDY,
    log: str | Path | TransitionLog | None = None,
) -> LabelingGraph:
    """Return the compiled graph: invoke it with {"document": Document}, get {"result": LabeledDocument}.

    `shortlister` and `selector` are model specs or models. `task` says in a few words what the labels are. `budget` is
    by default the one that fits the models. Every transition is appended to the file `log`.
    Raises UserError for a spec that names nothing, a thinking budget that a model cannot be told, or a log that cannot
    be written, is broken, or is that of a run that differs.

    >>> index = LabelIndex.build([Label(id="1", name="Mail"), Label(id="2", name="Games")], "index", "static")
    >>> graph = build_graph("local", "local", index, task="topics")  # fetches the model's weights once
    >>> graph.invoke({"document": {"id": "a", "text": "An SMTP client"}})["result"].labels[0].name
    'Mail'
    """
    models = [load_model(model) if isinstance(model, str) else model for model in (shortlister, selector)]
    sampling: dict[Phase, Sampling] = {"shortlist": shortlist_sampling, "select": select_sampling}
    check_thinking(models, sampling.values())
    budget = budget or Budget.fitting(*models)
    check_shortlister(models[0], index, budget)
    searching = Shortlister(models[0], task, shortlist_sampling)
    choosing = load_selector(models[1], task, select_sampling)
    run = _header(searching, choosing, index, task=task, budget=budget, sampling=sampling)
    nodes = _Nodes(searching, choosing, index, budget, run, _writer(log, run))
    return _wired(nodes).with_config(recursion_limit=2 * budget.turns + 10)  # older releases of LangGraph stop after 25


def _header(shortlister: Shortlister, selector: Selector, index: Searchable, **settings: Any) -> Run:
    return new_run(
        shortlister=shortlister.model.spec,
        selector=selector.model.spec,
        prompts={"shortlist": shortlister.prompt, "select": selector.prompt},
        catalogue=index.manifest.fingerprint,
        labels=index.manifest.labels,
        embedder=index.manifest.embedder,
        **settings,
    )


def _writer(log: str | Path | TransitionLog | None, run: Run) -> Callable[[Sequence[Transition]], None]:
    if log is None:
        return lambda _: None
    log = log if isinstance(log, TransitionLog) else TransitionLog(Path(log))
    return log.begin(run).write


def _wired(nodes: "_Nodes") -> LabelingGraph:
    graph = StateGraph(LabelingState, input_schema=LabelingInput, output_schema=LabelingOutput)
    for name, phase in PHASES.items():
        graph.add_node(str(name), in_phase(phase, getattr(nodes, name)))
    graph.add_node("finish", in_phase("select", nodes.finish))
    graph.add_edge(START, "read")
    graph.add_edge("finish", END)
    return graph.compile(name="labeling")


class _Nodes:
    """The graph's nodes. Each returns the state's change and names where to go next."""

    def __init__(
        self,
        shortlister: Shortlister,
        selector: Selector,
        index: Searchable,
        budget: Budget,
        run: Run,
        write: Callable[[Sequence[Transition]], None],
    ) -> None:
        self._shortlister = shortlister
        self._selector = selector
        self._agents: dict[Node, Shortlister | Selector] = {"shortlist": shortlister, "select": selector}
        self._sources = {name: source(index) for name, source in SOURCES.items()}
        self._index = index
        self._budget = budget
        self._run = run
        self._write = write

    def read(self, state: LabelingState) -> Command[Literal["shortlist", "select", "finish"]]:
        """Cut the document to its budget and search for it: retrieval is the shortlist's ground."""
        fresh = begin(Document.model_validate(state.get("document")), self._budget.document)
        text, change = fresh["text"], Change(fresh)
        if not text:
            failure = _failure("search", "empty_document", "the document has no text")
            return self._go(fresh, "read", "finish", change, text=text, failure=failure)
        searches, candidates = [], dict[str, Candidate]()
        try:
            for name, source in self._sources.items():
                hits = source.find(text)
                searches.append(log_entry(name, 0, "", source.limit, hits))
                candidates = merge(candidates, found_by(name, "", hits))
        except Exception as error:  # the index's engine and its embedder each have their own
            failure = _failure("search", "engine", f"{type(error).__name__}: {error}")
            return self._go(fresh, "read", "finish", change, text=text, failure=failure)
        shown = [ShownCandidate(id=c.label.id, text=cut(c.label.name)) for c in shortlist(candidates, SHOWN)]
        opening = self._shortlister.opening(text, found_text([c.text for c in shown]), self._budget.searches)
        change |= {"candidates": candidates, "messages": opening}
        goto: Goto = "shortlist" if self._budget.turns and self._budget.searches else "select"
        step: dict[str, Any] = {"text": text, "shown": shown, "searches": searches}
        return self._go(fresh, "read", goto, change, usage=_since(fresh["started"]), **step)

    def shortlist(self, state: LabelingState) -> Command[Literal["search", "select", "finish"]]:
        """Ask the model for searches that the document's own has missed."""
        turn = state["turn"] + 1
        if not self._within(state, Usage()):
            failure = _failure("shortlist", "budget", f"spent before turn {turn}")
            return self._go(state, "shortlist", "select", failure=failure)
        try:
            exchange = self._shortlister.ask(state["messages"], SEARCH_LABELS)
        except EngineError as error:
            failure = _failure("shortlist", "engine", str(error))
            return self._go(state, "shortlist", "finish", exchange=error.exchange, failure=failure)
        reply = exchange.replies[-1]
        try:
            asked, done = self._shortlister.read(reply)
        except UnusableTurnError as error:
            failure = _failure("shortlist", "invalid_output", str(error))
            return self._go(state, "shortlist", "select", exchange=exchange, failure=failure)
        messages = [*state["messages"], self._shortlister.reply_message(reply)]
        change = {"turn": turn, "asked": asked, "done": done, "messages": messages}
        return self._go(state, "shortlist", "search" if asked else "select", change, exchange=exchange)

    def search(self, state: LabelingState) -> Command[Literal["shortlist", "select", "finish"]]:
        """Run the searches asked for, each once, and tell the model what they found."""
        started = perf_counter()
        asked, ran = state["asked"], asked_before(state)
        try:
            answers, searches, candidates = self._run_searches(state, ran)
        except Exception as error:  # as in `read`
            failure = _failure("search", "engine", f"{type(error).__name__}: {error}")
            return self._go(state, "search", "finish", usage=_since(started), failure=failure)
        messages = [*state["messages"], *self._shortlister.result_messages(asked, answers)]
        change = {"candidates": candidates, "messages": messages}
        step: dict[str, Any] = {"searches": searches, "usage": _since(started)}
        malformed = [call.error for call in asked if call.search is None]
        over = state["done"] or state["turn"] >= self._budget.turns or len(ran) >= self._budget.searches
        if over and len(malformed) == len(asked):
            step["failure"] = _failure("shortlist", "invalid_output", malformed[0])
        # A malformed call deserves another turn; a model that only repeats itself has nothing left to ask.
        again = not over and (searches or malformed)
        return self._go(state, "search", "shortlist" if again else "select", change, **step)

    def select(self, state: LabelingState) -> Command[Literal["finish"]]:
        """Ask the model to choose from the shortlist."""
        candidates = shortlist(state["candidates"], self._budget.candidates)
        if not candidates:
            return self._go(state, "select", "finish", shown=[], selection=Selection(labels=[], scores={}))
        texts = [self._selector.show(candidate.label) for candidate in candidates]
        shown = [ShownCandidate(id=c.label.id, text=text) for c, text in zip(candidates, texts, strict=True)]
        try:
            exchange = self._selector.ask(state["text"], candidates, texts, lambda usage: self._within(state, usage))
        except EngineError as error:
            failure = _failure("select", "engine", str(error))
            return self._go(state, "select", "finish", shown=shown, exchange=error.exchange, failure=failure)
        unasked = len(exchange.prompts) - len(exchange.replies)
        failed = _failure("select", "budget", f"spent with {unasked} questions unasked") if unasked else None
        selection = None
        try:
            selection = self._selector.read(exchange, candidates) if exchange.replies else None
        except UnusableSelectionError as error:
            failed = failed or _failure("select", "invalid_output", str(error))
        step: dict[str, Any] = {"shown": shown, "exchange": exchange, "selection": selection, "failure": failed}
        return self._go(state, "select", "finish", **step)

    def finish(self, state: LabelingState) -> Change:
        """Log the document's steps, and put its result together."""
        self._write(state["transitions"])
        return {"result": result(state, self._run.run, self._budget.candidates)}

    def _run_searches(
        self, state: LabelingState, ran: set[str]
    ) -> tuple[list[str], list[SearchResult], dict[str, Candidate]]:
        """Return the text that answers each search the model asked for, the searches that ran, and all candidates now.

        `ran` holds the keys of earlier searches. Those of the new ones are added to it.
        """
        answers: list[str] = []
        searches: list[SearchResult] = []
        turn, candidates = state["turn"], state["candidates"]
        for asked in state["asked"]:
            search = asked.search
            if search is None:
                answers.append(f"error: {asked.error}")
            elif search.key in ran:
                answers.append("you have searched for this already")
            elif len(ran) >= self._budget.searches:
                answers.append("no searches left")
            else:
                hits = self._index.search(search.query, search.limit)
                ran.add(search.key)
                answers.append(found_text([hit.label.name for hit in hits]))
                searches.append(log_entry(MODEL, turn, search.query, search.limit, hits))
                candidates = merge(candidates, found_by(MODEL, search.query, hits))
        return answers, searches, candidates

    def _within(self, state: LabelingState, usage: Usage) -> bool:
        """Tell whether the budget admits another call, given what the phase under way has spent."""
        total = spent(state) + usage
        tokens = total.prompt_tokens - total.cached_tokens + total.completion_tokens
        return tokens < self._budget.tokens and perf_counter() - state["started"] < self._budget.seconds

    def _go(
        self, state: LabelingState, node: Node, goto: Goto, change: Change | None = None, **step: Any
    ) -> Command[Any]:
        """Return the command that leaves a node: the state's change, its transition, and where to."""
        change = change or {}
        if step.get("exchange"):
            step["usage"] = step["exchange"].usage
        agent = self._agents.get(node)
        transition = Transition(
            run=self._run.run,
            document=state["document"].id,
            step=len(state["transitions"]),
            phase=PHASES[node],
            node=node,
            goto=goto,
            model=agent and agent.model.spec,
            prompt=agent and agent.prompt,
            added=[new for new in change.get("candidates", {}) if new not in state["candidates"]],
            **step,
        )
        update = {
            **change,
            "selection": transition.selection,
            "failure": transition.failure or state["failure"],
            "transitions": [*state["transitions"], transition],
        }
        return Command(update=update, goto=goto)


def _failure(
    phase: Phase, kind: Literal["empty_document", "invalid_output", "engine", "budget"], message: str
) -> Failure:
    return Failure(phase=phase, kind=kind, message=message)


def _since(started: float) -> Usage:
    return Usage(seconds=perf_counter() - started)
