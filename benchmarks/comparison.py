"""Runs side by side: means over seeds, then over documents, with 95% intervals over documents, of differences paired.

10,000 resamples, seed 0.
"""

from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from xml.etree.ElementTree import tostring

from script import command_line, interval, spent, table, worked_on

from ctd_agent.measure.metrics import Interval, Metric, bootstrap
from ctd_agent.measure.report.charts import element
from ctd_agent.measure.trace import Trace
from ctd_agent.records import read_records
from ctd_agent.schema import LabeledDocument

Values = dict[str, float]  # a metric's, by document
GIVEN = ("nDCG@5, same shortlist", "F1, same shortlist")  # metrics of a choice from a shortlist that all are given


def arguments(description: str | None, student: str) -> ArgumentParser:
    """Return the options that every comparison of students has. `student` is the help on the base model."""
    parser = command_line(description)
    parser.add_argument("--log", type=Path, nargs="+", required=True, help="the teacher's, over training documents")
    parser.add_argument("--test", required=True, help="documents that the teacher's log does not have")
    parser.add_argument("--labels", required=True, help="the catalogue")
    parser.add_argument("--student", required=True, help=student)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def room(out: Path, way: str, seed: int) -> Path:
    """Return the folder of a way's student of one seed."""
    return out / f"{way.replace(',', '').replace(' ', '-')}-{seed}"


def ranking_values(run: Iterable[Trace], metrics: Mapping[str, Metric]) -> dict[str, Values]:
    """Return every metric of a run's rankings, by document, over the documents that have right labels."""
    scored = [trace for trace in run if trace.right]
    return {name: {t.document: metric(t.ranking, t.right) for t in scored} for name, metric in metrics.items()}


def figures(rows: Mapping[str, Mapping[str, Values]], pairs: Sequence[tuple[str, str]]) -> Iterable[str]:
    """Return every way's metrics, then each pair's differences, the first less the second, as lines of markdown."""
    names = list(next(iter(rows.values())))
    cells = [[way, *(mean(by_metric[name]) for name in names)] for way, by_metric in rows.items()]
    cells += [
        [f"{first} less {second}", *(difference(rows[first][name], rows[second][name]) for name in names)]
        for first, second in pairs
    ]
    return table(["", *names], cells)


def mean_over_seeds(runs: Sequence[Values]) -> Values:
    """Return the mean over runs for each document that all have."""
    return {key: fmean(run[key] for run in runs) for key in runs[0] if all(key in run for run in runs)}


def mean(values: Values) -> str:
    """Return the mean over documents with its interval, as text."""
    return interval(list(values.values())) if values else "-"


def difference(mine: Values, its: Values) -> str:
    """Return the mean of paired differences with its interval and their number, as text."""
    both = mine.keys() & its.keys()
    return f"{paired(mine, its):+.3f} n={len(both)}" if both else "-"


def paired(mine: Values, its: Values) -> Interval:
    """Return the mean of paired differences with its interval."""
    return bootstrap([mine[key] - its[key] for key in mine if key in its])


def forest(rows: Mapping[str, Mapping[str, Values]], metrics: Iterable[str], pairs: Sequence[tuple[str, str]]) -> bytes:
    """Draw each pair's differences, the first less the second, as SVG: an interval is a line, its mean a disc."""
    spans = {
        f"{name}: {first} less {second}": paired(rows[first][name], rows[second][name])
        for name in metrics
        for first, second in pairs
    }
    reach, parts = max(abs(end) for span in spans.values() for end in span), []
    for row, (name, span) in enumerate(spans.items()):
        y, (middle, low, high) = f"{24 + 22 * row}", (f"{430 + 150 * end / reach:.1f}" for end in span)
        parts.append(element("text", name, x="270", y=y, dy="4", text_anchor="end"))
        parts.append(element("line", x1=low, x2=high, y1=y, y2=y, stroke="#4269d0", stroke_width="2"))
        parts.append(element("circle", cx=middle, cy=y, r="4", fill="#4269d0"))
        parts.append(element("text", f"{span:+.3f}", x="590", y=y, dy="4"))
    parts.append(element("line", x1="430", x2="430", y1="10", y2=f"{22 * len(spans) + 14}", stroke="#888"))
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 760 {22 * len(spans) + 24}", "font-size": "11"}
    return tostring(element("svg", *parts, **box, style="background:#fff", font_family="sans-serif", role="img"))


def costs(runs: Mapping[str, Path]) -> Iterable[str]:
    """Return the cost of a document in each run, as lines of markdown."""
    rows = []
    for name, run in runs.items():
        usages = [spent([result]) for result in read_records(run, LabeledDocument)]
        seconds, tokens = fmean(usage.seconds for usage in usages), fmean(map(worked_on, usages))
        rows.append([name, f"{seconds:.3f}", f"{tokens:,.0f}"])
    return table(["", "seconds a document", "tokens a document"], rows)
