"""Students of any kind from a corpus: encoders, one for each phase, or a language model."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ctd_agent.agents.engines.student import Kind, Student, Target, write_student
from ctd_agent.console import note
from ctd_agent.distill.corpus.card import Card
from ctd_agent.distill.corpus.conversations import Judgement
from ctd_agent.distill.training.encoders.bi_encoder import train_bi_encoder
from ctd_agent.distill.training.encoders.cross_encoder import train_cross_encoder
from ctd_agent.distill.training.folder import claim, digest, first_process
from ctd_agent.distill.training.language_models.language_model import train_language_model
from ctd_agent.distill.training.plan import Plan, Training, read_card
from ctd_agent.distill.training.runtime import quieten
from ctd_agent.errors import UserError
from ctd_agent.records import read_records
from ctd_agent.schema import Label
from ctd_agent.tools.embedding import weights_digest
from ctd_agent.tools.label_index import fingerprint

ENCODER_FILES = ("modules.json", "config_sentence_transformers.json")
ROOMS: dict[Target, dict[str, Target]] = {  # an encoder's folders, and the target of each
    "both": {"shortlister": "shortlist", "selector": "select"},
    "shortlist": {"shortlister": "shortlist"},
    "select": {"selector": "select"},
    "standard": {"shortlister": "standard"},
}


def train(
    corpus: Path, student: str, out: Path, plan: Plan, labels: Sequence[Label] | None = None
) -> dict[Path, Student]:
    """Train a student on a corpus. Return the students' cards by folder.

    `student` is the base model: a folder, or a name on the Hugging Face Hub. A language model becomes `out`. A
    bi-encoder of sentence-transformers becomes `out/shortlister`, and from those weights `out/selector`. A plan for one
    phase makes one of the two. A cross-encoder becomes `out/selector`. A shortlister needs `labels`, the catalogue.
    Raises UserError where an argument does not fit or is missing, and for too little memory.
    """
    kind = kind_of(student, plan)
    if kind == "language-model":
        return {out: train_language_model(corpus, student, out, plan)}
    quieten()
    return {
        out / room: _encoder(corpus, student, kind, out / room, target, plan, labels)
        for room, target in ROOMS[plan.target].items()
    }


def kind_of(student: str, plan: Plan) -> Kind:
    """Return the kind of student that a base model becomes, by its files: a cross-encoder has a head that scores.

    Raises UserError for a model that is not there or cannot learn the plan's target, and for a missing extra.
    """
    if not find_spec("sentence_transformers") or not find_spec("trl"):
        raise UserError("training needs more than is installed: pip install 'ctd-agent[train]'")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(student)
    except (OSError, ValueError):  # no such model, or its parts have a configuration each
        config = None
    if not any("SequenceClassification" in name for name in getattr(config, "architectures", None) or []):
        return "bi-encoder" if _is_encoder(student) else "language-model"
    if config.num_labels != 1:
        raise UserError(f"{student}: it scores a pair with {config.num_labels} numbers; name a cross-encoder with one")
    if plan.target != "select":
        raise UserError(f"{student}: a cross-encoder selects, and cannot shortlist: `distill train --phase select`")
    return "cross-encoder"


def _is_encoder(student: str) -> bool:
    """Tell whether a model is one of sentence-transformers, by its files."""
    if Path(student).is_dir():
        return any((Path(student) / file).is_file() for file in ENCODER_FILES)
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return any(file_exists(student, file) for file in ENCODER_FILES)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(f"{student}: no such folder, and not to be had from the Hugging Face Hub ({error})") from error


def _encoder(
    corpus: Path, base: str, kind: Kind, out: Path, target: Target, plan: Plan, labels: Sequence[Label] | None
) -> Student:
    card = read_card(corpus)
    if target != "select":
        _check_catalogue(labels, card)
    judgements = {split: _judgements(corpus, split) for split in ("train", "dev")}
    # A shortlister knows the labels already, so the selector starts from its weights.
    start = out.parent / "shortlister" if target == "select" and plan.target == "both" else None
    settings = {
        "student": base,
        "kind": kind,
        "start": start and weights_digest(start),
        "plan": asdict(plan),
        "examples": digest([[example.model_dump() for example in split] for split in judgements.values()]),
    }
    if done := claim(out, settings):
        note(f"{out}: the student is there already")
        return done
    training = Training(corpus, card, base, out, plan, start)
    if kind == "cross-encoder":
        student = train_cross_encoder(training, judgements)
    else:
        student = train_bi_encoder(training, target, judgements, labels or [])
    if first_process():
        write_student(out, student)
    return student


def _check_catalogue(labels: Sequence[Label] | None, card: Card) -> None:
    if labels is None:
        raise UserError("a shortlister learns what the labels are: give the catalogue with --labels")
    if fingerprint(labels) != card.catalogue:
        raise UserError("--labels: not the catalogue that the teacher had; give that one")


def _judgements(corpus: Path, split: str) -> list[Judgement]:
    path = corpus / "encoder" / f"{split}.jsonl"
    if path.with_suffix(".parquet").is_file():
        import pyarrow.parquet as pq

        return [Judgement.model_validate(row) for row in pq.read_table(path.with_suffix(".parquet")).to_pylist()]
    return list(read_records(path, Judgement)) if path.is_file() else []
