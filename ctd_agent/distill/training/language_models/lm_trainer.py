"""Tunes a language model on tokens with TRL and PEFT: on a CPU, a GPU, or several under `accelerate launch`."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from math import ceil
from pathlib import Path
from typing import Any

from ctd_agent.distill.training.folder import last_checkpoint
from ctd_agent.distill.training.language_models.rendered import Tokens
from ctd_agent.distill.training.plan import Plan
from ctd_agent.distill.training.runtime import bf16, watch
from ctd_agent.errors import UserError, one_line

EXAMPLES_A_STEP = 8  # of the optimiser's steps, all devices together
EPOCHS = 3.0
LEARNING_RATE = {True: 2e-4, False: 2e-5}  # with adapters, with all weights
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
LOOKS = 0.1  # share of all steps from one dev loss and checkpoint to the next
PATIENCE = 3  # dev losses without a better one, before an early end


def load(student: str, plan: Plan) -> tuple[Any, Any]:
    """Return a base model's tokenizer and weights. Raises UserError where they cannot be loaded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Where all weights are trained, 16 bits are too few: a step is smaller than their last digit.
    dtype = torch.bfloat16 if plan.lora is not False and bf16() else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(student)
        return tokenizer, AutoModelForCausalLM.from_pretrained(student, dtype=dtype)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each file format and the hub raise their own
        raise UserError(
            f"{student}: cannot be loaded as a language model: {one_line(error)}; name a folder with config.json, "
            "model.safetensors and a tokenizer, or OWNER/REPO on the Hugging Face Hub"
        ) from error


def tuned(model: Any, tokenizer: Any, examples: Sequence[Tokens], dev: Sequence[Tokens], out: Path, plan: Plan) -> Any:
    """Train a model. Return its trainer, with the best checkpoint loaded.

    Raises UserError where one process sees several GPUs.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import SFTTrainer

    stops = [EarlyStoppingCallback(early_stopping_patience=PATIENCE)] if dev and not plan.steps else []
    with ExitStack() as stack:
        trainer = SFTTrainer(
            model=model,
            args=_arguments(examples, bool(dev), out, plan),
            train_dataset=Dataset.from_list([tokens.row for tokens in examples]),
            eval_dataset=Dataset.from_list([tokens.row for tokens in dev]) if dev else None,
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
        max_length=None,  # longer examples were left out, so nothing is cut
        train_sampling_strategy="group_by_length",  # hardly any padding
        bf16=bf16(),
        gradient_checkpointing=gpu,  # spares memory, costs time
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
