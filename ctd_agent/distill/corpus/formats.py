"""A conversation in the form that each trainer reads. Checked with the trainers' own loaders (tests/test_formats.py).

To add a format: a function from a conversation to a row, and its row in `FORMATS`.

The last message is the one to be learned. Trainers are told so in different ways: TRL learns completions only, OpenAI
weighs messages, Axolotl masks them by `train`, LLaMA-Factory by `mask_history`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ctd_agent.agents.prompts import Message
from ctd_agent.distill.corpus.conversations import Conversation

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]


class TrainerFormat(NamedTuple):
    """A trainer's format: the row of a conversation, how the trainer is told of it, and the files that it also needs.

    `files` are functions of the corpus's paths to JSON, by file name.
    """

    row: Callable[[Conversation], Row]
    usage: str
    files: Mapping[str, Callable[[Sequence[str]], Any]] = {}


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


def trl(conversation: Conversation) -> Row:
    """Return a row for TRL's SFTTrainer, which cannot mask messages: a prompt and a completion."""
    messages = list(map(_with_objects, conversation.messages))
    return {"prompt": messages[:-1], "completion": messages[-1:]} | _tools(conversation)


def openai(conversation: Conversation) -> Row:
    """Return a row for OpenAI's fine-tuning, and for Unsloth, which reads that form."""
    earlier = [
        message | ({"weight": 0} if message["role"] == "assistant" else {}) for message in conversation.messages[:-1]
    ]
    return {"messages": [*earlier, conversation.messages[-1]]} | _tools(conversation)


def axolotl(conversation: Conversation) -> Row:
    """Return a row for Axolotl's `type: chat_template`, whose mask is `train` on every message."""
    last = len(conversation.messages) - 1
    messages = [_with_objects(message) | {"train": at == last} for at, message in enumerate(conversation.messages)]
    return {"messages": messages} | _tools(conversation)


def llamafactory(conversation: Conversation) -> Row:
    """Return a row in LLaMA-Factory's sharegpt form: turns alternate, so a turn's results are one observation.

    Its openai form drops content beside tool calls, and rows that do not alternate.
    """
    system, *rest = conversation.messages
    turns: list[dict[str, str]] = []
    for message in rest:
        if message["role"] == "tool" and turns[-1]["from"] == "observation":
            turns[-1]["value"] += (
                f"\n</tool_response>\n<tool_response>\n{message['content']}"  # as it joins them itself
            )
        else:
            turns.append(_turn(message))
    tools = (
        json.dumps([tool["function"] for tool in conversation.tools], ensure_ascii=False) if conversation.tools else ""
    )
    return {"conversations": turns, "system": system["content"], "tools": tools}


def dataset_info(files: Sequence[str]) -> dict[str, Any]:
    """Return LLaMA-Factory's `dataset_info.json` of these files, each under its path's parts joined by `_`."""
    columns = {"messages": "conversations", "system": "system", "tools": "tools"}
    return {
        file.rsplit(".", 1)[0].replace("/", "_"): {"file_name": file, "formatting": "sharegpt", "columns": columns}
        for file in files
    }


def _tools(conversation: Conversation) -> Row:
    return {"tools": conversation.tools} if conversation.tools else {}


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


FORMATS = {
    "trl": TrainerFormat(trl, "`SFTTrainer` takes the files as they are: it learns completions only."),
    "openai": TrainerFormat(openai, "Earlier turns of the assistant have weight 0; only the last of a row is learned."),
    "axolotl": TrainerFormat(
        axolotl,
        "`type: chat_template`, `field_messages: messages`, `message_field_training: train`, "
        "`field_tools: tools`, `roles_to_train: []`.",
    ),
    "llamafactory": TrainerFormat(
        llamafactory,
        "`dataset_dir` is this folder, the datasets' names are in `dataset_info.json`; set `mask_history: true`.",
        {"dataset_info.json": dataset_info},
    ),
}
