"""Fits an encoder by sentence-transformers' trainer: checkpoints, early stop, progress, the curve of the loss."""

import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from math import ceil
from typing import Any

from ctd_agent.distill.training.folder import first_process, last_checkpoint
from ctd_agent.distill.training.plan import Training
from ctd_agent.distill.training.runtime import bf16, memory_suffices, watch

READ = 128  # tokens of a text that an encoder reads
EPOCHS, BATCH = 3.0, 16
LOOKS = 5  # evaluations on the dev documents in a whole training
PATIENCE = 3  # evaluations without a better one, before an early end

Classes = tuple[Any, Any]  # of a trainer and of its arguments
Splits = Mapping[str, Any]  # a Dataset for train, one for dev


def fit(
    training: Training, classes: Classes, model: Any, loss: Any, data: Splits, evaluator: Any, best: str, rate: float
) -> None:
    """Train `model` and save it in the training's folder.

    `best` is the evaluator's metric that decides which checkpoint is kept and when the training ends early. Without an
    evaluator, or with a number of steps in the plan, the training runs to its end. It resumes from its last
    checkpoint. Raises UserError where memory does not suffice.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    trainer, arguments = classes
    model.model_card_data.generate_widget_examples = False
    dev = evaluator is not None and not training.plan.steps
    stops = [EarlyStoppingCallback(PATIENCE)] if dev else []
    with memory_suffices(training.plan, "lower --max-length"), ExitStack() as stack:
        run = trainer(
            model=model,
            args=arguments(**_arguments(training, len(data["train"]), best if dev else None, rate)),
            train_dataset=data["train"],
            eval_dataset=data["dev"] if dev else None,
            loss=loss,
            evaluator=evaluator if dev else None,
            callbacks=[*stops, watch(training.out, stack)],
        )
        run.remove_callback(PrinterCallback)
        run.train(resume_from_checkpoint=last_checkpoint(training.out))
    run.accelerator.wait_for_everyone()  # until all have read the best checkpoint
    if first_process():
        model.save_pretrained(str(training.out))
        shutil.rmtree(training.out / "checkpoints")
    run.accelerator.wait_for_everyone()  # the selector may start from these weights


def _arguments(training: Training, rows: int, best: str | None, rate: float) -> dict[str, Any]:
    import torch

    plan = training.plan
    batch = plan.batch or BATCH
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    steps = plan.steps or ceil((plan.epochs or EPOCHS) * rows / (batch * devices))
    return {
        "output_dir": str(training.out / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": plan.learning_rate or rate,
        "warmup_steps": 0.1,
        "seed": plan.seed,
        "bf16": bf16(),
        "eval_strategy": "steps" if best else "no",
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
