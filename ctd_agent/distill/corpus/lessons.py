"""Transitions to phase-aligned examples: credit, a gate for each phase, hard negatives. Reads logs, nothing else.

One log holds one teacher's run over many documents; several logs over the same documents are samples
of it, of which each phase keeps its best.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from ctd_agent.agents.prompts import candidates_shown
from ctd_agent.agents.selector import unfenced
from ctd_agent.distill.metrics import f1, recall
from ctd_agent.errors import UserError
from ctd_agent.graphs.state import found_by, merge, shortlist
from ctd_agent.graphs.transitions import Run, Transition, read_runs, read_transitions
from ctd_agent.schema import Candidate, Exchange, Gold, Label, SearchResult, Selection
from ctd_agent.tools.label_index import Hit

ALIKE = ("catalogue", "labels", "task", "prompts")  # of runs whose examples may stand in one corpus
CORPORA = ("shortlist", "select", "standard")


@dataclass(frozen=True)
class Gates:
    """What a teacher's run must reach to teach a phase, and whether only what was right counts as its work.

    `recall` is that of the shortlist, `f1` that of the choice, each in [0, 1]. With `credit`, searches that
    were first to surface no right label are pruned, and so are wrongly chosen labels. That done, a run teaches well
    if it got anything right (docs/distillation.md): what by default is required is hardly more.
    """

    recall: float = 0.1
    f1: float = 0.1
    credit: bool = True


@dataclass(frozen=True)
class Episode:
    """One whole run of the graph over one document, as its log tells it.

    `searches` begins with the document's own; `shortlist` is in the order that the selector was shown,
    `shown` how it was shown each candidate, by label id. `choice` is None where the selector failed.
    """

    run: Run
    document: str
    text: str
    searches: list[SearchResult]
    shortlist: list[Candidate]
    shown: dict[str, str]
    choice: Selection | None
    reasoning: str
    native: bool

    @property
    def surfaced(self) -> list[str]:
        """Every label that a search found, by id, in the order found."""
        return list(dict.fromkeys(found.id for search in self.searches for found in search.found))

    @property
    def listed(self) -> list[str]:
        """The shortlist's labels, by id, in its order."""
        return [candidate.label.id for candidate in self.shortlist]

    @property
    def chosen(self) -> list[str]:
        """The chosen labels' ids, best first."""
        return [label.id for label in self.choice.labels] if self.choice else []


@dataclass(frozen=True)
class Lesson:
    """What one document teaches, by phase: the episode that teaches it, or None where its gate let none through.

    `right` are the labels that count as right for it, and those that count neither way.
    """

    document: str
    text: str
    right: Gold
    shortlist: Episode | None
    select: Episode | None
    standard: Episode | None


@dataclass
class Count:
    """How many documents each gate kept and dropped, by the reason; `without` is how many had no right labels."""

    documents: int = 0
    without: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in CORPORA})


def read_episodes(logs: Sequence[Path]) -> tuple[list[Run], dict[str, list[Episode]]]:
    """Return the logs' runs, and by document its whole episodes, at most one a log.

    Raises UserError for a log that cannot be read or holds no run, and where two runs differ in what examples
    of one corpus must share: the catalogue, the task, the prompts' versions.
    """
    runs: list[Run] = []
    episodes: dict[str, list[Episode]] = {}
    for log in logs:
        headers = {run.run: run for run in read_runs(log)}
        if not headers:
            raise UserError(
                f"{log}: no run in it; a transitions log is what `ctd-agent label -o RUN` writes beside RUN"
            )
        for run in headers.values():
            _check_alike(log, run, (runs or [run])[0])
            runs.append(run)
        for document, steps in read_transitions(log).items():
            if episode := _episode(headers, steps):
                episodes.setdefault(document, []).append(episode)
    if not episodes:
        raise UserError(f"{', '.join(map(str, logs))}: no document was run to its end; let the run go on first")
    return runs, episodes


def learn(
    episodes: Mapping[str, Sequence[Episode]], gold: Mapping[str, Gold] | None, gates: Gates
) -> tuple[list[Lesson], Count]:
    """Return what every document teaches, of its episodes the best for each phase, and what the gates kept.

    With `gold` its labels are right, and documents without any are left out. Without, those are that at least
    half of the document's episodes chose: with one, the teacher's own selection.
    """
    lessons, count = [], Count(documents=len(episodes))
    for document, samples in episodes.items():
        right = _right(samples, gold, document)
        if not right.labels:
            count.without += 1
            continue
        passed = {name: _best(name, samples, right, gates, count) for name in CORPORA}
        if any(passed.values()):
            lessons.append(Lesson(document, samples[0].text, right, **passed))
    return lessons, count


def credited(searches: Iterable[SearchResult], right: Collection[str]) -> list[SearchResult]:
    """Return the searches that were the first to surface a right label, in their order."""
    left, counted = set(right), []
    for search in searches:
        if new := left & {found.id for found in search.found}:
            counted.append(search)
            left -= new
    return counted


def worth_making(episode: Episode, right: Collection[str], credit: bool) -> list[SearchResult]:
    """Return the model's searches that a student is to make: those credited, or without `credit` all."""
    searches = credited(episode.searches, right) if credit else episode.searches
    return [search for search in searches if search.turn]


def worth_choosing(episode: Episode, right: Collection[str], credit: bool) -> list[str]:
    """Return the labels that a student is to choose, best first: those right, or without `credit` all chosen."""
    return [label for label in episode.chosen if label in right or not credit]


def _check_alike(log: Path, run: Run, first: Run) -> None:
    different = [name for name in ALIKE if getattr(run, name) != getattr(first, name)]
    if different:
        raise UserError(
            f"{log}: run {run.run} differs from run {first.run} in {', '.join(different)}; one corpus is of one "
            "catalogue, one task and one version of each prompt: make a corpus of each"
        )


def _episode(runs: Mapping[str, Run], steps: Sequence[Transition]) -> Episode | None:
    """Return what a document's steps tell; None where nothing was read or found."""
    run, text = runs.get(steps[0].run), steps[0].text
    searches = [search for step in steps for search in step.searches]
    if run is None or not text or not searches:
        return None
    listed = shortlist(reduce(merge, map(_found, searches), {}), int(run.budget["candidates"]))
    select = next((step for step in steps if step.node == "select"), None)
    exchange = select.exchange if select else None
    whole = select is not None and select.failure is None
    return Episode(
        run=run,
        document=steps[0].document,
        text=text,
        searches=searches,
        shortlist=listed,
        shown=_shown(exchange, listed) if exchange else {},
        choice=select.selection if select and whole else None,
        reasoning=_reasoning(exchange) if exchange else "",
        native=any("tools" in step.exchange.options for step in steps if step.exchange),
    )


def _found(search: SearchResult) -> dict[str, Candidate]:
    hits = [Hit(Label(id=one.id, name=one.name), one.score) for one in search.found]
    return found_by(search.turn, search.query, hits)


def _shown(exchange: Exchange, listed: Sequence[Candidate]) -> dict[str, str]:
    shown = exchange.questions or candidates_shown(exchange.messages)
    return dict(zip((candidate.label.id for candidate in listed), shown, strict=False))


def _reasoning(exchange: Exchange) -> str:
    """Return what a listwise selector wrote before its choice: its thoughts, then its reasons."""
    if exchange.questions or not exchange.replies:
        return ""
    reply = exchange.replies[-1]
    try:
        written = json.loads(unfenced(reply.content)).get("reasoning") or ""
    except (ValueError, AttributeError):
        written = ""
    return "\n".join(part for part in (reply.reasoning.strip(), str(written).strip()) if part)


def _right(samples: Sequence[Episode], gold: Mapping[str, Gold] | None, document: str) -> Gold:
    if gold is not None:
        right = gold.get(document, Gold(frozenset()))
        return Gold(right.labels - right.filtered, right.filtered)
    votes = Counter(label for sample in samples for label in sample.chosen)
    return Gold(frozenset(label for label, times in votes.items() if 2 * times >= len(samples)))


def _best(name: str, samples: Sequence[Episode], right: Gold, gates: Gates, count: Count) -> Episode | None:
    """Return the best of the episodes that pass a phase's gate, and count why none did."""
    score = {"shortlist": _shortlist_score, "select": _select_score, "standard": _standard_score}[name]
    best = max(samples, key=lambda episode: score(episode, right, gates))
    value = score(best, right, gates)
    if value >= 0:
        count.kept[name] += 1
        return best
    count.dropped[name]["no selection" if value == FAILED else "gate"] += 1
    return None


FAILED, BELOW = -2.0, -1.0  # scores of an episode that cannot teach a phase, and of one that may not


def _shortlist_score(episode: Episode, right: Gold, gates: Gates) -> float:
    reached = recall(episode.listed, right.labels, len(episode.listed))
    return reached if reached >= gates.recall else BELOW


def _select_score(episode: Episode, right: Gold, gates: Gates) -> float:
    """Return the F1 of the choice against what was there to choose: a poor shortlist is not the selector's fault."""
    if episode.choice is None or len(episode.shown) < len(episode.shortlist):
        return FAILED
    there, chosen = right.labels & {*episode.listed}, {*episode.chosen} - right.filtered
    reached = f1(chosen, there) if there else float(not chosen)
    return reached if reached >= gates.f1 else BELOW


def _standard_score(episode: Episode, right: Gold, gates: Gates) -> float:
    """Return the choice's F1 where both phases pass: a run's whole output is right as a whole or not at all."""
    worst = min(_shortlist_score(episode, right, gates), _select_score(episode, right, gates))
    return worst if worst < 0 else f1({*episode.chosen} - right.filtered, right.labels)
