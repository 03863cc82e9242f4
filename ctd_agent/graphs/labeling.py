"""The two-phase graph: search for the document, let a model search on, let a model choose.

    START ──▶ read ──▶ shortlist ⇄ search
                           └──▶ select ──▶ finish ──▶ END

Every node but `finish` is a transition of the log. Budgets are checked before each call, and end
a phase, never the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from ctd_agent.agents.models import ChatModel, EngineError, load_model
from ctd_agent.agents.prompts import DEFAULT_TASK, VERSIONS
from ctd_agent.agents.selector import Selector, UnusableSelectionError, load_selector
from ctd_agent.agents.shortlister import Asked, Shortlister, UnusableTurnError
from ctd_agent.graphs.state import (
    LabelingInput,
    LabelingOutput,
    LabelingState,
    asked_before,
    found_by,
    merge,
    result,
    shortlist,
    spent,
)
from ctd_agent.graphs.transitions import Run, Transition, TransitionLog, new_run
from ctd_agent.schema import Candidate, Document, Exchange, Failure, Phase, SearchResult, Selection, Usage
from ctd_agent.tools.label_index import Hit, LabelIndex
from ctd_agent.tools.label_search import found_text, log_entry, search_labels_tool

DOCUMENT_HITS = 100  # labels that the document's own search brings
SHOWN = 10  # of them, as the shortlister is shown


@dataclass(frozen=True)
class Budget:
    """What one document may cost.

    `turns` and `searches` are the model's in phase 1; `candidates` go on the shortlist; `tokens`
    are those of all prompts and answers; `seconds` are of wall time. Of a longer document the
    first `document` bytes of UTF-8 are read: no tokenizer makes more tokens than that.
    """

    turns: int = 1
    searches: int = 8
    candidates: int = 30
    tokens: int = 50_000
    seconds: float = 600.0
    document: int = 8_000


Node = Literal["read", "shortlist", "search", "select"]
Change = dict[str, Any]
PHASES: dict[Node, Phase] = {"read": "search", "shortlist": "shortlist", "search": "search", "select": "select"}
LabelingGraph = CompiledStateGraph[LabelingState, None, LabelingInput, LabelingOutput]


def build_graph(
    shortlister: str | ChatModel,
    selector: str | ChatModel,
    index: LabelIndex,
    *,
    task: str = DEFAULT_TASK,
    budget: Budget = Budget(),
    log: str | Path | None = None,
) -> LabelingGraph:
    """Return the compiled graph: invoke it with {"document": Document}, get {"result": LabeledDocument}.

    `shortlister` and `selector` are model specs or models; `task` says in a few words what the
    labels are; `log` is a file that every transition is appended to.
    Raises UserError for a spec that names nothing or a log that cannot be written.
    """
    models = [load_model(model) if isinstance(model, str) else model for model in (shortlister, selector)]
    choose = load_selector(models[1], task)
    run = new_run(
        task=task,
        shortlister=models[0].spec,
        selector=models[1].spec,
        prompts={"shortlist": VERSIONS["shortlist"], "select": choose.prompt},
        catalogue=index.manifest.fingerprint,
        labels=index.manifest.labels,
        embedder=index.manifest.embedder,
        budget=asdict(budget),
    )
    write = TransitionLog(Path(log), run).write if log else lambda _: None
    nodes = _Nodes(Shortlister(models[0], task), choose, index, budget, run, write)
    graph = StateGraph(LabelingState, input_schema=LabelingInput, output_schema=LabelingOutput)
    for node in (nodes.read, nodes.shortlist, nodes.search, nodes.select, nodes.finish):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "read")
    graph.add_edge("finish", END)
    return graph.compile(name="labeling")


class _Nodes:
    """The graph's nodes. Each returns the state's change and names where to go next."""

    def __init__(
        self,
        shortlister: Shortlister,
        selector: Selector,
        index: LabelIndex,
        budget: Budget,
        run: Run,
        write: Callable[[Sequence[Transition]], None],
    ) -> None:
        self._shortlister = shortlister
        self._selector = selector
        self._agents: dict[Node, Shortlister | Selector] = {"shortlist": shortlister, "select": selector}
        self._tool = search_labels_tool(index)
        self._index = index
        self._budget = budget
        self._run = run
        self._write = write

    def read(self, state: LabelingState) -> Command[Literal["shortlist", "select", "finish"]]:
        """Cut the document to its budget and search for it: retrieval is the shortlist's ground."""
        started = perf_counter()
        document = Document.model_validate(state["document"])
        text = document.text.encode()[: self._budget.document].decode(errors="ignore")
        change: Change = {
            "document": document,
            "text": text,
            "truncated_from": len(document.text) if len(text) < len(document.text) else None,
            "started": started,
            "turn": 0,
        }
        if not text.strip():
            failure = Failure(phase="search", kind="empty_document", message="the document has no text")
            return self._go(state, "read", "finish", change, failure=failure)
        hits = self._index.search(text, DOCUMENT_HITS)
        change["candidates"] = found_by(0, "", hits)
        change["messages"] = self._shortlister.opening(text, found_text([hit.label.name for hit in hits[:SHOWN]]))
        searches = [log_entry(0, "", DOCUMENT_HITS, hits)]
        goto = "shortlist" if self._budget.turns and self._budget.searches else "select"
        return self._go(state, "read", goto, change, searches=searches, text=text, usage=_since(started))

    def shortlist(self, state: LabelingState) -> Command[Literal["search", "select", "finish"]]:
        """Ask the model for searches that the document's own has missed."""
        turn = state["turn"] + 1
        if not self._within(state, Usage()):
            return self._go(
                state, "shortlist", "select", failure=_failure("shortlist", "budget", f"spent before turn {turn}")
            )
        try:
            exchange = self._shortlister.ask(state["messages"], self._tool)
        except EngineError as error:
            return self._go(
                state,
                "shortlist",
                "finish",
                exchange=error.exchange,
                failure=_failure("shortlist", "engine", str(error)),
            )
        reply = exchange.replies[-1]
        try:
            asked, done = self._shortlister.read(reply)
        except UnusableTurnError as error:
            failure = _failure("shortlist", "invalid_output", str(error))
            return self._go(state, "shortlist", "select", {"turn": turn}, exchange=exchange, failure=failure)
        change = {"turn": turn, "asked": asked, "done": done, "messages": [self._shortlister.reply_message(reply)]}
        return self._go(state, "shortlist", "search" if asked else "select", change, exchange=exchange)

    def search(self, state: LabelingState) -> Command[Literal["shortlist", "select"]]:
        """Run the searches asked for, each once, and tell the model what they found."""
        started = perf_counter()
        before = asked_before(state)
        texts: list[str] = []
        logged: list[SearchResult] = []
        candidates: dict[str, Candidate] = {}
        for asked in state["asked"]:
            text, hits = self._run_search(asked, before, self._budget.searches - len(before))
            texts.append(text)
            if hits is not None and asked.search is not None:
                before.add(asked.search.key)
                logged.append(log_entry(state["turn"], asked.search.query, asked.search.limit, hits))
                candidates = merge(candidates, found_by(state["turn"], asked.search.query, hits))
        change = {"candidates": candidates, "messages": self._shortlister.result_messages(state["asked"], texts)}
        over = state["done"] or state["turn"] >= self._budget.turns or len(before) >= self._budget.searches
        goto = "select" if over or not logged else "shortlist"
        return self._go(state, "search", goto, change, searches=logged, usage=_since(started))

    def select(self, state: LabelingState) -> Command[Literal["finish"]]:
        """Ask the model to choose from the shortlist."""
        candidates = shortlist(state["candidates"], self._budget.candidates)
        if not candidates:
            return self._go(state, "select", "finish", {"selection": Selection(labels=[], scores={})})
        try:
            exchange = self._selector.ask(state["text"], candidates, lambda usage: self._within(state, usage))
        except EngineError as error:
            return self._go(
                state, "select", "finish", exchange=error.exchange, failure=_failure("select", "engine", str(error))
            )
        missing = len(exchange.prompts) - len(exchange.replies)
        failure = _failure("select", "budget", f"spent with {missing} questions unasked") if missing else None
        try:
            selection = self._selector.read(exchange, candidates)
        except UnusableSelectionError as error:
            failure = failure or _failure("select", "invalid_output", str(error))
            return self._go(state, "select", "finish", exchange=exchange, failure=failure)
        change = {"selection": selection}
        return self._go(state, "select", "finish", change, exchange=exchange, selection=selection, failure=failure)

    def finish(self, state: LabelingState) -> dict[str, Any]:
        """Log the document's steps, and put its result together."""
        self._write(state["transitions"])
        return {"result": result(state, self._budget.candidates)}

    def _run_search(self, asked: Asked, before: set[str], left: int) -> tuple[str, list[Hit] | None]:
        """Return what the model reads of a search, and its hits where it ran."""
        if asked.search is None:
            return f"error: {asked.error}", None
        if asked.search.key in before:
            return "you have searched for this already", None
        if left <= 0:
            return "no searches left", None
        call = {"type": "tool_call", "id": asked.call, "name": self._tool.name, "args": asked.search.model_dump()}
        message = self._tool.invoke(call)
        return str(message.content), message.artifact

    def _within(self, state: LabelingState, usage: Usage) -> bool:
        """Tell whether the budget admits another call, given what the phase under way has spent."""
        total = spent(state) + usage
        tokens = total.prompt_tokens + total.completion_tokens
        return tokens < self._budget.tokens and perf_counter() - state["started"] < self._budget.seconds

    def _go(
        self, state: LabelingState, node: Node, goto: str, change: Change | None = None, **step: Any
    ) -> Command[Any]:
        """Return the command that leaves a node: the state's change, its transition, and where to."""
        change = change or {}
        exchange: Exchange | None = step.get("exchange")
        document = Document.model_validate(change.get("document") or state["document"])
        agent = self._agents.get(node)
        transition = Transition(
            run=self._run.run,
            document=document.id,
            step=len(state.get("transitions", [])),
            phase=PHASES[node],
            node=node,
            model=agent and agent.model.spec,
            prompt=agent and agent.prompt,
            added=[new for new in change.get("candidates", {}) if new not in state.get("candidates", {})],
            **({"usage": exchange.usage} if exchange else {}) | step,
        )
        if step.get("failure"):
            change = {"failure": step["failure"], **change}
        return Command(update={**change, "transitions": [transition]}, goto=goto)


def _failure(phase: Phase, kind: Literal["budget", "engine", "invalid_output"], message: str) -> Failure:
    return Failure(phase=phase, kind=kind, message=message)


def _since(started: float) -> Usage:
    return Usage(seconds=perf_counter() - started)
