"""A student from a corpus: what is common to students that write and to encoders."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctd_agent.agents.student import Kind, Student, Target, read_student
from ctd_agent.console import progress
from ctd_agent.distill.card import Card
from ctd_agent.distill.training.loss_curve import write_losses
from ctd_agent.errors import UserError
from ctd_agent.records import validated

TARGETS: dict[Target, tuple[str, ...]] = {
    "both": ("shortlist", "select"),
    "shortlist": ("shortlist",),
    "select": ("select",),
    "standard": ("standard",),
}


@dataclass(frozen=True)
class Plan:
    """How a student is trained; None is what fits it.

    `target` is what it learns: a phase, both, or the whole output. `epochs` bounds the passes over the corpus,
    `steps` the optimiser's steps. An encoder reads `max_length` tokens of a text. `lora`: of a model that writes
    adapters are trained and merged, else all weights.
    """

    target: Target = "both"
    seed: int = 0
    epochs: float | None = None
    steps: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    lora: bool | None = None


def read_card(corpus: Path) -> Card:
    """Return a corpus's card. Raises UserError where the folder is no corpus."""
    try:
        text = (corpus / "card.json").read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{corpus}: no corpus; make one: ctd-agent distill corpus LOG --out {corpus} ({error.strerror})"
        ) from error
    return validated(f"{corpus / 'card.json'}: not a corpus's card", Card.model_validate_json, text)


@dataclass(frozen=True)
class Course:
    """One student's training: from which corpus and base model, into which folder.

    `start` has the weights to begin with, where they are not the base's own.
    """

    corpus: Path
    card: Card
    base: str
    out: Path
    plan: Plan
    start: Path | None = None

    def student(self, kind: Kind, target: Target, **known: Any) -> Student:
        """Return the trained student's card."""
        return Student(
            kind=kind,
            base=self.base,
            target=target,
            teachers=self.card.teachers,
            task=self.card.task,
            catalogue=self.card.catalogue,
            seed=self.plan.seed,
            **known,
        )


def digest(rows: Sequence[Any]) -> str:
    """Return what tells these rows from others."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def claim(out: Path, training: Mapping[str, Any]) -> Student | None:
    """Return the student that this training has made in `out`, None where it is to begin or to go on."""
    path = out / "training.json"
    try:
        if first_process():  # the others would come upon what it has just begun
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
            _check_own(out, before, training)
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be used: {error}") from error
    return read_student(out)


def _check_own(out: Path, before: Any, training: Mapping[str, Any]) -> None:
    if before is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something here already; name another folder, or delete this one")
    if before is not None and before != training:
        changed = ", ".join(key for key in training if before.get(key) != training[key])
        raise UserError(f"{out}: what is trained here is another ({changed}); name another folder, or delete it")


def first_process() -> bool:
    """Tell whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate tell it


def quieten() -> None:
    """Let the libraries say nothing but errors: what there is to see is ours to show."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


@contextmanager
def memory_suffices(plan: Plan, shorten: str) -> Iterator[None]:
    """Turn what says that memory is used up into a UserError that says what to do; `shorten` makes texts shorter."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own, a GPU's and a CPU's, are RuntimeErrors
        words = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in words and "not enough memory" not in words:
            raise
        ways = [shorten, "name a smaller student"]
        if plan.lora is False:
            ways.insert(0, "train adapters (LoRA) instead of all weights")
        if plan.batch != 1:
            ways.insert(0, "lower the batch")
        raise UserError(f"out of memory: {', or '.join(ways)}") from error


def bf16() -> bool:
    """Tell whether this machine's hardware computes in bfloat16 at full speed."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def last_checkpoint(out: Path) -> str | None:
    """Return the last checkpoint that is whole: the trainer's state is the last that is written of one."""
    whole = [path.parent for path in (out / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def watch(out: Path, stack: ExitStack) -> Any:
    """Return a callback that shows progress, closed with the stack, and writes the losses so far."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc] # untyped where it is not installed
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                self.show = stack.enter_context(progress("training", state.max_steps, state.global_step))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                self.show(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                write_losses(out, state.log_history)

    return Watch()
