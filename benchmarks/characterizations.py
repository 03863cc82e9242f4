"""The tables of docs/results.md from finished characterizations, side by side.

    ctd-agent characterize dev-12.jsonl --labels catalogue.jsonl --candidates 10 --task "..." --out studies/debian-tags
    python benchmarks/characterizations.py studies/*

Prints markdown: a column a study, or a row. Intervals are 95% bootstrap percentiles over documents,
10,000 samples, the study's seed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from script import command_line, print_table, run

from ctd_agent.measure.characterize.record import Characterization, CurvePoint

GIVEN_METRICS = ("P@1", "RP@5", "precision", "recall", "labels chosen")
Studies = dict[str, Characterization]


def main() -> None:
    """Print every table."""
    parser = command_line(__doc__)
    parser.add_argument("studies", nargs="+", type=Path, help="folders that `ctd-agent characterize` has written")
    studies = {
        folder.name: Characterization.model_validate_json((folder / "characterization.json").read_text())
        for folder in parser.parse_args().studies
    }
    print_studies(studies)
    print_curves("candidates kept", studies, [study.recall_by_candidates for study in studies.values()])
    print_curves("searches", studies, [study.recall_by_searches for study in studies.values()])
    for name, study in studies.items():
        given = [variant for variant in study.selection_given if "order" not in variant.name]
        rows = [[v.name, *(f"{v.metrics[metric]:.3f}" for metric in GIVEN_METRICS)] for v in given]
        print_rows([f"{name}: the selector's shortlist", *GIVEN_METRICS], rows)
    print_differences(studies)
    print_swaps(studies)
    for name, study in studies.items():
        steps = [[s.name, f"{s.focus:.3f}", f"{s.confusion:.3f}" if s.confusion else "none"] for s in study.steps]
        print_rows([f"{name}: after", "focus", "confusion"], steps)
    classes = zip(*(study.errors for study in studies.values()), strict=True)
    errors = [[cells[0].name, *(f"{cell.count} ({cell.share:.0%})" for cell in cells)] for cells in classes]
    print_rows(["of all gold labels; of all chosen", *studies], errors)
    for name, study in studies.items():
        print(f"**{name}**\n")
        print("\n".join(f"- {finding}" for finding in study.findings) + "\n")


def print_studies(studies: Studies) -> None:
    """Print the settings, a row a study."""
    rows = [
        [name, str(study.documents), f"{study.labels:,}", study.embedder, study.shortlister, str(study.candidates)]
        for name, study in studies.items()
    ]
    print_rows(["study", "documents", "labels", "embedder", "model", "candidates"], rows)


def print_curves(title: str, studies: Studies, curves: Sequence[Sequence[CurvePoint]]) -> None:
    """Print curves of recall, a column a study. A shorter curve has blanks."""
    columns = [{point.at: f"{point.recall:.3f}" for point in curve} for curve in curves]
    places = sorted({at for column in columns for at in column})
    rows = [[str(at), *(column.get(at, "") for column in columns)] for at in places]
    print_rows([f"recall by {title}", *studies], rows)


def print_differences(studies: Studies) -> None:
    """Print each ablation's change of RP@5 and F1, a column a study."""
    names = dict.fromkeys(v.name for study in studies.values() for v in study.ablations[1:])
    for metric in ("RP@5", "F1"):
        rows = []
        for name in names:
            changes = [next((v.differences[metric] for v in study.ablations if v.name == name), None)
                       for study in studies.values()]  # fmt: skip
            rows.append([name, *(f"{change:+.3f}" if change else "" for change in changes)])
        print_rows([f"{metric} less the whole graph's", *studies], rows)


def print_swaps(studies: Studies) -> None:
    """Print the matrix of every study, then each phase's share of the gain."""
    for name, study in studies.items():
        matrix = zip(study.swap.shortlisters, study.swap.values, strict=True)
        rows = [[shortlister, *(f"{cell:.3f}" for cell in cells)] for shortlister, cells in matrix]
        print_rows([f"{name}: RP@5", *study.swap.selectors], rows)
    swaps = {name: study.swap for name, study in studies.items()}
    shares = [
        [name, *(f"{share:+.3f}" for share in (swap.gain, swap.shares["shortlist"], swap.shares["select"]))]
        for name, swap in swaps.items()
    ]
    print_rows(["RP@5", "gain over hybrid", "of it shortlisting", "of it selecting"], shares)


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table and a blank line."""
    print_table(header, rows)
    print()


if __name__ == "__main__":
    run(main)
