"""Language models as students: from a teacher's log to a folder that engines run, asked as they were trained to be.

The slow ones train SmolLM2-135M for a few steps: they need the extra `train`.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ScriptedModel, searches
from langchain_core.messages import AIMessage

from ctd_agent.agents.engines import ChatModel, load_model
from ctd_agent.agents.engines.student import Student, read_student, write_student
from ctd_agent.agents.manner import Manner
from ctd_agent.agents.sampling import Sampling
from ctd_agent.distill.corpus.lessons import Gates
from ctd_agent.distill.corpus.make import Recipe, make_corpus
from ctd_agent.distill.training.language_models import gguf, language_model, lm_trainer
from ctd_agent.distill.training.language_models.language_model import train_language_model
from ctd_agent.distill.training.language_models.rendered import Tokens, read_rows, rendered
from ctd_agent.distill.training.plan import Plan
from ctd_agent.errors import UserError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.logged import read_log
from ctd_agent.schema import Document
from ctd_agent.tools.label_index import LabelIndex

TASK = "topics of news"
TEXTS = [
    "The central bank has raised interest rates again.",
    "Consumer prices rose by three percent in May.",
    "The club has won the cup final on penalties.",
    "She won the match in straight sets.",
    "The campaign for the votes in autumn begins.",
    "Lenders report losses on their loans.",
    "House prices fall as mortgages become dear.",
    "Hospitals prepare for the flu season.",
]
DOCUMENTS = [Document(id=f"d{number}", text=text) for number, text in enumerate(TEXTS)]
BUDGET = Budget(turns=2, candidates=6)

# As Qwen's and Hermes's: it shows tools, and calls as objects.
WITH_TOOLS = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def teacher(native: bool, reasons: bool = False) -> ChatModel:
    """A model that searches once, chooses the first candidate, and keeps what it was sent."""

    def answer(prompt: list[dict[str, Any]], options: dict[str, Any]) -> AIMessage | str:
        answer = options.get("response_format", {}).get("json_schema", {})
        if answer.get("name") == "selection":
            which, first = next(iter(answer["schema"]["properties"]["labels"]["items"]["properties"].items()))
            labels = [{which: first["enum"][0], "score": 0.9} | ({"reason": "it fits"} if reasons else {})]
            return json.dumps(({"reasoning": "The first fits."} if reasons else {}) | {"labels": labels})
        if not native:
            return searches("house prices", done=True)
        if prompt[-1]["role"] == "tool":
            return "Nothing is missing."
        call = {"name": "search_labels", "args": {"query": "house prices", "limit": 10}, "id": "call-0"}
        return AIMessage("", tool_calls=[call])

    return ChatModel(
        "scripted:teacher", ScriptedModel(otherwise=answer), manner=Manner(native_tools=native, reasons=reasons)
    )


@pytest.fixture
def corpus(index: LabelIndex, tmp_path: Path) -> Callable[..., Path]:
    """Make a corpus of what a model did with eight documents."""

    def make(model: ChatModel, turns: int = 2, form: str = "trl", **recipe: Any) -> Path:
        log, out = tmp_path / "log.jsonl", tmp_path / "corpus"
        budget = Budget(turns=turns, candidates=BUDGET.candidates)
        graph = build_graph(model, model, index, task=TASK, budget=budget, log=log)
        for document in DOCUMENTS:
            graph.invoke({"document": document})
        recipe = {"gates": Gates(recall=0, f1=0, credit=False), "format": form} | recipe
        make_corpus([log], None, Recipe(**recipe), out)
        return out

    return make


@pytest.fixture
def tokenizer(smollm2: Path) -> Any:
    pytest.importorskip("trl")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


# A student is asked as it was trained to be.


STUDENT = Student(
    kind="language-model",
    base="base",
    target="both",
    teachers=["t"],
    task=TASK,
    catalogue="c",
    seed=0,
    manner=Manner(native_tools=False, reasons=False, names=True, candidates=7),
)


def test_a_students_card_says_how_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = SimpleNamespace(url="http://127.0.0.1:1/v1", tools="hermes", reasoning=None, revive=lambda: None)
    monkeypatch.setattr("ctd_agent.agents.engines.vllm.vllm_server", lambda model: server)
    monkeypatch.setattr("ctd_agent.agents.engines.llama.llama_server", lambda weights: server.url)
    (tmp_path / "it.gguf").write_bytes(b"GGUF")
    engines = [f"vllm:{tmp_path}", f"gguf:{tmp_path}/it.gguf"]
    before = [load_model(spec) for spec in engines]
    assert [(model.manner.native_tools, model.selects, model.manner.reasons) for model in before] == [
        (True, "listwise", True),
        (False, "pointwise", True),
    ]
    write_student(tmp_path, STUDENT)
    for model in map(load_model, engines):
        assert (model.manner, model.selects) == (STUDENT.manner, "listwise")
        assert Budget.fitting(model, model) == Budget(candidates=7)  # it is asked for searches, and shown seven
    write_student(tmp_path, STUDENT.model_copy(update={"target": "select"}))
    for model in map(load_model, engines):
        assert Budget.fitting(model, model) == Budget(turns=0, candidates=7)
        assert Budget.fitting(model, model, turns=1, candidates=9) == Budget(turns=1, candidates=9)
    write_student(tmp_path, STUDENT.model_copy(update={"manner": Manner(names=True)}))
    for model in map(load_model, engines):
        assert (model.manner, model.selects) == (Manner(names=True), "listwise")


@pytest.mark.slow
@pytest.mark.parametrize("native", [False, True], ids=["json", "tools"])
@pytest.mark.parametrize("reasons", [False, True], ids=["direct", "reasons"])
def test_it_learns_from_the_very_prompts_that_the_graph_sends_it(
    native: bool, reasons: bool, corpus: Callable[..., Path], index: LabelIndex, tokenizer: Any
):
    if native:
        tokenizer.chat_template = WITH_TOOLS
    made = corpus(teacher(native, reasons), dev=0)
    student = replace(teacher(native, reasons), manner=Manner(native_tools=native, reasons=reasons, names=True))
    graph = build_graph(student, student, index, task=TASK, budget=BUDGET)
    for document in DOCUMENTS:
        graph.invoke({"document": document})
    assert isinstance(student.chat, ScriptedModel)
    sent = zip(student.chat.prompts, student.chat.options, strict=True)
    inference = {tuple(as_engines_render(tokenizer, prompt, options)) for prompt, options in sent}

    examples = rendered(read_rows(made, "both", "train"), tokenizer, "smollm2")
    assert {tuple(example.prompt) for example in examples} == inference
    assert len(inference) == len(DOCUMENTS) * (3 if native else 2)


def as_engines_render(tokenizer: Any, prompt: list[dict[str, Any]], options: dict[str, Any]) -> list[int]:
    """A prompt as vLLM and llama.cpp render it: they parse the arguments of calls first."""
    for call in (call for message in prompt for call in message.get("tool_calls", [])):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    tokens: list[int] = tokenizer.apply_chat_template(
        prompt, tools=options.get("tools"), add_generation_prompt=True, return_dict=False
    )
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize(("native", "parquet"), [(False, False), (True, True)], ids=["json", "tools-parquet"])
def test_its_tokens_are_those_that_trl_makes_of_the_rows(
    native: bool, parquet: bool, corpus: Callable[..., Path], tokenizer: Any, tmp_path: Path
):
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    if native:
        tokenizer.chat_template = WITH_TOOLS
    rows = read_rows(corpus(teacher(native), dev=0, parquet=parquet), "both", "train")
    tiny = LlamaForCausalLM(
        LlamaConfig(vocab_size=49152, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    arguments = SFTConfig(str(tmp_path / "trl"), max_length=None, report_to="none", bf16=False, use_cpu=True)
    trainer = SFTTrainer(tiny, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trls = [{key: row[key] for key in ("input_ids", "labels")} for row in trainer.train_dataset]
    assert [example.row for example in rendered(rows, tokenizer, "smollm2")] == trls


# It is trained, from where it was cut, and both engines' files are there.


FEW = Plan(steps=4, learning_rate=2e-3)


@pytest.fixture(scope="module")
def cheap() -> Iterator[None]:
    """One example for each step: a step of eight takes a minute on one core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_trainer, "EXAMPLES_A_STEP", 1)
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("cheap")
def test_a_training_that_was_cut_goes_on_and_the_student_works_in_the_graph(
    corpus: Callable[..., Path], smollm2: Path, index: LabelIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("trl")
    from transformers import AutoConfig, AutoTokenizer

    made, out = corpus(teacher(native=False), dev=0.125, turns=0), tmp_path / "student"

    monkeypatch.setattr(lm_trainer, "watch", cut_after(2, lm_trainer.watch))
    with pytest.raises(KeyboardInterrupt):
        train_language_model(made, str(smollm2), out, FEW)
    assert read_student(out) is None
    monkeypatch.undo()
    student = train_language_model(made, str(smollm2), out, FEW)

    history = [json.loads(line) for line in (out / "loss.jsonl").open()]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4]  # each once
    dev = [entry["dev_loss"] for entry in history if "dev_loss" in entry]
    assert dev[-1] < dev[0]
    assert (out / "loss.svg").read_text().startswith("<svg")
    assert read_student(out) == student
    assert (student.kind, student.target) == ("language-model", "select")  # its teacher made no searches to learn
    assert not (out / "checkpoints").exists()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(smollm2).chat_template
    assert AutoConfig.from_pretrained(out).dtype == AutoConfig.from_pretrained(smollm2).dtype

    model = load_model(f"gguf:{out / 'student.gguf'}")
    log = tmp_path / "students.jsonl"
    graph = build_graph(
        model,
        model,
        index,
        task=TASK,
        budget=Budget(turns=0, candidates=6),
        log=log,
        select_sampling=Sampling(max_tokens=100),
    )
    result = graph.invoke({"document": DOCUMENTS[0]})["result"]
    assert result.failure is None
    (exchange,) = [step.exchange for steps in read_log(log).steps.values() for step in steps if step.exchange]
    prompt = tokenizer.apply_chat_template(exchange.messages, add_generation_prompt=True, return_dict=False)
    assert exchange.replies[0].usage.prompt_tokens == len(prompt)

    assert train_language_model(made, str(smollm2), out, FEW) == student  # nothing is left to do
    with pytest.raises(UserError, match=r"another \(plan\); name another folder"):
        train_language_model(made, str(smollm2), out, Plan(steps=5))


def cut_after(step: int, watch: Callable[..., Any]) -> Callable[..., Any]:
    """As Ctrl-C does, right after a step's checkpoint."""

    def watching(*given: Any) -> Any:
        callback = watch(*given)

        def on_save(arguments: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

        callback.on_save = on_save
        return callback

    return watching


# Input that does not fit is an error of one line.


def test_a_corpus_in_another_trainers_format_is_refused(
    corpus: Callable[..., Path], tmp_path: Path, everything_installed: None
):
    with pytest.raises(UserError, match="its format is openai; make it again with --format trl"):
        train_language_model(corpus(teacher(native=False), form="openai"), "student", tmp_path / "out", Plan())


def test_a_teacher_without_searches_teaches_no_shortlister(
    corpus: Callable[..., Path], tmp_path: Path, everything_installed: None
):
    made = corpus(teacher(native=False), turns=0)
    with pytest.raises(UserError, match="no training examples of shortlist; the teacher was asked for no searches; "):
        train_language_model(made, "student", tmp_path / "out", Plan(target="shortlist"))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(language_model, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(UserError, match=r"training needs trl: pip install 'ctd-agent\[train\]'"):
        train_language_model(tmp_path, "student", tmp_path / "out", Plan())


def test_a_folder_with_something_else_in_it_is_left_alone(
    corpus: Callable[..., Path], tmp_path: Path, everything_installed: None
):
    with pytest.raises(UserError, match="there is something here already"):
        train_language_model(corpus(teacher(native=False)), "student", tmp_path, Plan())


def test_examples_longer_than_a_student_can_read_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]):
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=5))
    fits, long = Tokens([1, 2, 3], [4, 5]), Tokens([1, 2, 3], [4, 5, 6])
    assert language_model._fitting([fits, long], SimpleNamespace(config=config), "training") == [fits]
    assert "1 of 2 training examples have more than the student's 5 tokens: left out" in capsys.readouterr().err


def test_an_architecture_without_gguf_is_told_in_the_converters_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = subprocess.CompletedProcess([], 1, stderr="INFO: loading\nERROR:hf-to-gguf:Model Odd is not supported\n")
    monkeypatch.setattr(gguf.subprocess, "run", lambda *_, **__: said)
    assert gguf.convert(tmp_path, tmp_path / "it.gguf") == "Model Odd is not supported"
    assert not any(tmp_path.iterdir())


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "find_spec", lambda name: object())


@pytest.mark.slow
def test_a_base_that_is_no_chat_model_is_refused(
    corpus: Callable[..., Path], smollm2: Path, tokenizer: Any, tmp_path: Path
):
    made, folder = corpus(teacher(native=False)), tmp_path / "model"
    folder.mkdir()
    with pytest.raises(UserError, match=r"model: cannot be loaded as a language model: .*; name a folder with"):
        train_language_model(made, str(folder), tmp_path / "out", Plan())
    for file in (file for file in smollm2.iterdir() if file.name != "chat_template.jinja"):
        (folder / file.name).symlink_to(file)
    with pytest.raises(UserError, match="model: it has no chat template; name a student that is tuned to chat"):
        train_language_model(made, str(folder), tmp_path / "out", Plan())


@pytest.mark.slow
def test_a_student_whose_template_shows_no_tools_is_refused(corpus: Callable[..., Path], tokenizer: Any):
    rows = read_rows(corpus(teacher(native=True)), "both", "train")
    with pytest.raises(UserError, match=r"does not show tools.*--json-searches"):
        rendered(rows, tokenizer, "smollm2")


@pytest.mark.slow
@pytest.mark.parametrize("plan", [Plan(), Plan(lora=False, batch=1)], ids=["lora", "full"])
def test_too_little_memory_is_told_with_ways_out(
    plan: Plan, corpus: Callable[..., Path], tmp_path: Path, monkeypatch: Any
):
    torch = pytest.importorskip("torch")
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory: you tried to")):

        def fail(student: str, plan: Plan, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(language_model, "load", fail)
        lower = "lower the batch" if plan.batch is None else r"train adapters \(LoRA\)"
        with pytest.raises(UserError, match=f"out of memory: {lower}.*--max-tokens.*smaller student"):
            train_language_model(corpus_once(corpus, tmp_path), "student", tmp_path / "out", plan)


def corpus_once(corpus: Callable[..., Path], tmp_path: Path) -> Path:
    return tmp_path / "corpus" if (tmp_path / "corpus").exists() else corpus(teacher(native=False))
