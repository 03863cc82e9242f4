"""A scripted chat model for unit tests, a small real index, and a graph of both."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field
from smollm2 import make

from ctd_agent.agents.engines import ChatModel, load_model
from ctd_agent.agents.manner import Manner
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.schema import MODEL, Document, Label, LabeledDocument
from ctd_agent.tools.label_index import LabelIndex

Make = Callable[..., ChatModel]
Run = Callable[..., LabeledDocument]
NEWS = "The central bank has raised interest rates again."

LABELS = [
    Label(id="rates", name="Interest rates", description="Decisions of central banks"),
    Label(id="inflation", name="Inflation", aliases=["consumer prices"]),
    Label(id="football", name="Football", description="Matches, clubs and players"),
    Label(id="tennis", name="Tennis"),
    Label(id="elections", name="Elections", description="Votes and campaigns"),
    Label(id="banks", name="Commercial banks"),
    Label(id="housing", name="Housing market", description="Mortgages and house prices"),
    Label(id="health", name="Public health"),
]

SEAL = ("files", "checksum")  # the fields of a manifest that tell damage

Answer = Callable[[list[dict[str, Any]], dict[str, Any]], AIMessage]


class ScriptedModel(BaseChatModel):
    """Answers from a queue, then by `otherwise`; an Exception among the answers is raised.

    Keeps every prompt it was sent, in OpenAI's message format, and the options it was sent with.
    """

    queue: list[Any] = Field(default_factory=list)
    otherwise: Any = None
    prompts: list[list[dict[str, Any]]] = Field(default_factory=list)
    options: list[dict[str, Any]] = Field(default_factory=list)

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        return self.bind(tools=tools, **options)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **options: Any
    ) -> ChatResult:
        sent = convert_to_openai_messages(messages)
        assert isinstance(sent, list)
        self.prompts.append(sent)
        self.options.append(options)
        if not self.queue and self.otherwise is None:
            raise RuntimeError("the script has no other answer")
        answer = self.queue.pop(0) if self.queue else self.otherwise(sent, options)
        if isinstance(answer, Exception):
            raise answer
        message = answer if isinstance(answer, AIMessage) else AIMessage(answer)
        message.usage_metadata = {"input_tokens": 100, "output_tokens": 5, "total_tokens": 105}
        return ChatResult(generations=[ChatGeneration(message=message)])


def yes_or_no(probability: float) -> AIMessage:
    """An answer whose first token is yes with this probability, as an engine reports it."""
    top = [{"token": "Yes", "logprob": math.log(probability)}, {"token": "No", "logprob": math.log(1 - probability)}]
    return AIMessage(
        "Yes" if probability > 0.5 else "No", response_metadata={"logprobs": {"content": [{"top_logprobs": top}]}}
    )


YES, NO = yes_or_no(1 - 1e-6), yes_or_no(1e-6)  # whatever the selector's coefficients are


def without_document(prompt: list[dict[str, Any]]) -> bool:
    """Whether a prompt asks about the empty document: the baseline."""
    return prompt[-1]["content"].startswith("<document>\n\n</document>")


def label_asked(prompt: list[dict[str, Any]]) -> str:
    """The label that a pointwise prompt asks about, as it is described there."""
    return prompt[-1]["content"].rpartition("\n")[2]


def chosen(*numbers: int) -> str:
    """A listwise answer that chooses these numbers of the shortlist."""
    return json.dumps(
        {"reasoning": "They fit.", "labels": [{"number": n, "score": 0.9, "reason": ""} for n in numbers]}
    )


def searches(*queries: str, done: bool = False) -> str:
    """A search turn of a model without tool calls."""
    return json.dumps({"searches": queries, "done": done})


def likes(*names: str) -> Answer:
    """A pointwise model that says yes to these labels' names and no to others; without a document, neither."""

    def answer(prompt: list[dict[str, Any]], options: dict[str, Any]) -> AIMessage:
        if without_document(prompt):
            return yes_or_no(0.5)
        return YES if label_asked(prompt).startswith(names) else NO

    return answer


@pytest.fixture
def small() -> Callable[..., ChatModel]:
    """Make a small model: searches by schema, chooses pointwise."""

    def make(*queue: Any, otherwise: Answer | None = None) -> ChatModel:
        chat = ScriptedModel(queue=list(queue), otherwise=otherwise or likes())
        return ChatModel(
            "scripted:small", chat, Manner(native_tools=False), searches=False, selects="pointwise", slots=1
        )

    return make


@pytest.fixture
def large() -> Callable[..., ChatModel]:
    """Make a large model: native tool calls, chooses listwise."""

    def make(*queue: Any, otherwise: Answer | None = None) -> ChatModel:
        return ChatModel("scripted:large", ScriptedModel(queue=list(queue), otherwise=otherwise))

    return make


def calls(*queries: str) -> AIMessage:
    """A turn with one search_labels call a query."""
    return AIMessage(
        "",
        tool_calls=[
            {"name": "search_labels", "args": {"query": query}, "id": f"call-{i}"} for i, query in enumerate(queries)
        ],
    )


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> LabelIndex:
    """A real index of eight labels."""
    return build_index(LABELS, tmp_path_factory.mktemp("index") / "index")


def build_index(labels: Sequence[Label], folder: Path) -> LabelIndex:
    """Index labels with the shipped static encoder: no other takes milliseconds."""
    return LabelIndex.build(labels, folder, "static")


def write_manifest(folder: Path, **fields: Any) -> None:
    """Change fields of an index's manifest, and take its checksums away: so it is one of version 0.1."""
    (manifest,) = folder.glob("*/manifest.json")
    before = {name: value for name, value in json.loads(manifest.read_text()).items() if name not in SEAL}
    manifest.write_text(json.dumps(before | fields))


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small real model, and what vLLM needs to run it on a small machine without a GPU."""
    if os.environ.get("CTD_AGENT_TRAINERS") != "required":
        pytest.importorskip("torch", reason="needs torch: .ci/vllm has it")
    folder = Path(os.environ.get("CTD_AGENT_SMOLLM2") or tmp_path_factory.mktemp("smollm2"))
    make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTD_AGENT_VLLM_ARGS", "--dtype bfloat16 --enforce-eager --max-model-len 4096")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield folder


@pytest.fixture(scope="session")
def vllm(smollm2: Path) -> ChatModel:
    """That model on a vLLM server of our own."""
    return load_model(f"vllm:{smollm2}")


@pytest.fixture
def run(index: LabelIndex, tmp_path: Path) -> Run:
    """Label one text with a model, a log written; what the log reads back is what the graph said.

    Phase 1 has one turn, for small models too, unless told otherwise.
    """

    def label(model: ChatModel, text: str = NEWS, over: LabelIndex = index, **budget: Any) -> LabeledDocument:
        log = tmp_path / "log.jsonl"
        log.unlink(missing_ok=True)
        output = build_graph(model, model, over, budget=Budget(**{"turns": 1} | budget), log=log).invoke(
            {"document": Document(id="1", text=text)}
        )
        result = output["result"]
        assert read_log(log).steps == {"1": output["transitions"]}
        assert LabeledDocument.model_validate_json(result.model_dump_json()) == result
        assert {label.id for label in result.labels} <= {entry.id for entry in result.shortlist}
        return result

    return label


def ids(result: LabeledDocument) -> list[str]:
    return [label.id for label in result.labels]


def failure(result: LabeledDocument) -> tuple[str, str] | None:
    return (result.failure.phase, result.failure.kind) if result.failure else None


def queries(result: LabeledDocument) -> list[str]:
    """The model's searches that found anything, sorted."""
    findings = [finding for entry in result.shortlist for finding in entry.found_by]
    return sorted({finding.query for finding in findings if finding.source == MODEL})


def baselines(model: ChatModel) -> list[str]:
    """The labels that a model was asked about without a document, in order."""
    return [label_asked(prompt) for prompt in model.chat.prompts if without_document(prompt)]
