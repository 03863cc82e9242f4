"""The engines that run models: one table of them (`table`), a module each."""

from ctd_agent.agents.engines.chat_model import ChatModel, EngineError
from ctd_agent.agents.engines.encoder import Encoder
from ctd_agent.agents.engines.table import ENGINES, Engine, Model, load_model, load_phases

__all__ = ["ENGINES", "ChatModel", "Encoder", "Engine", "EngineError", "Model", "load_model", "load_phases"]
