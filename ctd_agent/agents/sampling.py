"""How a phase samples: temperature, seed, answer tokens, thinking tokens."""

from typing import Any

from pydantic import Field, ValidationError

from ctd_agent.errors import UserError
from ctd_agent.schema import Record


class Sampling(Record):
    """The sampling of a phase. `max_tokens` None is left to the phase, `seed` None to the engine.

    `max_tokens` bounds an answer, `thinking` the reasoning before it, 0 for none. Where the engine counts both
    together, `thinking` comes on top of `max_tokens`.

    >>> Sampling(temperature=0.6).options(max_tokens=100)
    {'temperature': 0.6, 'max_tokens': 100}
    """

    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    seed: int | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    thinking: int | None = Field(default=None, ge=0)

    @classmethod
    def parse(cls, text: str) -> "Sampling":
        """Return the sampling that a text names. Raises UserError for a name or a value that does not fit.

        >>> Sampling.parse("temperature=0.6,seed=1").seed
        1
        """
        pairs = [part.partition("=")[::2] for part in text.split(",") if part.strip()]
        try:
            return cls.model_validate({key.strip(): value.strip() for key, value in pairs})
        except ValidationError as error:
            wrong = error.errors()[0]
            field = ".".join(map(str, wrong["loc"]))
            known = ", ".join(cls.model_fields)
            raise UserError(f"sampling {text!r}: {field}: {wrong['msg']}; it is KEY=VALUE,... of {known}") from error

    def options(self, max_tokens: int) -> dict[str, Any]:
        """Return the options of a call whose answer takes `max_tokens` unless this says otherwise."""
        tokens = (self.max_tokens or max_tokens) + (self.thinking or 0)
        chosen = {"temperature": self.temperature, "seed": self.seed, "max_tokens": tokens, "thinking": self.thinking}
        return {name: value for name, value in chosen.items() if value is not None}


GREEDY = Sampling()
