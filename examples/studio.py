"""The labelling graph as LangGraph's own tools load it (`langgraph dev`, LangGraph Studio).

Set CTD_AGENT_LABELS to a catalogue and CTD_AGENT_MODEL to a model spec; without them, it is the
Debian example and `local`. Input: {"document": {"id": "1", "text": "..."}}.
"""

import asyncio
import os
from functools import cache
from pathlib import Path

from ctd_agent.graphs.job import Job
from ctd_agent.graphs.labeling import LabelingGraph

EXAMPLE = Path(__file__).parent / "debian" / "catalogue.jsonl"


async def labeling() -> LabelingGraph:
    """Return the graph. The server asks for it at every request, and bears no blocking call in its loop."""
    return await asyncio.to_thread(_labeling)


@cache
def _labeling() -> LabelingGraph:
    labels = os.environ.get("CTD_AGENT_LABELS", str(EXAMPLE))
    model = os.environ.get("CTD_AGENT_MODEL", "local")
    return Job(labels=labels, shortlister=model, selector=model).open().graph()
