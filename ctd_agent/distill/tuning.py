"""A language model tuned on tokens, by TRL and PEFT; on a processor, a GPU, or several under `accelerate launch`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from ctd_agent.console import progress
from ctd_agent.distill.loss_curve import write_losses
from ctd_agent.distill.rendered import Tokens
from ctd_agent.distill.training import Plan
from ctd_agent.errors import UserError

EXAMPLES_A_STEP = 16  # of the optimiser, on however many devices
EPOCHS = 3.0
LEARNING_RATE = {True: 2e-4, False: 2e-5}  # of adapters, of all weights
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
LOOKS = 0.1  # of all steps, after which the dev loss is looked at and a checkpoint written
PATIENCE = 3  # looks without a better dev loss


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
    datasets.disable_progress_bars()


@contextmanager
def memory_suffices(plan: Plan) -> Iterator[None]:
    """Turn what says that memory is used up into a UserError that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own, a GPU's and a CPU's, are RuntimeErrors
        words = str(error).lower()
        if not isinstance(error, MemoryError) and "out of memory" not in words and "not enough memory" not in words:
            raise
        ways = ["make the corpus with a lower --max-tokens", "name a smaller student"]
        if plan.lora is False:
            ways.insert(0, "train adapters (LoRA) instead of all weights")
        if plan.batch != 1:
            ways.insert(0, "lower the batch")
        raise UserError(f"out of memory: {', or '.join(ways)}") from error


def load(student: str, plan: Plan) -> tuple[Any, Any]:
    """Return a student's tokenizer and model. Raises UserError where there is none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Weights that are themselves trained need more than 16 bits: a step is smaller than their last digit.
    dtype = torch.bfloat16 if plan.lora is not False and bf16() else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(student)
        return tokenizer, AutoModelForCausalLM.from_pretrained(student, dtype=dtype)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each format and the hub have their own
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{student}: cannot be loaded as a language model: {reason}; name a folder with config.json, "
            "model.safetensors and a tokenizer, or OWNER/REPO on the Hugging Face Hub"
        ) from error


def bf16() -> bool:
    """Tell whether this machine's hardware computes in bfloat16 at full speed."""
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def tuned(model: Any, tokenizer: Any, examples: Sequence[Tokens], dev: Sequence[Tokens], out: Path, plan: Plan) -> Any:
    """Return a trainer that is done, with the best of its checkpoints loaded."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer

    stops = [EarlyStoppingCallback(early_stopping_patience=PATIENCE)] if dev and not plan.steps else []
    with ExitStack() as stack:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(examples, bool(dev), out, plan),
            train_dataset=Dataset.from_list([one.row for one in examples]),
            eval_dataset=Dataset.from_list([one.row for one in dev]) if dev else None,
            processing_class=tokenizer,
            peft_config=None if plan.lora is False else LoraConfig(**LORA),
            callbacks=[*stops, watch(out, stack)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=last_checkpoint(out))
    return trainer


def _arguments(examples: Sequence[Tokens], dev: bool, out: Path, plan: Plan) -> Any:  # long by its settings
    import torch
    from trl import SFTConfig

    gpu = torch.cuda.is_available()
    if gpu and torch.cuda.device_count() > 1 and "RANK" not in os.environ:
        raise UserError(
            f"{torch.cuda.device_count()} GPUs are visible: run `accelerate launch -m ctd_agent ...` to train on all, "
            "or set CUDA_VISIBLE_DEVICES=0 for one"
        )
    batch = plan.batch or (8 if gpu else 1)
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    together = max(1, round(EXAMPLES_A_STEP / (batch * devices)))
    steps = ceil((plan.epochs or EPOCHS) * ceil(len(examples) / (batch * devices * together)))
    if plan.steps:
        steps = min(plan.steps, steps) if plan.epochs else plan.steps
    return SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=together,
        learning_rate=plan.learning_rate or LEARNING_RATE[plan.lora is not False],
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_length=None,  # none is too long, so none is cut
        train_sampling_strategy="group_by_length",  # hardly any padding
        bf16=bf16(),
        gradient_checkpointing=gpu,  # its memory is dear; a processor's time is
        dataloader_pin_memory=gpu,
        seed=plan.seed,
        logging_steps=LOOKS / 5,
        eval_strategy="steps" if dev else "no",
        eval_steps=LOOKS,
        save_steps=LOOKS,
        save_total_limit=2,
        load_best_model_at_end=dev,
        metric_for_best_model="loss",
        disable_tqdm=True,
        report_to="none",
    )


def last_checkpoint(out: Path) -> str | None:
    """Return the last checkpoint that is whole: the trainer's state is the last that is written of one."""
    whole = [path.parent for path in (out / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def watch(out: Path, stack: ExitStack) -> Any:
    """Return a callback that shows progress, closed with the stack, and writes the losses so far."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
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
