"""A document of a run as it can be read afterwards: its steps, its result, its right labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic_core import from_json

from ctd_agent.agents.selecting.listwise import unfenced
from ctd_agent.graphs.transitions import Log, Run, Transition, log_of, read_log
from ctd_agent.records import read_records
from ctd_agent.schema import ChosenLabel, Gold, LabeledDocument, SearchResult, Selection

Fate = Literal["never retrieved", "retrieved and cut", "not on the shortlist", "shortlisted and not chosen", "chosen"]


@dataclass(frozen=True)
class Trace:
    """A document of a run. Lists of labels are ids, without the labels that gold filters out.

    `steps` is empty where there is no log. `run` is the header of their run, or of the log's last one. `result` is None
    where only the log was read. `gold` is None where the right labels are not known.
    """

    document: str
    steps: Sequence[Transition] = ()
    run: Run | None = None
    result: LabeledDocument | None = None
    gold: Gold | None = None

    @property
    def right(self) -> frozenset[str]:
        """The right labels."""
        return self.gold.labels - self.gold.filtered if self.gold else frozenset()

    @property
    def text(self) -> str:
        """The part of the document that was read, "" without a log."""
        return next((step.text for step in self.steps if step.text is not None), "")

    @property
    def searches(self) -> list[SearchResult]:
        """Every search that ran, in order."""
        return [search for step in self.steps for search in step.searches]

    @property
    def retrieved(self) -> list[str]:
        """Every label that a search found, in the order found."""
        return self._counting(new for step in self.steps for new in step.added)

    @property
    def shown(self) -> dict[str, str] | None:
        """The shortlist as the selector was shown it: texts by id, in order, None where the log does not say."""
        select = self._select
        return None if select is None or select.shown is None else {shown.id: shown.text for shown in select.shown}

    @property
    def shortlist(self) -> list[str]:
        """The shortlist in its order."""
        if self.result:
            return self._counting(entry.id for entry in self.result.shortlist)
        return self._counting(self.shown or ())

    @property
    def selection(self) -> Selection | None:
        """The outcome of phase 2, None where it failed or there is no log."""
        select = self._select
        return select.selection if select and select.failure is None else None

    @property
    def scores(self) -> dict[str, float]:
        """The selector's scores, by label, best first."""
        return {key: score for step in self.steps if step.selection for key, score in step.selection.scores.items()}

    @property
    def chosen(self) -> list[str]:
        """The chosen labels."""
        return self._counting(label.id for label in self._choice)

    @property
    def ranking(self) -> list[str]:
        """All labels in the order that the run gives them.

        The chosen ones come first, then the others that the selector judged, then the rest of the shortlist by fused
        score, then the labels that were found and cut. Without a log the ranking ends with the shortlist.
        """
        return list(dict.fromkeys([*self.chosen, *self._counting(self.scores), *self.shortlist, *self.retrieved]))

    @property
    def reasoning(self) -> list[tuple[str, str]]:
        """The model's thoughts and reasons before its answers, each with its phase."""
        return [
            (step.phase, text)
            for step in self.steps
            for reply in (step.exchange.replies if step.exchange else ())
            for text in (reply.reasoning.strip(), _reason(reply.content))
            if text
        ]

    def fates(self) -> dict[str, Fate]:
        """Return the fate of every right label: the step that lost it, or that it was chosen."""
        return {label: self._fate(label) for label in sorted(self.right)}

    def wrong(self) -> list[str]:
        """Return the chosen labels that are not right."""
        return [label for label in self.chosen if label not in self.right] if self.gold else []

    def _fate(self, label: str) -> Fate:
        if label in self.chosen:
            return "chosen"
        if label in self.shortlist:
            return "shortlisted and not chosen"
        if not self.steps:
            return "not on the shortlist"
        return "retrieved and cut" if label in self.retrieved else "never retrieved"

    @property
    def _select(self) -> Transition | None:
        return next((step for step in self.steps if step.node == "select"), None)

    @property
    def _choice(self) -> Sequence[ChosenLabel]:
        if self.result:
            return self.result.labels
        return self.selection.labels if self.selection else []

    def _counting(self, labels: Iterable[str]) -> list[str]:
        filtered = self.gold.filtered if self.gold else frozenset()
        return [label for label in labels if label not in filtered]


def traces(
    results: Iterable[LabeledDocument],
    gold: Mapping[str, Gold] = {},
    steps: Mapping[str, Sequence[Transition]] = {},
    runs: Sequence[Run] = (),
) -> list[Trace]:
    """Return each result with its document's steps and right labels."""
    headers, last = {run.run: run for run in runs}, runs[-1] if runs else None
    logged = [(result, steps.get(result.id, ())) for result in results]
    return [Trace(r.id, s, headers.get(s[0].run, last) if s else last, r, gold.get(r.id)) for r, s in logged]


def read_traces(results: Path, gold: Mapping[str, Gold] = {}, log: Path | None = None) -> list[Trace]:
    """Read a run: its results, its log where it is there, and the right labels in `gold`.

    `log` is by default the one beside the results. Raises UserError for a file with a broken line.
    """
    where = log or log_of(results)
    logged = read_log(where) if log or where.exists() else Log([], {})
    return traces(read_records(results, LabeledDocument), gold, logged.steps, logged.runs)


def _reason(answer: str) -> str:
    """Return the reasoning within a listwise answer."""
    try:
        written = from_json(unfenced(answer))
    except ValueError:
        return ""
    reasoning = written.get("reasoning") if isinstance(written, dict) else None
    return reasoning.strip() if isinstance(reasoning, str) else ""
