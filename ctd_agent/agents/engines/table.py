"""The table of engines: a model spec to a model. Nothing outside this folder knows an engine by name.

To add an engine: a module with a function from spec and name to a model, and its row here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ctd_agent.agents.engines.chat_model import ChatModel, Thinking
from ctd_agent.agents.engines.encoder import Encoder, load_encoder
from ctd_agent.agents.engines.langchain_chat import load_langchain
from ctd_agent.agents.engines.llama import llama_thinking, load_gguf, load_local
from ctd_agent.agents.engines.openai_chat import load_openai, load_served, vllm_thinking
from ctd_agent.agents.engines.vllm import load_vllm
from ctd_agent.errors import UserError

Model = ChatModel | Encoder  # a phase of the graph is done by either


@dataclass(frozen=True)
class Engine:
    """A row of the table.

    `form` is the spec as users write it. The part before the colon is the engine's name. `load` takes the spec and
    the part behind that colon. `thinking` is how the engine is told how much to think, unless the model that it loads
    knows better. `local`: it loads weights in the process or on the machine that names it.
    """

    form: str
    help: str
    load: Callable[[str, str], Model]
    thinking: Thinking | None = None
    local: bool = False

    @property
    def prefix(self) -> str:
        """The engine's name: what a spec begins with."""
        return self.form.partition(":")[0]


OTHER = Engine(
    "PROVIDER:MODEL", "whatever LangChain's init_chat_model accepts, with the extra `langchain`", load_langchain
)
ENGINES = [
    Engine(
        "local",
        "Qwen2.5-Coder-1.5B-Instruct Q4_K_M on llama.cpp, in this process; needs nothing else",
        load_local,
        llama_thinking,
        local=True,
    ),
    Engine(
        "gguf:FILE",
        "llama.cpp in this process on a .gguf file, or on OWNER/REPO/FILE.gguf from the Hugging Face Hub",
        load_gguf,
        llama_thinking,
        local=True,
    ),
    Engine(
        "openai:MODEL[@URL]",
        "OpenAI, its key in OPENAI_API_KEY, or an endpoint like it, its key in CTD_AGENT_API_KEY; "
        "a URL without a path gets /v1",
        load_openai,
        vllm_thinking,
    ),
    Engine(
        "vllm:MODEL",
        "a vLLM server on this machine for the run, with the extra `vllm`; MODEL is a folder or on the "
        "Hugging Face Hub; more arguments for the server in CTD_AGENT_VLLM_ARGS",
        load_vllm,
        vllm_thinking,
        local=True,
    ),
    Engine(
        "vllm:MODEL@URL", "a vLLM server that runs already; a URL without a path gets /v1", load_served, vllm_thinking
    ),
    Engine(
        "encoder:FOLDER",
        "an encoder that `ctd-agent distill train` has trained, for the phase that it was trained for",
        load_encoder,
    ),
    OTHER,
]


def engine_of(spec: str) -> Engine:
    """Return the row that a spec names. Raises UserError for a spec that names an engine and no model."""
    prefix, colon, name = spec.partition(":")
    rows = [engine for engine in ENGINES if engine.prefix == prefix]
    if not rows or (colon and rows[0].form == prefix):
        return OTHER
    if rows[0].form != prefix and not name:
        raise UserError(f"{spec}: name a model behind it; {_forms()}")
    return next((engine for engine in rows if ("@" in engine.form) == ("@" in name)), rows[0])


def load_model(spec: str) -> Model:
    """Return the model that a spec names.

    Raises UserError for a spec that names nothing, CtdError for an engine that does not start.

    >>> load_model("openai:Qwen/Qwen3-8B@http://gpu1:8000").selects
    'listwise'
    """
    engine = engine_of(spec)
    try:
        model = engine.load(spec, spec.partition(":")[2])
    except UserError as error:
        if engine is OTHER:
            raise UserError(f"{error}; {_forms()}") from error
        raise
    if isinstance(model, Encoder) or model.thinking:
        return model
    return replace(model, thinking=engine.thinking)


def _forms() -> str:
    return f"a model is one of {', '.join(engine.form for engine in ENGINES)}"


def load_phases(shortlister: str, selector: str, selecting: str | None = None) -> tuple[Model, Model]:
    """Return the models of the two phases, one and the same where the specs are. Raises as load_model does.

    `selecting`, where not None, is the way in which a chat model selects.
    """
    specs = sorted({shortlister, selector}, key="local".__eq__)  # last what may be a download
    loaded = {spec: load_model(spec) for spec in specs}
    model = loaded[selector]
    if selecting is None or isinstance(model, Encoder):
        return loaded[shortlister], model
    return loaded[shortlister], replace(model, selects=selecting)
