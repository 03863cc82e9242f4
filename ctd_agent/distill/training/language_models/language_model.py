"""A language model as a student, tuned on a teacher's work.

OUT/model.safetensors, config.json, ...   the student, as transformers and vLLM load it
OUT/OUT.gguf                              the same for the local engine
OUT/README.md, loss.jsonl, loss.svg       its page, and the losses of its training
OUT/checkpoints, training.json            the training's state: the same command resumes from it
OUT/student.json                          written last: a folder that has it is whole
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines.student import Student, Target, write_student
from ctd_agent.console import note
from ctd_agent.distill.corpus.card import Card
from ctd_agent.distill.training.folder import claim, digest, first_process
from ctd_agent.distill.training.language_models.gguf import convert
from ctd_agent.distill.training.language_models.lm_trainer import load, tuned
from ctd_agent.distill.training.language_models.rendered import Row, Tokens, read_rows, rendered
from ctd_agent.distill.training.loss_curve import losses
from ctd_agent.distill.training.plan import TARGETS, Plan, Training, read_card
from ctd_agent.distill.training.runtime import memory_suffices, quieten
from ctd_agent.errors import UserError

OPTION: dict[Target, str] = {"shortlist": "--shortlister", "select": "--selector"}  # else --model
USE: dict[Target, str] = {
    "both": "Use it by name, for both phases or for one of them (`--shortlister`, `--selector`):",
    "shortlist": "Use it by name, for the phase that it has learned:",
    "select": "Use it by name, for the phase that it has learned:",
    "standard": "It is for comparisons: the graph never asks for the whole output at once.",
}
NEEDED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def train_language_model(corpus: Path, student: str, out: Path, plan: Plan) -> Student:
    """Train a language model on a corpus and write it to the folder `out`. Return its card.

    `student` is the base model: a folder, or a name on the Hugging Face Hub. `plan.batch` examples are in a device's
    memory at once, and 8 make a step. With a dev split the checkpoint with the lowest loss on it is kept, and training
    ends early unless `plan.steps` is given. The same call resumes from the last checkpoint, and returns a finished
    student as it is. Under `accelerate launch` all processes train and the first one writes.
    Raises UserError for a corpus, base model or folder that does not fit, a missing extra, and too little memory.
    """
    if missing := [name for name in NEEDED if not find_spec(name)]:
        raise UserError(f"training needs {', '.join(missing)}: pip install 'ctd-agent[train]'")
    card = read_card(corpus)
    rows, dev = _rows(corpus, card, plan)
    settings = {"student": student, "plan": asdict(plan), "examples": digest([rows, dev])}
    if done := claim(out, settings):
        note(f"{out}: the student is there already")
        return done
    quieten()
    with memory_suffices(plan, "make the corpus with a lower --max-tokens"):
        tokenizer, model = load(student, plan)
        examples = _fitting(rendered(rows, tokenizer, student), model, "training")
        held_out = _fitting(rendered(dev, tokenizer, student), model, "dev") if dev else []
        if not examples:
            raise UserError(f"{corpus}: every example is longer than {student} can read; name another student")
        trainer = tuned(model, tokenizer, examples, held_out, out, plan)
    manner = card.manner.model_copy(update={"names": True})
    made = Training(corpus, card, student, out, plan).student("language-model", _learned(card, plan), manner=manner)
    if first_process():
        _finish(out, made, trainer, tokenizer, plan)
    return made


def _rows(corpus: Path, card: Card, plan: Plan) -> tuple[list[Row], list[Row]]:
    if card.format != "trl":
        raise UserError(f"{corpus}: its format is {card.format}; make it again with --format trl")
    rows, dev = read_rows(corpus, plan.target, "train"), read_rows(corpus, plan.target, "dev")
    if not rows:
        full = [name for name, counts in card.corpora.items() if counts.train]
        why = "; the teacher was asked for no searches" if plan.target == "shortlist" else ""
        there = f"it has those of {' and '.join(full)}" if full else "it has none at all: make a larger one"
        raise UserError(f"{corpus}: no training examples of {' or '.join(TARGETS[plan.target])}{why}; {there}")
    missing = [name for name in TARGETS[plan.target] if not card.corpora[name].train]
    if missing and first_process():
        note(f"{corpus}: it has no training examples of {' or '.join(missing)}, so the rest is learned")
    return rows, dev


def _learned(card: Card, plan: Plan) -> Target:
    """Return the target that the corpus has examples for: of both phases perhaps just one."""
    full = [name for name in TARGETS[plan.target] if card.corpora[name].train]
    return next((target for target, names in TARGETS.items() if list(names) == full), plan.target)


def _fitting(examples: Sequence[Tokens], model: Any, split: str) -> list[Tokens]:
    """Return the examples that a student can read whole: cut ones would teach it to stop in mid-sentence."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max(map(len, examples))
    kept = [tokens for tokens in examples if len(tokens) <= longest]
    if len(kept) < len(examples) and first_process():
        dropped = len(examples) - len(kept)
        note(f"{dropped} of {len(examples)} {split} examples have more than the student's {longest:,} tokens: left out")
    return kept


def _finish(out: Path, student: Student, trainer: Any, tokenizer: Any, plan: Plan) -> None:
    """Write the student: adapters merged, weights in its base's number format, the card last."""
    from transformers import AutoConfig

    model = trainer.accelerator.unwrap_model(trainer.model)
    model = model if plan.lora is False else model.merge_and_unload()
    model.to(AutoConfig.from_pretrained(student.base).dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    file = f"{out.resolve().name}.gguf"
    if reason := convert(out, out / file):
        note(f"{out}: no GGUF, so only transformers and vLLM can run it: {reason}")
    (out / "README.md").write_text(_readme(student, plan, losses(trainer.state.log_history), file), encoding="utf-8")
    write_student(out, student)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _readme(student: Student, plan: Plan, history: Sequence[Mapping[str, Any]], file: str) -> str:
    base = "" if Path(student.base).is_dir() else f"base_model: {student.base}\n"
    reached = "\n".join(
        f"- {name.replace('_', ' ')}: {points[0]:.3f} at first, {points[-1]:.3f} at the end, {min(points):.3f} at best"
        for name in ("loss", "dev_loss")
        if (points := [entry[name] for entry in history if name in entry])
    )
    option = OPTION.get(student.target, "--model")
    how = "all weights" if plan.lora is False else "LoRA adapters, merged"
    return f"""---
{base}library_name: transformers
pipeline_tag: text-generation
tags: [ctd-agent, trl, sft]
---

# A student of ctd-agent

{student.base}, trained to do what {", ".join(student.teachers)} did well: find {student.task}, from the catalogue
with fingerprint `{student.catalogue}`. It learned {" and ".join(TARGETS[student.target])} ({how}; seed {plan.seed}).

{reached}

![loss by step](loss.svg)

{USE[student.target]}

    ctd-agent label documents.jsonl --labels catalogue.csv --task "{student.task}" {option} gguf:FOLDER/{file}
    ctd-agent label ... {option} vllm:FOLDER

`student.json` tells ctd-agent how it is to be asked. The licences of its base and of its corpus hold.
"""
