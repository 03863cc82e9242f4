"""A training's folder: its settings, which claim it, and its last checkpoint."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctd_agent.agents.engines.student import Student, read_student
from ctd_agent.errors import UserError


def digest(rows: Sequence[Any]) -> str:
    """Return a short digest that identifies rows of JSON."""
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def claim(out: Path, settings: Mapping[str, Any]) -> Student | None:
    """Claim `out` for the training with these settings. Return its student where it is finished, else None.

    Raises UserError where the folder cannot be used, or holds something else.
    """
    path = out / "training.json"
    try:
        if first_process():  # another process would read the file just written here
            before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
            _check_own(out, before, settings)
            out.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: cannot be used: {error}") from error
    return read_student(out)


def _check_own(out: Path, before: Any, settings: Mapping[str, Any]) -> None:
    if before is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something here already; name another folder, or delete this one")
    if before is not None and before != settings:
        changed = ", ".join(key for key in settings if before.get(key) != settings[key])
        raise UserError(f"{out}: the training here is another ({changed}); name another folder, or delete it")


def first_process() -> bool:
    """Tell whether this is the process that writes files."""
    return os.environ.get("RANK", "0") == "0"  # set by torchrun and accelerate


def last_checkpoint(out: Path) -> str | None:
    """Return the last complete checkpoint: the trainer writes its state last."""
    whole = [path.parent for path in (out / "checkpoints").glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
