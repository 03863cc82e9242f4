"""An encoder fitted to data by sentence-transformers' trainer: checkpoints, early stop, progress, the loss's curve."""

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from math import ceil
from typing import Any

from ctd_agent.distill.training.course import Course, bf16, first_process, last_checkpoint, memory_suffices, watch

READ = 128  # tokens of a text that an encoder reads
EPOCHS, BATCH = 3.0, 16
LOOKS = 5  # at the dev documents, in a whole training
PATIENCE = 3  # looks that are no better than the best


def fit(
    course: Course,
    kind: tuple[Any, Any],
    model: Any,
    loss: Any,
    data: Mapping[str, Any],
    evaluator: Any,
    best: str,
    rate: float,
) -> None:
    """Train `model` and save it in the course's folder; `kind` is the trainer's class and its arguments'.

    `best` is the evaluator's metric by which a checkpoint is kept and the training ends early; without an evaluator, or
    with a number of steps in the plan, it goes on to its end. What was cut goes on from its last one.
    Raises UserError where memory does not suffice.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    trainer, arguments = kind
    model.model_card_data.generate_widget_examples = False
    dev = evaluator is not None and not course.plan.steps
    stops = [EarlyStoppingCallback(PATIENCE)] if dev else []
    with memory_suffices(course.plan, "lower --max-length"), ExitStack() as stack:
        training = trainer(
            model=model,
            args=arguments(**_arguments(course, len(data["train"]), best if dev else None, rate)),
            train_dataset=data["train"],
            eval_dataset=data["dev"] if dev else None,
            loss=loss,
            evaluator=evaluator if dev else None,
            callbacks=[*stops, watch(course.out, stack)],
        )
        training.remove_callback(PrinterCallback)
        training.train(resume_from_checkpoint=last_checkpoint(course.out))
    training.accelerator.wait_for_everyone()  # for all to have read the best checkpoint
    if first_process():
        model.save_pretrained(str(course.out))
        shutil.rmtree(course.out / "checkpoints")
    training.accelerator.wait_for_everyone()  # the next phase may go on from here


def _arguments(course: Course, rows: int, best: str | None, rate: float) -> dict[str, Any]:
    import torch

    plan = course.plan
    batch = plan.batch or BATCH
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    steps = plan.steps or ceil((plan.epochs or EPOCHS) * rows / (batch * devices))
    when = "steps" if best else "no"
    return {
        "output_dir": str(course.out / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": plan.learning_rate or rate,
        "warmup_steps": 0.1,
        "seed": plan.seed,
        "bf16": bf16(),
        "eval_strategy": when,
        "eval_steps": ceil(steps / LOOKS),
        "logging_steps": ceil(steps / LOOKS),
        "save_steps": ceil(steps / LOOKS),
        "save_total_limit": 2,
        "load_best_model_at_end": bool(best),
        "metric_for_best_model": best,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
    }
