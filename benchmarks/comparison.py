"""Runs side by side: means over seeds, then over documents, with 95% intervals over documents, of differences paired.

10,000 resamples, seed 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ctd_agent.distill.metrics import Interval, bootstrap
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument, Usage

Values = dict[str, float]  # a metric's, by document


GIVEN = ("nDCG@5, same shortlist", "F1, same shortlist")  # of a choice from a shortlist that all are given


def room(out: Path, way: str, seed: int) -> Path:
    """Return the folder of a way's student of one seed."""
    return out / f"{way.replace(',', '').replace(' ', '-')}-{seed}"


def figures(rows: Mapping[str, Mapping[str, Values]], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Return every way's metrics, then each pair's differences, the first less the second, as lines of markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for way, by_metric in rows.items():
        lines.append(f"| {way} | " + " | ".join(interval(list(by_metric[name].values())) for name in names) + " |")
    for one, other in pairs:
        cells = [difference(rows[one][name], rows[other][name]) for name in names]
        lines.append(f"| {one} less {other} | " + " | ".join(cells) + " |")
    return lines


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
