"""Models of any provider that LangChain's init_chat_model knows."""

from ctd_agent.agents.engines.chat_model import ChatModel, reason
from ctd_agent.errors import UserError
from ctd_agent.extras import library


def load_langchain(spec: str, name: str) -> ChatModel:
    """Return the model that LangChain knows by this spec. Raises UserError where it knows none, or is not installed."""
    models = library("langchain.chat_models", "langchain", f"{spec}: no model of ctd-agent's own; for LangChain's")
    try:
        chat = models.init_chat_model(spec)
    except Exception as error:  # every provider has its own for a missing key or package
        raise UserError(f"{spec}: no name that LangChain knows: {reason(error)}") from error
    return ChatModel(spec, chat, constrained=False)
