"""Runs side by side: means over seeds, then over documents, with 95% intervals over documents, of differences paired.

10,000 resamples, seed 0.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from xml.etree.ElementTree import tostring

from ctd_agent.distill.metrics import Interval, bootstrap
from ctd_agent.distill.report_charts import element
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument, Usage

Values = dict[str, float]  # a metric's, by document


def arguments(description: str, student: str) -> ArgumentParser:
    """Return the options that every comparison of students has; `student` says what one is made from."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, nargs="+", required=True, help="the teacher's, over training documents")
    parser.add_argument("--test", required=True, help="documents that the teacher's log does not have")
    parser.add_argument("--labels", required=True, help="the catalogue")
    parser.add_argument("--student", required=True, help=student)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


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


def forest(rows: Mapping[str, Mapping[str, Values]], metrics: Iterable[str], pairs: Sequence[tuple[str, str]]) -> bytes:
    """Draw what the first of each pair has more than the second, as SVG: a line an interval, a disc its middle."""
    spans = {
        f"{name}: {one} less {other}": paired(rows[one][name], rows[other][name])
        for name in metrics
        for one, other in pairs
    }
    reach, parts = max(abs(end) for span in spans.values() for end in span), []
    for row, (name, span) in enumerate(spans.items()):
        y, (middle, low, high) = f"{24 + 22 * row}", (f"{430 + 150 * end / reach:.1f}" for end in span)
        parts.append(element("text", name, x="270", y=y, dy="4", text_anchor="end"))
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y, stroke="#4269d0", stroke_width="2"))
        parts.append(element("circle", cx=middle, cy=y, r="4", fill="#4269d0"))
        parts.append(element("text", shown(span, "+"), x="590", y=y, dy="4"))
    parts.append(element("line", x1="430", x2="430", y1="10", y2=f"{22 * len(spans) + 14}", stroke="#888"))
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 760 {22 * len(spans) + 24}", "font-size": "11"}
    return tostring(element("svg", *parts, **box, style="background:#fff", font_family="sans-serif", role="img"))


def costs(runs: Mapping[str, Path]) -> str:
    """Return what a document cost in each run, as markdown."""
    lines = ["| | seconds a document | tokens a document |", "|---|---|---|"]
    for name, run in runs.items():
        total = [sum(one.usage.values(), Usage()) for one in read_records(run, LabeledDocument)]
        tokens = fmean(one.prompt_tokens - one.cached_tokens + one.completion_tokens for one in total)
        lines.append(f"| {name} | {fmean(one.seconds for one in total):.3f} | {tokens:,.0f} |")
    return "\n".join(lines)
