"""The machine and the libraries under a training: memory, number formats, progress."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ctd_agent.console import progress
from ctd_agent.distill.training.loss_curve import write_losses
from ctd_agent.distill.training.plan import Plan
from ctd_agent.errors import UserError


def quieten() -> None:
    """Silence the libraries except for errors: ctd-agent shows its own progress."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    datasets.disable_progress_bars()


@contextmanager
def memory_suffices(plan: Plan, shorten: str) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError with advice. `shorten` is the advice for shorter texts."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch raises RuntimeErrors, on a GPU and on a CPU
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
    """Tell whether this machine computes in bfloat16 at full speed."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def watch(out: Path, stack: ExitStack) -> Any:
    """Return a callback that shows progress until the stack closes, and writes the losses so far."""
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
