"""Figures of runs side by side: means over seeds, then over documents, with paired 95% intervals over documents.

10,000 resamples, seed 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ctd_agent.distill.metrics import Interval, bootstrap
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument, Usage

Values = dict[str, float]  # a metric's, by document


def mean_over_seeds(runs: Sequence[Values]) -> Values:
    """Return the mean over runs for each document that all have."""
    return {key: fmean(run[key] for run in runs) for key in runs[0] if all(key in run for run in runs)}


def interval(numbers: Sequence[float]) -> str:
    """Return a mean with its interval."""
    return shown(bootstrap(numbers), "") if numbers else "-"


def difference(mine: Values, its: Values) -> str:
    """Return the mean of paired differences with its interval and their number, as text."""
    both = mine.keys() & its.keys()
    return shown(paired(mine, its), "+") + f" n={len(both)}" if both else "-"


def paired(mine: Values, its: Values) -> Interval:
    """Return the mean of paired differences with its interval."""
    return bootstrap([mine[key] - its[key] for key in mine if key in its])


def shown(value: Interval, sign: str) -> str:
    """Return a figure with its interval in brackets."""
    mean, low, high = (f"{one:{sign}.3f}" for one in value)
    return f"{mean} [{low}, {high}]"


def costs(runs: Mapping[str, Path]) -> str:
    """Return what a document cost in each run, as markdown."""
    lines = ["| | seconds a document | tokens a document |", "|---|---|---|"]
    for name, run in runs.items():
        total = [sum(one.usage.values(), Usage()) for one in read_records(run, LabeledDocument)]
        tokens = fmean(one.prompt_tokens - one.cached_tokens + one.completion_tokens for one in total)
        lines.append(f"| {name} | {fmean(one.seconds for one in total):.3f} | {tokens:,.0f} |")
    return "\n".join(lines)
