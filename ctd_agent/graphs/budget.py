"""What one document may cost."""

from dataclasses import astuple, dataclass
from typing import Any

from ctd_agent.agents.models import Model
from ctd_agent.errors import UserError

POINTWISE_CANDIDATES = 20


@dataclass(frozen=True)
class Budget:
    """What one document may cost.

    `turns` and `searches` are the model's in phase 1; `candidates` of the document's own search
    go on the shortlist, and half as many of the model's; `tokens` are those of all prompts and
    answers, but for what the engine's cache spared; `seconds` are of wall time. Of a longer document the
    first `document` bytes of UTF-8 are read: no tokenizer makes more tokens than that.
    A call under way is not cut off. Raises UserError for a number below zero.
    """

    turns: int = 3
    searches: int = 16
    candidates: int = 50
    tokens: int = 50_000
    seconds: float = 600.0
    document: int = 8_000

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0:
            raise UserError(f"a budget is never below zero: {self}")

    @classmethod
    def fitting(cls, shortlister: Model, selector: Model, **asked: float | None) -> "Budget":
        """Return the budget that pays for these models, but for what is asked for and not None.

        Searches of a small model found no more than the document's own, and a question a candidate
        is dear (docs/results.md). A student is asked as it was taught.
        """
        fitting: dict[str, Any] = {} if shortlister.searches else {"turns": 0}
        if few := selector.candidates if selector.listwise else POINTWISE_CANDIDATES:
            fitting["candidates"] = few
        return cls(**fitting | {name: number for name, number in asked.items() if number is not None})
