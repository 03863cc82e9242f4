"""Transitions to lessons: credit, a gate for each phase, hard negatives. Reads logs, nothing else.

A log holds a teacher's run over many documents. Several logs over the same documents are samples of it: each phase
learns from its best.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctd_agent.errors import UserError
from ctd_agent.graphs.logged import read_log
from ctd_agent.graphs.transitions import Run
from ctd_agent.measure.metrics import f1, recall
from ctd_agent.measure.trace import Trace
from ctd_agent.schema import MODEL, Gold, SearchResult

ALIKE = ("catalogue", "labels", "task", "prompts")  # the fields in which the runs of one corpus agree
CORPORA = ("shortlist", "select", "standard")


@dataclass(frozen=True)
class Gates:
    """The minimum that a teacher's run must reach to teach a phase, and whether its mistakes are pruned.

    `recall` is that of the shortlist, `f1` that of the choice, each in [0, 1]. With `credit`, searches that were first
    to surface no right label are pruned, and so are wrongly chosen labels. What is left of a run teaches well if it
    got anything right, so the default minimum is low (docs/distillation.md).
    """

    recall: float = 0.1
    f1: float = 0.1
    credit: bool = True


@dataclass(frozen=True)
class Lesson:
    """The lesson of one document: for each phase the trace that teaches it, None where the gate let none through.

    `right` holds the labels that count as right for the document, and those that count neither way.
    """

    document: str
    right: Gold
    shortlist: Trace | None
    select: Trace | None
    standard: Trace | None

    @property
    def text(self) -> str:
        """The part of the document that was read."""
        return next(trace.text for trace in (self.shortlist, self.select, self.standard) if trace)


@dataclass
class Count:
    """The numbers of documents that each gate kept and dropped, by the reason. `without` had no right labels."""

    documents: int = 0
    without: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in CORPORA})


def read_runs(logs: Sequence[Path]) -> tuple[list[Run], dict[str, list[Trace]]]:
    """Return the logs' runs, and by document its whole traces, at most one a log, whose steps are not held.

    Raises UserError for a log that cannot be read, holds no run, or does not say what the selector was shown, and
    where two runs differ in a field that the runs of one corpus must share: catalogue, task, prompts' versions.
    """
    runs: list[Run] = []
    traces: dict[str, list[Trace]] = {}
    for log in logs:
        read = read_log(log)
        if not read.runs:
            raise UserError(
                f"{log}: no run in it; a transitions log is what `ctd-agent label -o RUN` writes beside RUN"
            )
        headers = {run.run: run for run in read.runs}
        for run in read.runs:
            _check_alike(log, run, (runs or [run])[0])
            runs.append(run)
        for document in read.steps:
            steps = read.steps.lazily(document)
            trace = Trace(document, steps, headers.get(steps[0].run))
            if trace.run and trace.text and trace.searches:
                _check_shown(log, trace)
                traces.setdefault(document, []).append(trace)
    if not traces:
        raise UserError(f"{', '.join(map(str, logs))}: no document was run to its end; let the run go on first")
    return runs, traces


def learn(
    traces: Mapping[str, Sequence[Trace]], gold: Mapping[str, Gold] | None, gates: Gates
) -> tuple[list[Lesson], Count]:
    """Return the lesson of every document, of its traces the best for each phase, and the numbers that gates kept.

    With `gold` its labels are right, and documents without any are left out. Without `gold` a label is right if at
    least half of the document's traces chose it: with one trace, the teacher's own selection.
    """
    lessons, count = [], Count(documents=len(traces))
    for document, samples in traces.items():
        right = _right(samples, gold, document)
        if not right.labels:
            count.without += 1
            continue
        passed = {name: _best(name, samples, right, gates, count) for name in CORPORA}
        if any(passed.values()):
            lessons.append(Lesson(document, right, **passed))
    return lessons, count


def credited(searches: Iterable[SearchResult], right: Collection[str]) -> list[SearchResult]:
    """Return the searches that were the first to surface a right label, in their order."""
    left, counted = set(right), []
    for search in searches:
        if new := left & {found.id for found in search.found}:
            counted.append(search)
            left -= new
    return counted


def worth_making(trace: Trace, right: Collection[str], credit: bool) -> list[SearchResult]:
    """Return the model's searches that a student is to make: those credited, or without `credit` all."""
    searches = credited(trace.searches, right) if credit else trace.searches
    return [search for search in searches if search.source == MODEL]


def worth_choosing(trace: Trace, right: Collection[str], credit: bool) -> list[str]:
    """Return the labels that a student is to choose, best first: those right, or without `credit` all chosen."""
    return [label for label in trace.chosen if label in right or not credit]


def reasoning(trace: Trace) -> str:
    """Return the thoughts and reasons that a listwise selector wrote before its choice."""
    asked = any(step.exchange.questions for step in trace.steps if step.phase == "select" and step.exchange)
    return "" if asked else "\n".join(text for phase, text in trace.reasoning if phase == "select")


def _check_alike(log: Path, run: Run, first: Run) -> None:
    different = [name for name in ALIKE if getattr(run, name) != getattr(first, name)]
    if different:
        raise UserError(
            f"{log}: run {run.run} differs from run {first.run} in {', '.join(different)}; one corpus is of one "
            "catalogue, one task and one version of each prompt: make a corpus of each"
        )


def _check_shown(log: Path, trace: Trace) -> None:
    if trace.shown is None and any(step.node == "select" for step in trace.steps):
        raise UserError(
            f"{log}: a log of version 0.1, which did not keep what the selector was shown; label the documents again, "
            "or make the corpus with that version"
        )


def _right(samples: Sequence[Trace], gold: Mapping[str, Gold] | None, document: str) -> Gold:
    if gold is not None:
        right = gold.get(document, Gold(frozenset()))
        return Gold(right.labels - right.filtered, right.filtered)
    votes = Counter(label for sample in samples for label in sample.chosen)
    return Gold(frozenset(label for label, times in votes.items() if 2 * times >= len(samples)))


def _best(name: str, samples: Sequence[Trace], right: Gold, gates: Gates, count: Count) -> Trace | None:
    """Return the best of the traces that pass a phase's gate, and count the reason where none does."""
    score = {"shortlist": _shortlist_score, "select": _select_score, "standard": _standard_score}[name]
    best = max(samples, key=lambda trace: score(trace, right, gates))
    value = score(best, right, gates)
    if value >= 0:
        count.kept[name] += 1
        return best
    count.dropped[name]["no selection" if value == FAILED else "gate"] += 1
    return None


FAILED, BELOW = -2.0, -1.0  # scores of a trace without a selection, and of one below the gate


def _shortlist_score(trace: Trace, right: Gold, gates: Gates) -> float:
    listed = trace.shortlist
    reached = recall(listed, right.labels, len(listed))
    return reached if reached >= gates.recall else BELOW


def _select_score(trace: Trace, right: Gold, gates: Gates) -> float:
    """Return the F1 of the choice against the right labels on the shortlist: the others were not to be chosen."""
    if trace.selection is None:
        return FAILED
    there, chosen = right.labels & {*trace.shortlist}, {*trace.chosen} - right.filtered
    reached = f1(chosen, there) if there else float(not chosen)
    return reached if reached >= gates.f1 else BELOW


def _standard_score(trace: Trace, right: Gold, gates: Gates) -> float:
    """Return the F1 of the choice where both phases pass: a whole output is right as a whole or not at all."""
    worst = min(_shortlist_score(trace, right, gates), _select_score(trace, right, gates))
    return worst if worst < 0 else f1({*trace.chosen} - right.filtered, right.labels)
