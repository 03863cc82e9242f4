"""The files of a language model, in a folder or on the Hugging Face Hub: its chat template and its special tokens."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def chat_template(model: str) -> str:
    """Return the chat template of a model, "" where it has none."""
    path = _file(model, "chat_template.jinja")
    if path is not None:
        return path.read_text(encoding="utf-8")
    return str(_settings(model, "tokenizer_config.json").get("chat_template") or "")


def special_tokens(model: str) -> frozenset[str]:
    """Return the tokens that a model's tokenizer takes for control tokens in any text, none without files."""
    added = _settings(model, "tokenizer.json").get("added_tokens")
    named = _settings(model, "tokenizer_config.json").get("added_tokens_decoder")
    try:
        tokens = [*map(_Token.model_validate, [*(added or []), *(named or {}).values()])]
    except (ValueError, TypeError, AttributeError):  # no tokenizer's: vLLM will say it better
        return frozenset()
    return frozenset(token.content for token in tokens if token.special and len(token.content.strip()) > 1)


class _Token(BaseModel):
    content: str
    special: bool = False


def _settings(model: str, name: str) -> dict[str, Any]:
    path = _file(model, name)
    with suppress(ValueError, OSError):
        settings = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return settings if isinstance(settings, dict) else {}
    return {}


def _file(model: str, name: str) -> Path | None:
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download

    with suppress(Exception):  # no such file, no such model, no hub: vLLM will say it better
        return Path(hf_hub_download(model, name))
    return None
