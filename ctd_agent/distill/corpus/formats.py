"""One conversation in the form each trainer reads. Checked with the trainers' own loaders (tests/test_formats.py).

The last message is the one to be learned. How a trainer is told so differs: TRL learns completions only,
OpenAI weighs messages, Axolotl masks them by `train`, LLaMA-Factory by `mask_history`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ctd_agent.agents.prompts import Message
from ctd_agent.distill.examples import Example

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["trl", "openai", "axolotl", "llamafactory"]
Row = dict[str, Any]


def trl(example: Example) -> Row:
    """Return a row for TRL's SFTTrainer, which has no mask a message: a prompt and a completion."""
    messages = list(map(_with_objects, example.messages))
    return {"prompt": messages[:-1], "completion": messages[-1:]} | _tools(example)


def openai(example: Example) -> Row:
    """Return a row for OpenAI's fine-tuning, and for what reads its form, Unsloth for one."""
    earlier = [message | ({"weight": 0} if message["role"] == "assistant" else {}) for message in example.messages[:-1]]
    return {"messages": [*earlier, example.messages[-1]]} | _tools(example)


def axolotl(example: Example) -> Row:
    """Return a row for Axolotl's `type: chat_template`, whose mask is `train` on every message."""
    last = len(example.messages) - 1
    messages = [_with_objects(message) | {"train": at == last} for at, message in enumerate(example.messages)]
    return {"messages": messages} | _tools(example)


def llamafactory(example: Example) -> Row:
    """Return a row in LLaMA-Factory's sharegpt form: turns alternate, so a turn's results are one observation.

    Its openai form drops content beside tool calls, and rows that do not alternate.
    """
    system, *rest = example.messages
    turns: list[dict[str, str]] = []
    for message in rest:
        if message["role"] == "tool" and turns[-1]["from"] == "observation":
            turns[-1]["value"] += (
                f"\n</tool_response>\n<tool_response>\n{message['content']}"  # as it joins them itself
            )
        else:
            turns.append(_turn(message))
    tools = json.dumps([tool["function"] for tool in example.tools], ensure_ascii=False) if example.tools else ""
    return {"conversations": turns, "system": system["content"], "tools": tools}


FORMATS: dict[Format, Callable[[Example], Row]] = {
    "trl": trl,
    "openai": openai,
    "axolotl": axolotl,
    "llamafactory": llamafactory,
}


def dataset_info(files: Sequence[str]) -> dict[str, Any]:
    """Return LLaMA-Factory's `dataset_info.json` of these files, each under its path's parts joined by `_`."""
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    return {
        file.rsplit(".", 1)[0].replace("/", "_"): {"file_name": file, "formatting": "sharegpt", "columns": columns}
        for file in files
    }


def table(rows: Sequence[Mapping[str, Any]]) -> "pa.Table":
    """Return rows, at least one, as an Arrow table, in which messages and tools are JSON.

    As structs every message would have all keys that any has, most of them null: the chat templates of Llama 3
    and gpt-oss, for two, fail on calls that are null.
    """
    import pyarrow as pa

    columns = pa.Table.from_pylist(rows)
    for name in {"prompt", "completion", "messages", "tools"} & rows[0].keys():
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            texts = [[json.dumps(value, ensure_ascii=False) for value in row] for row in values]
            column = pa.array(texts).cast(pa.list_(pa.json_()))
            columns = columns.set_column(columns.column_names.index(name), name, column)
    return columns


def _tools(example: Example) -> Row:
    return {"tools": example.tools} if example.tools else {}


def _with_objects(message: Message) -> Message:
    """Return a message whose calls' arguments are objects, as chat templates want them, and not their JSON."""
    if "tool_calls" not in message:
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls}


def _turn(message: Message) -> dict[str, str]:
    if calls := message.get("tool_calls"):
        made = [
            {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])} for call in calls
        ]
        return {"from": "function_call", "value": json.dumps(made, ensure_ascii=False)}
    kinds = {"user": "human", "assistant": "gpt", "tool": "observation"}
    return {"from": kinds[message["role"]], "value": message["content"]}
