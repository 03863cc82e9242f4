"""A corpus of logs: a folder that trainers load as it is, with a card of its contents.

FOLDER/card.json, README.md                             its contents, for machines, people and hubs
FOLDER/{shortlist,select,standard}/{train,dev}.jsonl    conversations, in one trainer's format
FOLDER/encoder/{train,dev}.jsonl                        Judgement records, for encoders
"""

import json
import random
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Literal

from ctd_agent.agents.manner import Manner
from ctd_agent.agents.prompts import VERSIONS
from ctd_agent.distill.corpus.card import Card, Counts, readme
from ctd_agent.distill.corpus.conversations import Conversation, Judgement, conversations, judgement, tokens
from ctd_agent.distill.corpus.formats import FORMATS, Row, table
from ctd_agent.distill.corpus.lessons import CORPORA, Count, Gates, Lesson, learn, read_runs, reasoning
from ctd_agent.distill.corpus.repetitions import without_repetitions
from ctd_agent.errors import UserError
from ctd_agent.records import put_in_place, write_text
from ctd_agent.schema import Gold

Split = Literal["train", "dev"]
SPLITS: tuple[Split, ...] = ("train", "dev")


@dataclass(frozen=True)
class Recipe:
    """How a corpus is made of logs.

    `dev` is the share of documents held out. Conversations of more than `max_tokens` are dropped. With `equal_tokens`
    both phases together and the standard corpus have the same number of tokens, or nearly. `tool_calls` says whether
    students search by tool calls or in JSON, None as the teacher did. `format` is one of `formats.FORMATS`.
    """

    gates: Gates = field(default_factory=Gates)
    seed: int = 0
    dev: float = 0.1
    max_tokens: int | None = None
    equal_tokens: bool = False
    reasoning: bool = True
    tool_calls: bool | None = None
    format: str = "trl"
    parquet: bool = False
    licence: str = "unknown"


class _Part(Iterable[Conversation]):
    """One split of one corpus: conversations made anew by each loop over them, without those that were dropped."""

    def __init__(self, lessons: Sequence[Lesson], make: Callable[[Lesson], Iterator[Conversation]]) -> None:
        self._lessons, self._make = lessons, make
        self.lengths = array("l", (tokens(made) for lesson in lessons for made in make(lesson)))
        self._dropped = bytearray(len(self.lengths))

    def drop(self, places: Iterable[int]) -> int:
        """Drop conversations, each once, by place. Return how many."""
        dropped = list(places)
        for place in dropped:
            self._dropped[place] = 1
        return len(dropped)

    @property
    def left(self) -> list[int]:
        """The places of those that are left."""
        return [place for place, dropped in enumerate(self._dropped) if not dropped]

    def __iter__(self) -> Iterator[Conversation]:
        all_made = (made for lesson in self._lessons for made in self._make(lesson))
        return (made for made, dropped in zip(all_made, self._dropped, strict=True) if not dropped)


@dataclass(frozen=True)
class _Draft:
    """A corpus that is not written yet: its lessons by split, its parts by corpus and split, the numbers dropped."""

    lessons: dict[Split, Sequence[Lesson]]
    parts: dict[str, dict[Split, _Part]]
    credit: bool
    too_long: Counter[str]
    over_budget: Counter[str]

    def judgements(self, split: Split) -> Iterator[Judgement]:
        """Yield the encoders' examples of a split."""
        return (judgement(lesson, self.credit) for lesson in self.lessons[split])


def make_corpus(
    logs: Sequence[Path], gold: Mapping[str, Gold] | None, recipe: Recipe, out: Path
) -> Card:  # long by the card's fields
    """Make a corpus of transitions logs in the new folder `out`, and return its card.

    With several logs a document's best run teaches each phase. The folder is there when it is whole.
    Raises UserError for logs that cannot be read or do not belong together, for a format that there is not, where
    nothing passes any gate, and for a folder that is not empty.

    >>> make_corpus([Path("run.jsonl.transitions.jsonl")], None, Recipe(), Path("corpus"))
    Traceback (most recent call last):
    ctd_agent.errors.UserError: run.jsonl.transitions.jsonl: cannot be read: No such file or directory
    """
    if recipe.format not in FORMATS:
        raise UserError(f"format {recipe.format!r}: not one of {', '.join(FORMATS)}")
    _check_new(out)
    runs, traces = read_runs(logs)
    lessons, count = learn(traces, gold, recipe.gates)
    if not lessons:
        raise UserError(_nothing(count, recipe, gold is not None))
    manner = _manner(lessons, recipe)
    fresh, repeated, nearly = without_repetitions(lessons, recipe.seed)
    draft = _drafted(fresh, manner, recipe)
    card = Card(
        version=version("ctd-agent"),
        teachers=sorted({spec for run in runs for spec in (run.shortlister, run.selector)}),
        task=runs[0].task,
        teacher_prompts=runs[0].prompts,
        student_prompts={name: VERSIONS[prompt] for name, prompt in _PROMPTS[manner.reasons].items()},
        catalogue=runs[0].catalogue,
        labels=runs[0].labels,
        embedder=runs[0].embedder,
        licence=recipe.licence,
        gold=gold is not None,
        minimum_recall=recipe.gates.recall,
        minimum_f1=recipe.gates.f1,
        format=recipe.format,
        manner=manner,
        credit=recipe.gates.credit,
        seed=recipe.seed,
        documents=count.documents,
        without_right_labels=count.without,
        repeated=repeated,
        nearly_repeated=nearly,
        coverage=len(_taught(draft.judgements("train"))) / runs[0].labels,
        corpora={name: _counts(name, draft, count) for name in CORPORA},
    )
    _write(out, card, draft, recipe)
    return card


def _check_new(out: Path) -> None:
    if not out.name:
        raise UserError(f"{out}: this folder is in use; name a new one")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something here already; name another folder, or delete this one")


_PROMPTS = {
    reasons: {"shortlist": "shortlist", "select": select, "standard": "standard"}
    for reasons, select in ((True, "naming"), (False, "naming-direct"))
}


def _nothing(count: Count, recipe: Recipe, gold: bool) -> str:
    if count.without == count.documents:
        whose = "none of these documents has labels in --gold" if gold else "the teacher chose no label at all"
        return f"nothing to learn from {count.documents} documents: {whose}"
    dropped = ", ".join(f"{name}: {sum(kinds.values())} dropped" for name, kinds in count.dropped.items())
    return (
        f"no run passes any gate ({dropped}), so nothing is written; lower --min-recall (now {recipe.gates.recall:g}) "
        f"or --min-f1 (now {recipe.gates.f1:g})"
    )


def _manner(lessons: Sequence[Lesson], recipe: Recipe) -> Manner:
    """Return how students are asked: as the teacher was, but for the recipe's own settings."""
    native = reasons = False
    for lesson in lessons:  # one at a time: exchanges are most of a log
        for trace in filter(None, (lesson.shortlist, lesson.select, lesson.standard)):
            native |= any("tools" in step.exchange.options for step in trace.steps if step.exchange)
            reasons |= bool(reasoning(trace))
    chose = [lesson.select for lesson in lessons if lesson.select] or [
        trace for lesson in lessons for trace in (lesson.shortlist, lesson.standard) if trace
    ]
    return Manner(
        native_tools=native if recipe.tool_calls is None else recipe.tool_calls,
        reasons=recipe.reasoning and reasons,
        names=True,
        candidates=max(trace.run.budget.candidates for trace in chose if trace.run),
    )


def _drafted(lessons: Sequence[Lesson], manner: Manner, recipe: Recipe) -> _Draft:
    held_out, credit = round(recipe.dev * len(lessons)), recipe.gates.credit
    # Training first: of a dataset's splits the first says which types its columns have.
    splits: dict[Split, Sequence[Lesson]] = {"train": lessons[held_out:], "dev": lessons[:held_out]}
    parts = {
        name: {
            split: _Part(part, partial(conversations, corpus=name, manner=manner, credit=credit))
            for split, part in splits.items()
        }
        for name in CORPORA
    }
    draft = _Draft(splits, parts, credit, too_long=Counter(), over_budget=Counter())
    if recipe.max_tokens is not None:
        for name, of_split in parts.items():
            for part in of_split.values():
                draft.too_long[name] += part.drop(
                    n for n, length in enumerate(part.lengths) if length > recipe.max_tokens
                )
    if recipe.equal_tokens:
        _equalise(draft, recipe.seed)
    return draft


def _equalise(draft: _Draft, seed: int) -> None:
    """Drop training conversations of the larger side: both phases together against the standard corpus."""
    train = {name: parts["train"] for name, parts in draft.parts.items()}
    phases = [(name, place) for name in ("shortlist", "select") for place in train[name].left]
    random.Random(seed).shuffle(phases)  # noqa: S311 - an order, no secret
    sides = [phases, [("standard", place) for place in train["standard"].left]]
    budget = min(sum(train[name].lengths[place] for name, place in side) for side in sides)
    for side in sides:
        spent = accumulate(train[name].lengths[place] for name, place in side)
        over = [made for made, so_far in zip(side, spent, strict=True) if so_far > budget]
        for part in {name for name, _ in side}:
            draft.over_budget[part] = train[part].drop(place for name, place in over if name == part)


def _counts(name: str, draft: _Draft, count: Count) -> Counts:
    train, dev = (draft.parts[name][split] for split in SPLITS)
    return Counts(
        kept=count.kept[name],
        dropped=dict(count.dropped[name]),
        too_long=draft.too_long[name],
        over_budget=draft.over_budget[name],
        train=len(train.left),
        dev=len(dev.left),
        tokens=sum(train.lengths[place] for place in train.left),
    )


def _taught(judgements: Iterable[Judgement]) -> set[str]:
    """Return the labels that a phase learns to find or to choose."""
    taught: set[str] = set()
    for judged in judgements:
        taught.update(judged.shortlist.near if judged.shortlist else ())
        taught.update(pair.label for pair in judged.select or () if pair.target)
    return taught


def _write(out: Path, card: Card, draft: _Draft, recipe: Recipe) -> None:
    """Write the folder beside its place, then put it there: half a corpus is none."""
    beside, trainer = out.with_name(f".{out.name}.part"), FORMATS[recipe.format]
    try:
        shutil.rmtree(beside, ignore_errors=True)
        files = [
            _write_rows(beside, f"{name}/{split}", map(trainer.row, part), recipe.parquet)
            for name, parts in draft.parts.items()
            for split, part in parts.items()
            if part.left
        ]
        judged = [
            _write_rows(
                beside, f"encoder/{split}", (judged.model_dump() for judged in draft.judgements(split)), recipe.parquet
            )
            for split, lessons in draft.lessons.items()
            if lessons
        ]
        for name, content in trainer.files.items():
            write_text(beside / name, json.dumps(content(files), indent=1))
        write_text(beside / "README.md", readme(card, [*files, *judged]))
        write_text(beside / "card.json", card.model_dump_json(indent=1) + "\n")
        if out.exists():
            out.rmdir()
        put_in_place(beside, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_rows(folder: Path, name: str, rows: Iterable[Row], parquet: bool) -> str:
    """Write rows as JSONL, one by one, or as Parquet, all at once. Return the file's path in the folder."""
    path = folder / f"{name}.{'parquet' if parquet else 'jsonl'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if parquet:
        import pyarrow.parquet as pq

        pq.write_table(table([*rows]), path)
    else:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return str(path.relative_to(folder))
