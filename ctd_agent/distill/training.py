"""A student from a corpus: what is common to students that write and to encoders."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctd_agent.agents.student import Student
from ctd_agent.console import progress
from ctd_agent.distill.card import Card
from ctd_agent.errors import UserError
from ctd_agent.records import validated

Target = Literal["both", "shortlist", "select", "standard"]
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
    `steps` the optimiser's steps; a student reads `max_length` tokens. `lora`: adapters are trained and merged, else all weights are.
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
    """One student's training: from which corpus and base model, into which folder."""

    corpus: Path
    card: Card
    base: str
    out: Path
    plan: Plan

    def student(self, kind: Literal["writer", "bi-encoder", "cross-encoder"], corpus: str, **known: Any) -> Student:
        """Return the trained student's card."""
        return Student(
            kind=kind,
            base=Path(self.base).name,
            corpus=corpus,
            teachers=self.card.teachers,
            task=self.card.task,
            catalogue=self.card.catalogue,
            seed=self.plan.seed,
            **known,
        )


EPOCHS, BATCH, PATIENCE = 3.0, 16, 3
EVALUATIONS = 10  # of a whole training, at most


def fit(
    course: Course, *, trainer: Any, arguments: Any, model: Any, loss: Any, data: Mapping[str, Any], evaluator: Any,
    best: str, rate: float,
) -> None:  # fmt: skip
    """Train an encoder by sentence-transformers' trainer and save it in the course's folder.

    `best` is the metric of the evaluator that tells when to stop, and which checkpoint to keep; without a dev split the
    last one is. What was cut goes on from its last checkpoint.
    """
    import torch
    from transformers import EarlyStoppingCallback

    plan, dev = course.plan, len(data["dev"]) > 0
    batch = plan.batch or BATCH
    steps = plan.steps or max(1, round((plan.epochs or EPOCHS) * len(data["train"]) / batch))
    every = max(1, steps // EVALUATIONS)
    checkpoints = course.out / "checkpoints"
    training = trainer(
        model=model,
        args=arguments(
            output_dir=str(checkpoints),
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=plan.learning_rate or rate,
            warmup_steps=steps // 10,
            seed=plan.seed,
            bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
            eval_strategy="steps" if dev else "no",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=2,
            load_best_model_at_end=dev,
            metric_for_best_model=best if dev else None,
            logging_steps=every,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=data["train"],
        eval_dataset=data["dev"] if dev else None,
        loss=loss,
        evaluator=evaluator if dev else None,
    )
    with enough_memory(course), progress(f"training {course.out.name}", steps) as show:
        training.add_callback(_watch(show))
        if dev:
            training.add_callback(EarlyStoppingCallback(PATIENCE))
        training.train(resume_from_checkpoint=any(checkpoints.glob("checkpoint-*")))
    model.save_pretrained(str(course.out))
    draw_losses(course.out, training.state.log_history)
    shutil.rmtree(checkpoints)


def _watch(show: Any) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc] # untyped where it is not installed
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            show(state.global_step)

    return Watch()


@contextmanager
def enough_memory(course: Course) -> Iterator[None]:
    """Turn what a machine says that has not enough memory into what can be done about it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            batch = course.plan.batch or BATCH
            raise UserError(
                f"{course.base}: out of memory; lower --batch (now {batch}), train adapters only (--lora), or make the "
                "corpus again with --max-tokens"
            ) from error
        raise


def draw_losses(out: Path, history: list[dict[str, Any]]) -> None:
    """Write a training's losses and dev metrics, as JSON lines and as a picture, into its folder."""
    (out / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
    lines = {
        name: [(line["step"], line[name]) for line in history if name in line] for name in ("loss", "eval_loss")
    }
    (out / "losses.svg").write_text(tostring(line_chart(lines, "step", "loss"), encoding="unicode"), encoding="utf-8")
