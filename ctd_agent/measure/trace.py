"""A document of a run as it can be read afterwards: its steps, its result, its right labels."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from heapq import nsmallest
from pathlib import Path
from sys import intern
from typing import Literal

from pydantic_core import from_json

from ctd_agent.agents.selecting.listwise import unfenced
from ctd_agent.errors import UserError
from ctd_agent.graphs.logged import Log, read_log
from ctd_agent.graphs.transitions import Run, Transition, log_of
from ctd_agent.records import read_lines, read_records, validated
from ctd_agent.schema import ChosenLabel, Gold, LabeledDocument, SearchResult, Selection, ShortlistEntry

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
        if self.gold is None:
            return frozenset()
        return self.gold.labels - self.gold.filtered if self.gold.filtered else self.gold.labels

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


class Traces(Iterable[Trace]):
    """The documents of a run, read from its files anew by each loop over them, one at a time.

    `outline` leaves out what `outlined` says. `only` are the ids of the documents that count, None for all.
    """

    def __init__(
        self,
        results: Path,
        gold: Mapping[str, Gold],
        log: Log | None,
        outline: bool = False,
        only: Collection[str] | None = None,
    ) -> None:
        self._results, self._gold, self._log, self._outline, self._only = results, gold, log, outline, only
        self._headers = {run.run: run for run in log.runs} if log else {}

    @property
    def logged(self) -> bool:
        """Whether a document of the run has steps."""
        return bool(self._log and self._log.steps)

    @property
    def last(self) -> Run | None:
        """The header of the log's last run, None without a log."""
        return self._log.runs[-1] if self._log and self._log.runs else None

    def without_log(self) -> "Traces":
        """Return the same results without their log."""
        return Traces(self._results, self._gold, None)

    def outlined(self) -> "Traces":
        """Return the same run without exchanges, texts, searches, what was shown, and where candidates were found."""
        return Traces(self._results, self._gold, self._log, outline=True)

    def sample(self, size: int) -> "Traces":
        """Return so many of its documents, drawn by a hash of their ids, or all."""
        ids = (result.id for result in self.outlined()._read())
        drawn = {*nsmallest(size, ids, key=lambda document: blake2b(document.encode(), digest_size=8).digest())}
        return Traces(self._results, self._gold, self._log, only=drawn)

    def __iter__(self) -> Iterator[Trace]:
        for result in self._read():
            if self._only is not None and result.id not in self._only:
                continue
            yield Trace(result.id, *self._steps(result), result, self._gold.get(result.id))

    def _read(self) -> Iterator[LabeledDocument]:
        if not self._outline:
            yield from read_records(self._results, LabeledDocument)
            return
        for line in read_lines(self._results):
            yield validated(f"{line.place}: not a LabeledDocument", _outlined, line.data)

    def _steps(self, result: LabeledDocument) -> tuple[Sequence[Transition], Run | None]:
        if self._log is None:
            return (), None
        if result.run and result.run not in self._headers:
            raise UserError(
                f"{self._results}: the result of {result.id!r} is of run {result.run}, which its log has not; "
                f"give --log the log of these results"
            )
        steps = self._log.steps.of(result.id, result.run, self._outline)
        return steps, self._headers.get(steps[0].run, self.last) if steps else self.last


def _outlined(line: bytes) -> LabeledDocument:
    """Return a result whose shortlist does not say where a candidate was found: that is most of it."""
    with suppress(ValueError, TypeError, KeyError):
        fields = from_json(line)
        entries = [ShortlistEntry(intern(entry["id"]), entry["score"], []) for entry in fields["shortlist"]]
        rest = LabeledDocument.model_validate({**fields, "shortlist": []})
        return rest.model_copy(update={"shortlist": entries})
    return LabeledDocument.model_validate_json(line)


def traces(results: Iterable[LabeledDocument], gold: Mapping[str, Gold] = {}) -> list[Trace]:
    """Return results with their right labels, without a log."""
    return [Trace(result.id, result=result, gold=gold.get(result.id)) for result in results]


def read_traces(results: Path, gold: Mapping[str, Gold] = {}, log: Path | None = None) -> Traces:
    """Return a run: its results, its log where it is there, and the right labels in `gold`.

    `log` is by default the one beside the results. Raises UserError for a log with a broken line. A loop over the
    documents raises it for a broken line of the results, and for a result of a run that the log does not have.
    """
    where = log or log_of(results)
    return Traces(results, gold, read_log(where) if log or where.exists() else None)


def _reason(answer: str) -> str:
    """Return the reasoning within a listwise answer."""
    try:
        written = from_json(unfenced(answer))
    except ValueError:
        return ""
    reasoning = written.get("reasoning") if isinstance(written, dict) else None
    return reasoning.strip() if isinstance(reasoning, str) else ""
