"""A corpus's conversations as tokens, exactly as an engine will render them for the student.

`apply_chat_template` renders the prompt alone, as at inference. The completion is the text that it adds for the last
message. Only the completion is learned.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctd_agent.agents.engines.student import Target
from ctd_agent.distill.training.plan import TARGETS
from ctd_agent.errors import UserError

IGNORED = -100  # the label of a token that is not to be learned
Row = dict[str, Any]


@dataclass(frozen=True)
class Tokens:
    """An example: the prompt's tokens, then those to be learned."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def row(self) -> Row:
        """The row that a trainer collates."""
        return {"input_ids": [*self.prompt, *self.completion], "labels": [IGNORED] * len(self.prompt) + self.completion}


def read_rows(corpus: Path, target: Target, split: Literal["train", "dev"]) -> list[Row]:
    """Return the rows of a split that are to be learned, in TRL's format: prompt, completion and perhaps tools.

    Raises UserError for a file that cannot be read.
    """
    return [row for name in TARGETS[target] for row in _rows(corpus / name / split)]


def rendered(rows: Sequence[Row], tokenizer: Any, student: str) -> list[Tokens]:
    """Return rows as tokens by the student's chat template.

    Raises UserError for a student without a chat template, and for one whose template cannot render the rows or
    does not show tools.
    """
    if not tokenizer.chat_template:
        raise UserError(f"{student}: it has no chat template; name a student that is tuned to chat, an -Instruct")
    try:
        made = [_tokens(row, tokenizer) for row in rows]
        shows_tools = all(_shows_tools(row, tokenizer) for row in rows if row.get("tools"))
    except Exception as error:  # a template may raise anything
        raise UserError(f"{student}: its chat template cannot render this corpus: {error}") from error
    if not shows_tools:
        raise UserError(
            f"{student}: its chat template does not show tools, so it cannot learn to call them; "
            "make the corpus with --json-searches"
        )
    return made


def _rows(path: Path) -> Iterator[Row]:
    lines, table = path.with_suffix(".jsonl"), path.with_suffix(".parquet")
    try:
        if lines.is_file():
            with lines.open(encoding="utf-8") as file:
                yield from map(json.loads, file)
        elif table.is_file():
            import pyarrow.parquet as pq

            # Messages and tools are strings of JSON there (formats.table).
            for row in pq.read_table(table).to_pylist():
                yield {name: list(map(json.loads, column)) for name, column in row.items() if column is not None}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}; make the corpus again") from error


def _tokens(row: Row, tokenizer: Any) -> Tokens:
    prompt = _apply(tokenizer, row["prompt"], row, add_generation_prompt=True)
    whole = _apply(tokenizer, [*row["prompt"], *row["completion"]], row)
    # Some templates end a prompt with text that they drop from a finished turn, such as an empty thought.
    # Inference sends it, so it stays in the prompt. The completion follows the part in common.
    common = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    return Tokens(prompt, whole[common:])


def _shows_tools(row: Row, tokenizer: Any) -> bool:
    return bool(_apply(tokenizer, row["prompt"], row) != _apply(tokenizer, row["prompt"], {}))


def _apply(tokenizer: Any, messages: list[Row], row: Row, **options: Any) -> list[int]:
    tools = row.get("tools") or None
    made: list[int] = tokenizer.apply_chat_template(messages, tools=tools, return_dict=False, **options)
    return made
