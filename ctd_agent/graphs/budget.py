"""The bounds on the cost of one document."""

from typing import Any

from pydantic import model_validator

from ctd_agent.agents.engines import Model
from ctd_agent.agents.selecting import way_of
from ctd_agent.errors import UserError
from ctd_agent.schema import Record


class Budget(Record):
    """The bounds on the cost of one document. Raises UserError for a number below zero.

    `turns` and `searches` are the model's in phase 1. `candidates` of the document's own search go on the shortlist,
    and half as many of the model's. `tokens` are those of all prompts and answers, without those that the engine's
    cache spared; `seconds` are of wall time. Of a longer document the first `document` bytes of UTF-8 are read: no
    tokenizer makes more tokens than that. A call under way is not cut off.

    >>> Budget(turns=1).candidates
    50
    """

    turns: int = 3
    searches: int = 16
    candidates: int = 50
    tokens: int = 50_000
    seconds: float = 600.0
    document: int = 8_000

    @model_validator(mode="after")
    def _not_negative(self) -> "Budget":
        if min(self.model_dump().values()) < 0:
            raise UserError(f"a budget is never below zero: {self}")
        return self

    @classmethod
    def fitting(cls, shortlister: Model, selector: Model, **wanted: float | None) -> "Budget":
        """Return the budget that pays for these models, but for the numbers that are `wanted` and not None.

        Searches of a small model found no more than the document's own, and a question a candidate is dear
        (docs/results.md). A student gets as many candidates as it was taught with.
        """
        fitting: dict[str, Any] = {} if shortlister.searches else {"turns": 0}
        if few := way_of(selector).candidates or selector.manner.candidates:
            fitting["candidates"] = few
        return cls(**fitting | {name: number for name, number in wanted.items() if number is not None})
