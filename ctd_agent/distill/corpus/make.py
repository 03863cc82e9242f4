"""Examples to a corpus: a folder that trainers load as it is, with a card that says what is in it.

FOLDER/card.json, README.md                             what is in it, for machines, people and hubs
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

from ctd_agent.agents.prompts import VERSIONS
from ctd_agent.distill.card import Card, Counts, readme
from ctd_agent.distill.examples import Example, Form, Judgement, conversations, judgement
from ctd_agent.distill.formats import FORMATS, Format, Row, dataset_info, table
from ctd_agent.distill.supervision import CORPORA, Count, Gates, Lesson, learn, read_episodes
from ctd_agent.errors import UserError
from ctd_agent.schema import Gold

Split = Literal["train", "dev"]
NEARLY = 0.9  # of the words of two texts: Jaccard similarity from which one repeats the other
PERMUTATIONS = 128  # of MinHash


@dataclass(frozen=True)
class Recipe:
    """How a corpus is made of logs.

    `dev` is the share of documents held out. Examples of more than `max_tokens` are dropped; with
    `equal_tokens` both phases together and the standard corpus have the same number of them, or nearly.
    `searches` says whether students search by tool calls or in JSON, None as the teacher did.
    """

    gates: Gates = field(default_factory=Gates)
    seed: int = 0
    dev: float = 0.1
    max_tokens: int | None = None
    equal_tokens: bool = False
    reasoning: bool = True
    tool_calls: bool | None = None
    format: Format = "trl"
    parquet: bool = False
    licence: str = "unknown"


@dataclass(frozen=True)
class _Draft:
    """A corpus that is not written yet: examples by corpus and split, and what was dropped."""

    examples: dict[str, dict[Split, list[Example]]]
    judgements: dict[Split, list[Judgement]]
    too_long: Counter[str]
    over_budget: Counter[str]


def make_corpus(logs: Sequence[Path], gold: Mapping[str, Gold] | None, recipe: Recipe, out: Path) -> Card:
    """Make a corpus of transitions logs in the new folder `out`, and return its card.

    With several logs a document's best run teaches each phase. The folder is there when it is whole.
    Raises UserError for logs that cannot be read or do not belong together, where nothing passes any gate,
    and for a folder that has something in it.
    """
    _check_new(out)
    runs, episodes = read_episodes(logs)
    lessons, count = learn(episodes, gold, recipe.gates)
    if not lessons:
        raise UserError(_nothing(count, recipe, gold is not None))
    form = _form(lessons, recipe)
    fresh, repeated, nearly = _without_repetitions(lessons, recipe.seed)
    draft = _drafted(fresh, form, recipe)
    card = Card(
        version=version("ctd-agent"),
        teachers=sorted({spec for run in runs for spec in (run.shortlister, run.selector)}),
        task=runs[0].task,
        teacher_prompts=runs[0].prompts,
        student_prompts={name: VERSIONS[prompt] for name, prompt in _PROMPTS[form.reasons].items()},
        catalogue=runs[0].catalogue,
        labels=runs[0].labels,
        embedder=runs[0].embedder,
        licence=recipe.licence,
        gold=gold is not None,
        minimum_recall=recipe.gates.recall,
        minimum_f1=recipe.gates.f1,
        format=recipe.format,
        form=form,
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


def _form(lessons: Sequence[Lesson], recipe: Recipe) -> Form:
    """Return how students are asked: as the teacher was, but for what the recipe says."""
    episodes = [episode for one in lessons for episode in (one.shortlist, one.select, one.standard) if episode]
    native = any(episode.native for episode in episodes) if recipe.tool_calls is None else recipe.tool_calls
    reasons = recipe.reasoning and any(episode.reasoning for episode in episodes)
    chose = [one.select for one in lessons if one.select] or episodes
    candidates = max(int(episode.run.budget["candidates"]) for episode in chose)
    return Form(native=native, reasons=reasons, candidates=candidates, credit=recipe.gates.credit)


def _without_repetitions(lessons: Sequence[Lesson], seed: int) -> tuple[list[Lesson], int, int]:
    """Return the lessons in an order shuffled by seed, without those whose text repeats another's, or nearly.

    Nearly is a Jaccard similarity of their words of 0.9; MinHash finds whom to compare (Broder 1997).
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


def _drafted(lessons: Sequence[Lesson], form: Form, recipe: Recipe) -> _Draft:
    held_out = round(recipe.dev * len(lessons))
    # Training first: of a dataset's splits the first says which types its columns have.
    splits: dict[Split, Sequence[Lesson]] = {"train": lessons[held_out:], "dev": lessons[:held_out]}
    draft = _Draft(
        examples={
            name: {split: [e for one in part for e in conversations(one, name, form)] for split, part in splits.items()}
            for name in CORPORA
        },
        judgements={split: [judgement(lesson, form) for lesson in part] for split, part in splits.items()},
        too_long=Counter(),
        over_budget=Counter(),
    )
    for name, parts in draft.examples.items():
        for split, examples in parts.items():
            kept = [one for one in examples if recipe.max_tokens is None or tokens(one) <= recipe.max_tokens]
            draft.too_long[name] += len(examples) - len(kept)
            parts[split] = kept
    if recipe.equal_tokens:
        _equalise(draft, recipe.seed)
    return draft


def _equalise(draft: _Draft, seed: int) -> None:
    """Cut training examples of the larger side: both phases together against the standard corpus."""
    train = {name: parts["train"] for name, parts in draft.examples.items()}
    phases = [("shortlist", one) for one in train["shortlist"]] + [("select", one) for one in train["select"]]
    random.Random(seed).shuffle(phases)  # noqa: S311 - an order, no secret
    sides = [phases, [("standard", one) for one in train["standard"]]]
    budget = min(sum(tokens(one) for _, one in side) for side in sides)
    for side in sides:
        spent = accumulate(tokens(example) for _, example in side)
        kept = {id(example) for (_, example), so_far in zip(side, spent, strict=True) if so_far <= budget}
        for name in {name for name, _ in side}:
            before = len(train[name])
            train[name][:] = [example for example in train[name] if id(example) in kept]
            draft.over_budget[name] = before - len(train[name])


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(__file__).parent.parent / "tools" / "minilm" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokens(example: Example) -> int:
    """Return an example's length in tokens of a neutral tokenizer: a student's own counts a little differently."""
    text = json.dumps([*example.messages, *example.tools], ensure_ascii=False)
    return len(_tokenizer().encode(text, add_special_tokens=False).ids)


def _counts(name: str, draft: _Draft, count: Count) -> Counts:
    parts = draft.examples[name]
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
    near = [label for one in judgements if one.shortlist for label in one.shortlist.near]
    return {*near, *(pair.label for one in judgements for pair in one.select or () if pair.target)}


def _write(out: Path, card: Card, draft: _Draft, recipe: Recipe) -> None:
    """Write the folder beside its place, then put it there: half a corpus is none."""
    beside = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        files = [
            _write_rows(beside, f"{name}/{split}", [FORMATS[recipe.format](one) for one in examples], recipe.parquet)
            for name, parts in draft.examples.items()
            for split, examples in parts.items()
            if examples
        ]
        judged = [
            _write_rows(beside, f"encoder/{split}", [one.model_dump() for one in judgements], recipe.parquet)
            for split, judgements in draft.judgements.items()
            if judgements
        ]
        if recipe.format == "llamafactory":
            _write_text(beside / "dataset_info.json", json.dumps(dataset_info(files), indent=1))
        _write_text(beside / "README.md", readme(card, [*files, *judged]))
        _write_text(beside / "card.json", card.model_dump_json(indent=1) + "\n")
        if out.exists():
            out.rmdir()
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_rows(folder: Path, name: str, rows: Sequence[Row], parquet: bool) -> str:
    """Write rows as JSONL or Parquet; return the file's path in the folder."""
    path = folder / f"{name}.{'parquet' if parquet else 'jsonl'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if parquet:
        import pyarrow.parquet as pq

        pq.write_table(table(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path.relative_to(folder))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
