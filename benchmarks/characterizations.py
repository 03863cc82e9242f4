"""The tables of docs/results.md from finished characterizations, side by side.

    ctd-agent characterize dev-12.jsonl --labels catalogue.jsonl --candidates 10 --task "..." --out studies/debian-tags
    python benchmarks/characterizations.py studies/*

Prints markdown: a column a study, or a row. Intervals are 95% bootstrap percentiles over documents,
10,000 samples, the study's seed.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctd_agent.distill.characterization import Characterization
from ctd_agent.distill.metrics import Interval

GIVEN_METRICS = ("P@1", "RP@5", "precision", "recall", "labels chosen")
Studies = dict[str, Characterization]


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="folders that `ctd-agent characterize` has written")
    studies = {
        folder.name: Characterization.model_validate_json((folder / "characterization.json").read_text())
        for folder in parser.parse_args().studies
    }
    print_studies(studies)
    for title, pick in (("candidates kept", by_candidates), ("searches", by_searches)):
        print_rows([f"recall by {title}", *studies], columns(pick(one) for one in studies.values()))
    for name, one in studies.items():
        given = [variant for variant in one.selection_given if "order" not in variant.name]
        rows = [[v.name, *(shown(v.metrics[metric]) for metric in GIVEN_METRICS)] for v in given]
        print_rows([f"{name}: the selector's shortlist", *GIVEN_METRICS], rows)
    print_differences(studies)
    print_swaps(studies)
    for name, one in studies.items():
        rows = [[s.name, shown(s.focus), shown(s.confusion) if s.confusion else "none"] for s in one.steps]
        print_rows([f"{name}: after", "focus", "confusion"], rows)
    classes = zip(*(one.errors for one in studies.values()), strict=True)
    rows = [[cells[0].name, *(f"{cell.count} ({cell.share:.0%})" for cell in cells)] for cells in classes]
    print_rows(["of all gold labels; of all chosen", *studies], rows)
    for name, one in studies.items():
        print(f"**{name}**\n")
        print("\n".join(f"- {finding}" for finding in one.findings) + "\n")


def print_studies(studies: Studies) -> None:
    """Print what was studied, a row a study."""
    rows = [
        [name, str(one.documents), f"{one.labels:,}", one.embedder, one.shortlister, str(one.candidates)]
        for name, one in studies.items()
    ]
    print_rows(["study", "documents", "labels", "embedder", "model", "candidates"], rows)


def by_candidates(one: Characterization) -> dict[str, str]:
    """Return the curve of recall by candidates kept."""
    return {str(point.at): shown(point.recall) for point in one.recall_by_candidates}


def by_searches(one: Characterization) -> dict[str, str]:
    """Return the curve of recall by searches, the document's own first."""
    return {str(point.at): shown(point.recall) for point in one.recall_by_searches}


def columns(curves: Iterable[dict[str, str]]) -> list[list[str]]:
    """Return curves as rows, a column a curve; a shorter one has blanks."""
    of_all = list(curves)
    keys = sorted({key for curve in of_all for key in curve}, key=int)
    return [[key, *(curve.get(key, "") for curve in of_all)] for key in keys]


def print_differences(studies: Studies) -> None:
    """Print what each ablation changes of RP@5 and F1, a column a study."""
    names = dict.fromkeys(v.name for one in studies.values() for v in one.ablations[1:])
    for metric in ("RP@5", "F1"):
        rows = []
        for name in names:
            changes = [next((v.differences[metric] for v in one.ablations if v.name == name), None)
                       for one in studies.values()]  # fmt: skip
            rows.append([name, *(shown(change, "+") if change else "" for change in changes)])
        print_rows([f"{metric} less the whole graph's", *studies], rows)


def print_swaps(studies: Studies) -> None:
    """Print the matrix of every study, then each phase's share of the gain."""
    for name, one in studies.items():
        rows = [[row, *map(shown, cells)] for row, cells in zip(one.swap.shortlisters, one.swap.values, strict=True)]
        print_rows([f"{name}: RP@5", *one.swap.selectors], rows)
    shares = [
        [
            name,
            *(shown(share, "+") for share in (one.swap.gain, one.swap.shares["shortlist"], one.swap.shares["select"])),
        ]
        for name, one in studies.items()
    ]
    print_rows(["RP@5", "gain over hybrid", "of it shortlisting", "of it selecting"], shares)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a markdown table."""
    print("| " + " | ".join(header) + " |\n| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def shown(interval: Interval, sign: str = "") -> str:
    """Return an interval as a cell: mean [low, high]."""
    return f"{interval.mean:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
