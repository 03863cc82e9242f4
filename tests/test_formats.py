"""A corpus in each trainer's format, read by the trainer itself: what it trains on, token by token.

The trainers come from .ci/vllm. Without one its tests skip, but where CTD_AGENT_TRAINERS=required.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import LABELS, calls, chosen, likes, searches
from langchain_core.messages import AIMessage

from ctd_agent.agents.engines import ChatModel
from ctd_agent.distill.corpus.card import Card
from ctd_agent.distill.corpus.formats import FORMATS
from ctd_agent.distill.corpus.lessons import Gates
from ctd_agent.distill.corpus.make import Recipe, make_corpus
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.schema import Document
from ctd_agent.tools.label_index import LabelIndex

Make = Callable[..., ChatModel]
Row = dict[str, Any]
Corpus = Callable[..., Path]

DOCUMENTS = [
    Document(id="news", text="The central bank has raised interest rates again, and house prices fall."),
    Document(id="match", text="A tennis match on grass."),
    Document(id="votes", text="Выборы ⚽ 選挙, \u2028 votes \ud83d and {{content}} <image> <|im_end|>"),
]

# ChatML with tools. It stands for the strictest of templates: content that is null, arguments that are no
# object, and calls that are null are errors, as they are in those of Llama 3, LFM 2.5 and gpt-oss.
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- if 'tool_calls' in message %}
        {%- for call in message.tool_calls %}
            {{- '\n<tool_call>' + call.function.name }}
            {%- for name, value in call.function.arguments.items() %}
                {{- ' ' + name + '=' + (value | tojson) }}
            {%- endfor %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def trainer(name: str) -> Any:
    """A trainer's module, or a skip; not where trainers are required."""
    if os.environ.get("CTD_AGENT_TRAINERS") == "required":
        return importlib.import_module(name)
    return pytest.importorskip(name)


def native_script() -> list[Any]:
    """A teacher with tool calls through DOCUMENTS: two searches in one turn, none, one; it reasons."""
    news = [calls("mortgages", "Zinsen für Häuser"), AIMessage("Nothing is missing."), chosen(1, 2)]
    return [*news, AIMessage("Nothing is missing."), chosen(1), calls("選挙 ⚽"), AIMessage(""), chosen(1)]


def json_script() -> list[Any]:
    """A teacher that searches in JSON, through DOCUMENTS."""
    return [searches("mortgages", "Häuser"), searches(done=True), searches(done=True), searches("選挙", done=True)]


@pytest.fixture(params=["native", "json"])
def log(request: pytest.FixtureRequest, small: Make, large: Make, index: LabelIndex, tmp_path: Path) -> Path:
    """What a teacher did with DOCUMENTS."""
    path = tmp_path / "log.jsonl"
    if request.param == "native":
        model = large(*native_script())
    else:
        script, liked = json_script(), likes("Housing", "Tennis", "Elections")
        model = small(otherwise=lambda prompt, options: _small(script, liked, prompt, options))
    graph = build_graph(model, model, index, budget=Budget(candidates=3), log=path)
    for document in DOCUMENTS:
        assert graph.invoke({"document": document})["result"].failure is None
    return path


def _small(script: list[Any], liked: Any, prompt: list[Row], options: Row) -> AIMessage:
    return AIMessage(script.pop(0)) if "response_format" in options else liked(prompt, options)


@pytest.fixture
def corpus(log: Path, tmp_path: Path) -> Corpus:
    """Make a corpus in a format; every search counts, for one index of eight labels finds all at once."""

    def make(form: str, parquet: bool = False, dev: float = 0.0) -> Path:
        out = tmp_path / f"{form}-{'parquet' if parquet else 'jsonl'}"
        if not out.exists():
            make_corpus([log], None, Recipe(gates=Gates(credit=False), format=form, parquet=parquet, dev=dev), out)
        return out

    return make


@pytest.fixture(params=["jsonl", "parquet"])
def parquet(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "parquet")


@pytest.fixture(params=["shortlist", "select", "standard"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(smollm2: Path) -> Any:
    """SmolLM2's tokenizer, with a chat template that knows tools."""
    made = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(smollm2)
    made.chat_template = TEMPLATE
    return made


def rows(folder: Path, name: str, split: str = "train") -> list[Row]:
    return [json.loads(line) for line in (folder / name / f"{split}.jsonl").read_bytes().splitlines()]


def loaded(folder: Path, name: str, tmp_path: Path) -> Any:
    """A corpus's training examples, as the datasets library loads the file."""
    (file,) = (folder / name).glob("train.*")
    kind = {".jsonl": "json", ".parquet": "parquet"}[file.suffix]
    load = trainer("datasets").load_dataset
    return load(kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))


def learned(tokenizer: Any, row: Row) -> str:
    """The text that a trainer's labels let a student learn: it must be one run of tokens."""
    kept = [at for at, label in enumerate(row["labels"]) if label != -100]
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert all(row["labels"][at] == row["input_ids"][at] for at in kept)
    return str(tokenizer.decode([row["labels"][at] for at in kept]))


def rendered(tokenizer: Any, row: Row) -> tuple[str, str]:
    """A TRL row through the chat template: the prompt as the graph sends it, and all of it."""
    tools = row.get("tools")
    prompt = tokenizer.apply_chat_template(row["prompt"], tools=tools, add_generation_prompt=True, tokenize=False)
    return prompt, tokenizer.apply_chat_template(row["prompt"] + row["completion"], tools=tools, tokenize=False)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_is_loaded_as_it_was_written(
    form: str, parquet: bool, name: str, corpus: Corpus, tmp_path: Path
) -> None:
    written = rows(corpus(form), name)
    assert len(written) >= len(DOCUMENTS)
    assert list(loaded(corpus(form, parquet), name, tmp_path)) == written


@pytest.mark.slow
def test_trl_learns_the_last_turn_only(
    parquet: bool, name: str, corpus: Corpus, tokenizer: Any, tmp_path: Path
) -> None:
    trl, transformers = trainer("trl"), trainer("transformers")
    small = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), use_cpu=True, report_to=[], max_length=None, bf16=False,
        per_device_train_batch_size=1, shuffle_dataset=False, max_steps=1,
    )  # fmt: skip
    folder = corpus("trl", parquet)
    sft = trl.SFTTrainer(
        model=transformers.LlamaForCausalLM(small),
        args=arguments,
        train_dataset=loaded(folder, name, tmp_path),
        processing_class=tokenizer,
    )
    texts = [rendered(tokenizer, row) for row in rows(corpus("trl"), name)]
    for example, (prompt, whole) in zip(sft.train_dataset, texts, strict=True):
        batch = {key: values[0].tolist() for key, values in sft.data_collator([example]).items()}
        assert tokenizer.decode(batch["input_ids"]) == whole
        assert prompt + learned(tokenizer, batch) == whole
    assert sft.train().global_step == 1


def test_trl_gets_arguments_as_objects_and_content_always(corpus: Corpus, tmp_path: Path) -> None:
    for row in loaded(corpus("trl", parquet=True), "shortlist", tmp_path):
        for message in row["prompt"] + row["completion"]:
            assert isinstance(message["content"], str)
            for call in message.get("tool_calls", []):
                assert set(call["function"]["arguments"]) == {"query", "limit"}
                assert type(call["function"]["arguments"]["limit"]) is int


@pytest.fixture
def axolotl() -> Any:
    """Axolotl's strategy for chat templates, configured by the words of a corpus's README."""
    strategies, config = trainer("axolotl.prompt_strategies"), trainer("axolotl.utils.dict").DictDefault
    yaml, schema = trainer("yaml"), trainer("axolotl.utils.schemas.datasets").SFTDataset
    named = yaml.safe_load("\n".join(re.findall(r"`(\w+: .*?)`", FORMATS["axolotl"].usage)))
    dataset = schema(path="corpus", **named).model_dump(exclude_none=True)

    def load(tokenizer: Any) -> Any:
        general = config(sequence_len=4096, train_on_inputs=False)
        return strategies.load(dataset["type"], tokenizer, general, config(dataset))

    return load


@pytest.mark.slow
def test_axolotl_learns_the_last_turn_only(
    parquet: bool, name: str, corpus: Corpus, tokenizer: Any, axolotl: Any, tmp_path: Path
) -> None:
    prepared = trainer("axolotl.datasets").TokenizedPromptDataset
    folder = corpus("axolotl", parquet)
    examples = prepared(axolotl(tokenizer), loaded(folder, name, tmp_path))
    texts = [rendered(tokenizer, row) for row in rows(corpus("trl"), name)]
    for example, (prompt, whole) in zip(examples, texts, strict=True):
        assert tokenizer.decode(example["input_ids"]) == whole
        assert prompt + learned(tokenizer, example) + "\n" == whole  # all but the template's last newline


@pytest.fixture
def llamafactory(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-Factory with other versions than it pins, and without torchaudio, which text does not need."""
    trainer("transformers").utils.is_torchaudio_available()  # it remembers that there is none
    stand_in = ModuleType("torchaudio")
    stand_in.__spec__ = ModuleSpec("torchaudio", None)
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    monkeypatch.setitem(sys.modules, "torchaudio", stand_in)
    trainer("llamafactory")


@pytest.mark.slow
def test_llamafactory_learns_the_last_turn_only_and_writes_all_as_the_students_own_template_does(
    parquet: bool, name: str, corpus: Corpus, tokenizer: Any, smollm2: Path, llamafactory: None, tmp_path: Path
) -> None:
    hparams, data = trainer("llamafactory.hparams"), trainer("llamafactory.data")
    folder = corpus("llamafactory", parquet)
    assert "`mask_history: true`" in FORMATS["llamafactory"].usage
    asked = {
        "stage": "sft", "do_train": True, "model_name_or_path": str(smollm2), "template": "qwen",
        "dataset": f"{name}_train", "dataset_dir": str(folder), "mask_history": True, "cutoff_len": 4096,
        "output_dir": str(tmp_path / "out"), "use_cpu": True, "report_to": "none", "overwrite_cache": True,
    }  # fmt: skip
    model, dataset, training, _, _ = hparams.get_train_args(asked)
    template = data.get_template_and_fix_tokenizer(tokenizer, dataset)
    examples = data.get_dataset(template, model, dataset, training, stage="sft", tokenizer=tokenizer)["train_dataset"]
    qwen = Path(trainer("trl").__file__).with_name("chat_templates") / "qwen2_5.jinja"
    tokenizer.chat_template = qwen.read_text()
    texts = [rendered(tokenizer, row) for row in rows(corpus("trl"), name)]
    for example, (prompt, whole) in zip(examples, texts, strict=True):
        assert tokenizer.decode(example["input_ids"]) == whole
        assert prompt + learned(tokenizer, example) == whole


def test_openai_takes_every_row(corpus: Corpus, name: str) -> None:
    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
    from pydantic import TypeAdapter

    message_type, tools_type = TypeAdapter(ChatCompletionMessageParam), TypeAdapter(list[ChatCompletionToolParam])
    for row in rows(corpus("openai"), name):
        assert set(row) <= {"messages", "tools"}
        tools_type.validate_python(row.get("tools", []))
        *earlier, last = row["messages"]
        assert last["role"] == "assistant"
        assert "weight" not in last  # 1
        assert all(m.get("weight") == (0 if m["role"] == "assistant" else None) for m in earlier)
        for message in row["messages"]:
            message_type.validate_python({key: value for key, value in message.items() if key != "weight"})
            for call in message.get("tool_calls", []):
                assert set(json.loads(call["function"]["arguments"])) == {"query", "limit"}


@pytest.mark.parametrize("form", FORMATS)
def test_the_folder_is_a_dataset_for_a_hub(form: str, parquet: bool, corpus: Corpus, tmp_path: Path) -> None:
    load = trainer("datasets").load_dataset
    folder = corpus(form, parquet, dev=0.34)
    card = Card.model_validate_json((folder / "card.json").read_text())
    for name, count in card.corpora.items():
        splits = load(str(folder), name, cache_dir=str(tmp_path / "cache"))
        assert {split: len(splits[split]) for split in splits} == {"train": count.train, "validation": count.dev}
    judged = load(str(folder), "encoder", cache_dir=str(tmp_path / "cache"))
    known = {label.id for label in LABELS}
    assert all({pair["label"] for pair in row["select"]} <= known for split in judged for row in judged[split])
