"""The folder of a training: claimed by its settings, gone on with from its last checkpoint."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines.student import Student, read_student
from ctd_agent.errors import UserError


def digest(rows: Sequence[Any]) -> str:
    """Return a digest of rows: other rows have another."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def claim(out: Path, training: Mapping[str, Any]) -> Student | None:
    """Return the student that this training has made in `out`, None where it begins or goes on.

    Raises UserError where the folder cannot be used, or holds something else.
    """
    path = out / "training.json"
    try:
        if first_process():  # the others would find the file it has just written
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


def last_checkpoint(out: Path) -> str | None:
    """Return the last checkpoint that is whole: the trainer writes its state last."""
    whole = [path.parent for path in (out / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
