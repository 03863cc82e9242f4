"""Any student from a corpus: encoders, one a phase, or a model that writes."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from ctd_agent.agents.student import Student, write_student
from ctd_agent.console import note
from ctd_agent.distill.card import Card
from ctd_agent.distill.examples import Judgement
from ctd_agent.distill.training.course import Course, Plan, claim, digest, first_process, quieten, read_card
from ctd_agent.distill.training.encoders import train_selector, train_shortlister
from ctd_agent.distill.training.writers import train_writer
from ctd_agent.errors import UserError
from ctd_agent.records import read_records
from ctd_agent.schema import Label
from ctd_agent.tools.label_index import fingerprint

ENCODER_FILES = ("modules.json", "config_sentence_transformers.json")
ROOMS = {"both": ("shortlister", "selector"), "shortlist": ("shortlister",), "select": ("selector",)}


def train(
    corpus: Path, student: str, out: Path, plan: Plan, labels: Sequence[Label] | None = None
) -> dict[Path, Student]:
    """Train a student on a corpus; return what was made, by its folder.

    `student` is a folder or a name on the Hugging Face Hub: of a language model, which becomes one student in `out`, or
    of a sentence-transformers model, which becomes `out/shortlister` and `out/selector`, for the target `standard` the
    first of them alone. A shortlister needs the catalogue's `labels`.
    Raises UserError where something that is named does not fit or is missing, or memory does not suffice.
    """
    if not find_spec("sentence_transformers") or not find_spec("trl"):
        raise UserError("training needs more than is installed: pip install 'ctd-agent[train]'")
    if not _is_encoder(student):
        return {out: train_writer(corpus, student, out, plan)}
    quieten()
    return {
        out / room: _encoder(corpus, student, out / room, plan, labels)
        for room in ROOMS.get(plan.target, ("shortlister",))
    }


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


def _encoder(corpus: Path, base: str, out: Path, plan: Plan, labels: Sequence[Label] | None) -> Student:
    card = read_card(corpus)
    if out.name == "shortlister":
        _check_catalogue(labels, card)
    judgements = {split: _judgements(corpus, split) for split in ("train", "dev")}
    what = {
        "student": base,
        "plan": asdict(plan),
        "examples": digest([[one.model_dump() for one in some] for some in judgements.values()]),
    }
    if done := claim(out, what):
        note(f"{out}: the student is there already")
        return done
    course = Course(corpus, card, base, out, plan)
    if out.name == "shortlister":
        student = train_shortlister(course, judgements, labels or [])
    else:
        student = train_selector(course, judgements)
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
