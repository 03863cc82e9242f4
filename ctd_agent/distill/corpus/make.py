"""A corpus of logs: a folder that trainers load as it is, with a card of its contents.

FOLDER/card.json, README.md                             its contents, for machines, people and hubs
FOLDER/{shortlist,select,standard}/{train,dev}.jsonl    conversations, in one trainer's format
FOLDER/encoder/{train,dev}.jsonl                        Judgement records, for encoders
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from ctd_agent.agents.manner import Manner
from ctd_agent.agents.prompts import VERSIONS
from ctd_agent.distill.corpus.card import Card, Counts, readme
from ctd_agent.distill.corpus.conversations import Conversation, Judgement, conversations, judgement
from ctd_agent.distill.corpus.formats import FORMATS, Row, table
from ctd_agent.distill.corpus.lessons import CORPORA, Count, Gates, Lesson, learn, read_runs, reasoning
from ctd_agent.errors import UserError
from ctd_agent.records import write_text
from ctd_agent.schema import Gold
from ctd_agent.tools.embedding import minilm_tokenizer

Split = Literal["train", "dev"]
NEARLY = 0.9  # of the words of two texts: Jaccard similarity from which one repeats the other
PERMUTATIONS = 128  # of MinHash


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


@dataclass(frozen=True)
class _Draft:
    """A corpus that is not written yet: conversations by corpus and split, and the numbers dropped."""

    conversations: dict[str, dict[Split, list[Conversation]]]
    judgements: dict[Split, list[Judgement]]
    too_long: Counter[str]
    over_budget: Counter[str]


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
    fresh, repeated, nearly = _without_repetitions(lessons, recipe.seed)
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
        coverage=len(_taught(draft.judgements["train"])) / runs[0].labels,
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
    traces = [trace for lesson in lessons for trace in (lesson.shortlist, lesson.select, lesson.standard) if trace]
    exchanges = [step.exchange for trace in traces for step in trace.steps if step.exchange]
    native = any("tools" in exchange.options for exchange in exchanges)
    chose = [lesson.select for lesson in lessons if lesson.select] or traces
    return Manner(
        native_tools=native if recipe.tool_calls is None else recipe.tool_calls,
        reasons=recipe.reasoning and any(map(reasoning, traces)),
        names=True,
        candidates=max(trace.run.budget.candidates for trace in chose if trace.run),
    )


def _without_repetitions(lessons: Sequence[Lesson], seed: int) -> tuple[list[Lesson], int, int]:
    """Return the lessons in an order shuffled by seed, without those whose text repeats another's, or nearly.

    Nearly means a Jaccard similarity of their words of 0.9. MinHash finds the pairs to compare (Broder 1997).
    """
    from datasketch import MinHash, MinHashLSH

    near, seen = MinHashLSH(threshold=NEARLY, num_perm=PERMUTATIONS), dict[tuple[str, ...], set[str]]()
    fresh: list[Lesson] = []
    repeated = nearly = 0
    order = sorted(lessons, key=lambda lesson: lesson.document)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    for lesson in order:
        words = tuple(lesson.text.casefold().split())
        if words in seen:
            repeated += 1
            continue
        seen[words] = mine = set(words)
        (sketch,) = MinHash.bulk([[word.encode() for word in mine]], num_perm=PERMUTATIONS)
        if any(len(mine & seen[other]) >= NEARLY * len(mine | seen[other]) for other in near.query(sketch)):
            nearly += 1
            continue
        near.insert(words, sketch)
        fresh.append(lesson)
    return fresh, repeated, nearly


def _drafted(lessons: Sequence[Lesson], manner: Manner, recipe: Recipe) -> _Draft:
    held_out = round(recipe.dev * len(lessons))
    # Training first: of a dataset's splits the first says which types its columns have.
    splits: dict[Split, Sequence[Lesson]] = {"train": lessons[held_out:], "dev": lessons[:held_out]}
    credit = recipe.gates.credit
    draft = _Draft(
        conversations={
            name: {
                split: [made for lesson in part for made in conversations(lesson, name, manner, credit)]
                for split, part in splits.items()
            }
            for name in CORPORA
        },
        judgements={split: [judgement(lesson, credit) for lesson in part] for split, part in splits.items()},
        too_long=Counter(),
        over_budget=Counter(),
    )
    for name, parts in draft.conversations.items():
        for split, made in parts.items():
            kept = [c for c in made if recipe.max_tokens is None or tokens(c) <= recipe.max_tokens]
            draft.too_long[name] += len(made) - len(kept)
            parts[split] = kept
    if recipe.equal_tokens:
        _equalise(draft, recipe.seed)
    return draft


def _equalise(draft: _Draft, seed: int) -> None:
    """Drop training conversations of the larger side: both phases together against the standard corpus."""
    train = {name: parts["train"] for name, parts in draft.conversations.items()}
    phases = [(name, conversation) for name in ("shortlist", "select") for conversation in train[name]]
    random.Random(seed).shuffle(phases)  # noqa: S311 - an order, no secret
    sides = [phases, [("standard", conversation) for conversation in train["standard"]]]
    budget = min(sum(tokens(conversation) for _, conversation in side) for side in sides)
    for side in sides:
        spent = accumulate(tokens(conversation) for _, conversation in side)
        kept = {id(made) for (_, made), so_far in zip(side, spent, strict=True) if so_far <= budget}
        for name in {name for name, _ in side}:
            before = len(train[name])
            train[name][:] = [made for made in train[name] if id(made) in kept]
            draft.over_budget[name] = before - len(train[name])


@cache
def _tokenizer() -> Any:
    tokenizer = minilm_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokens(conversation: Conversation) -> int:
    """Return a conversation's length in tokens of a neutral tokenizer. A student's own differs a little."""
    text = json.dumps([*conversation.messages, *conversation.tools], ensure_ascii=False)
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


def _counts(name: str, draft: _Draft, count: Count) -> Counts:
    parts = draft.conversations[name]
    return Counts(
        kept=count.kept[name],
        dropped=dict(count.dropped[name]),
        too_long=draft.too_long[name],
        over_budget=draft.over_budget[name],
        train=len(parts["train"]),
        dev=len(parts["dev"]),
        tokens=sum(map(tokens, parts["train"])),
    )


def _taught(judgements: Sequence[Judgement]) -> set[str]:
    """Return the labels that a phase learns to find or to choose."""
    near = [label for judged in judgements if judged.shortlist for label in judged.shortlist.near]
    return {*near, *(pair.label for judged in judgements for pair in judged.select or () if pair.target)}


def _write(out: Path, card: Card, draft: _Draft, recipe: Recipe) -> None:
    """Write the folder beside its place, then put it there: half a corpus is none."""
    beside, trainer = out.with_name(f".{out.name}.part"), FORMATS[recipe.format]
    try:
        shutil.rmtree(beside, ignore_errors=True)
        files = [
            _write_rows(beside, f"{name}/{split}", list(map(trainer.row, made)), recipe.parquet)
            for name, parts in draft.conversations.items()
            for split, made in parts.items()
            if made
        ]
        judged = [
            _write_rows(beside, f"encoder/{split}", [judged.model_dump() for judged in judgements], recipe.parquet)
            for split, judgements in draft.judgements.items()
            if judgements
        ]
        for name, content in trainer.files.items():
            write_text(beside / name, json.dumps(content(files), indent=1))
        write_text(beside / "README.md", readme(card, [*files, *judged]))
        write_text(beside / "card.json", card.model_dump_json(indent=1) + "\n")
        if out.exists():
            out.rmdir()
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_rows(folder: Path, name: str, rows: Sequence[Row], parquet: bool) -> str:
    """Write rows as JSONL or Parquet. Return the file's path in the folder."""
    path = folder / f"{name}.{'parquet' if parquet else 'jsonl'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if parquet:
        import pyarrow.parquet as pq

        pq.write_table(table(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path.relative_to(folder))
