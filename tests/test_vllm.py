"""`vllm:MODEL`: a real vLLM server as our child, with real weights, under the whole graph.

The slow tests need vLLM, and skip without it; `.ci/vllm` makes an environment that has it, and runs them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from conftest import LABELS

from ctd_agent.agents.engines import ChatModel, load_model
from ctd_agent.agents.engines.vllm import _REASONING_PARSERS, _TOOL_PARSERS, _first, chat_template, vllm_server
from ctd_agent.agents.sampling import Sampling
from ctd_agent.errors import CtdError
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.schema import Exchange
from ctd_agent.tools.label_index import LabelIndex

real = pytest.mark.skipif(find_spec("vllm") is None, reason="VLLM IS NOT INSTALLED: nothing of vllm:MODEL is tested")
NEWS = {"id": "news", "text": "The central bank raised interest rates again, and inflation fell."}


# What is started, without starting it


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [
        ("<|im_start|>assistant\n<tool_call>\n{...}</tool_call>", "hermes", None),  # Qwen2.5
        ("<tool_call> ... {%- if enable_thinking is defined and not ... <think>", "hermes", "qwen3"),  # Qwen3
        ("<tool_call>\n<function=name> ... <think>", "qwen3_coder", "qwen3"),
        ("[AVAILABLE_TOOLS] ... [TOOL_CALLS]", "mistral", None),
        ("<|start|>assistant<|channel|>analysis", "openai", "openai_gptoss"),
        ("<tool_call>name\n<arg_key> ... <think>", "glm45", "glm45"),
        ("{%- if not thinking is defined -%} ... <｜Assistant｜></think>", "deepseek_v31", "deepseek_v3"),
        ("<|im_system|>tool_declare<|im_middle|>", "kimi_k2", None),
        ("<|tool_list_start|> ... <|tool_call_start|>[", "lfm2", None),
        ("<｜User｜> ... <｜Assistant｜><think>\n", None, "deepseek_r1"),
        ("<|im_start|>user", None, None),  # SmolLM2
    ],
)
def test_the_parsers_are_those_of_the_chat_templates_form(template: str, tools: str | None, reasoning: str | None):
    assert _first(_TOOL_PARSERS, template) == tools
    assert _first(_REASONING_PARSERS, template) == reasoning


def test_a_chat_template_is_read_from_either_of_its_two_places(tmp_path: Path):
    assert chat_template(str(tmp_path)) == ""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    assert chat_template(str(tmp_path)) == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert chat_template(str(tmp_path)) == "new"


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_the_warden_runs_ends_with_the_process_that_asked_for_it(tmp_path: Path, end: signal.Signals):
    """A process has the warden run a command with a child of its own, and is killed: both are gone."""
    pids = tmp_path / "pids"
    command = f"sleep 600 & echo $! $$ > {pids}; wait"
    code = (
        "import subprocess, sys, time\n"
        "warden = [sys.executable, '-m', 'ctd_agent.agents.engines.warden', 'sh', '-c', sys.argv[1]]\n"
        "running = subprocess.Popen(warden, stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, command]) as asking:
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        asking.send_signal(end)
    until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def until(condition, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# The real thing


@real
@pytest.mark.slow
def test_the_whole_graph_runs_on_it(vllm: ChatModel, index: LabelIndex):
    """It searches under a schema, is asked about each candidate, and chooses from the catalogue."""
    graph = build_graph(vllm, replace(vllm, selects="pointwise"), index, budget=Budget(turns=1, candidates=3))
    output = graph.invoke({"document": NEWS})
    assert [step.node for step in output["transitions"]][:2] == ["read", "shortlist"]
    result = output["result"]
    assert result.failure is None
    shortlisted = {entry.id for entry in result.shortlist}
    assert {"rates", "inflation"} <= shortlisted <= {label.id for label in LABELS}
    assert {label.id for label in result.labels} <= shortlisted
    assert len(output["transitions"][-1].exchange.replies) == len(shortlisted) * 2


@real
@pytest.mark.slow
def test_it_chooses_from_the_whole_list_under_a_schema_or_fails_alone(vllm: ChatModel, index: LabelIndex):
    """A model of 135 million parameters rambles: what it is cut in is no choice, and said to be none."""
    sampling = Sampling(max_tokens=40, temperature=0.7, seed=1)
    graph = build_graph(vllm, vllm, index, budget=Budget(turns=0, candidates=5), select_sampling=sampling)
    output = graph.invoke({"document": NEWS})
    exchange = output["transitions"][-1].exchange
    assert exchange.replies[0].content.lstrip().startswith("{")
    assert (exchange.options["seed"], exchange.options["temperature"]) == (1, 0.7)
    failure = output["result"].failure
    assert failure is None or (failure.phase, failure.kind) == ("select", "invalid_output")


@real
@pytest.mark.slow
def test_when_it_is_killed_it_is_started_again_and_the_call_is_answered(vllm: ChatModel, smollm2: Path):
    server = vllm_server(str(smollm2))
    ask = Exchange(messages=[{"role": "user", "content": "Which label?"}], options={"max_tokens": 2})
    vllm.ask(ask)
    (pid,) = Path(f"/proc/{server._process.pid}/task/{server._process.pid}/children").read_text().split()
    os.killpg(int(pid), signal.SIGKILL)
    until(lambda: not answers(server.url))
    assert vllm.ask(ask).replies[0].content


@real
@pytest.mark.slow
def test_it_ends_with_the_run_even_when_the_run_is_killed(smollm2: Path):
    code = (
        "from ctd_agent.agents.engines.vllm import vllm_server\n"
        f"print(vllm_server({str(smollm2)!r}).url, flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        url = run.stdout.readline().strip()
        assert answers(url)
        run.kill()
    until(lambda: not answers(url))


@real
@pytest.mark.slow
def test_a_model_that_is_none_is_an_error_that_names_the_log(tmp_path: Path):
    with pytest.raises(CtdError, match=r"the server has ended: .*; its log: .*\.log"):
        load_model(f"vllm:{tmp_path}")


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5.0).status_code in (200, 401)
    except httpx.HTTPError:
        return False
