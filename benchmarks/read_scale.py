"""What it takes to read a long run: seconds and memory of `eval`, `report` and `distill corpus`, by documents.

A run that is there (RUN, its log beside it) is repeated under new ids until it has so many documents. Its texts repeat,
so a corpus of it is small: what is measured is the reading.

    ctd-agent label examples/debian/documents.jsonl --labels examples/debian/catalogue.jsonl -o run.jsonl
    python benchmarks/read_scale.py run.jsonl --gold examples/debian/gold.jsonl --sizes 2000 20000 --out OUT
"""

import json
import resource
import shutil
from collections import defaultdict
from pathlib import Path
from time import perf_counter

from script import command_line, in_own_process, print_table, run

from ctd_agent.cli import run as ctd_agent
from ctd_agent.files import read_gold
from ctd_agent.graphs.transitions import log_of
from ctd_agent.schema import Gold

COMMANDS = {
    "eval": "eval {0}/run.jsonl --gold {0}/gold.jsonl --json",
    "report": "report {0}/run.jsonl --gold {0}/gold.jsonl --out {0}/report.html",
    "distill corpus": "distill corpus {0}/run.jsonl.transitions.jsonl --gold {0}/gold.jsonl --out {0}/corpus --json",
}


def main() -> None:
    """Measure every command at every size."""
    parser = command_line(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--gold", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--out", type=Path, required=True, help="a folder for the long runs")
    parser.add_argument("--measure", nargs=2, metavar=("COMMAND", "FOLDER"), help="used by the script itself")
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return
    rows = []
    for size in options.sizes:
        folder = options.out / str(size)
        if not folder.exists():
            repeat(options.run, read_gold(options.gold), size, folder)
        log = log_of(folder / "run.jsonl").stat().st_size
        for name in COMMANDS:
            figures = in_own_process("--measure", name, str(folder))
            rows.append([f"{size:,}", f"{log / 1e6:,.0f}", name, f"{figures['seconds']:.0f}", f"{figures['mb']:.0f}"])
    print_table(["documents", "log, MB", "command", "seconds", "memory, MB"], rows, "rrl")


def repeat(source: Path, gold: dict[str, Gold], size: int, folder: Path) -> None:
    """Write a run of `size` documents."""
    header, *lines = log_of(source).read_text().splitlines()
    steps = defaultdict(list)
    for line in lines:
        steps[json.loads(line)["document"]].append(line)
    results = {json.loads(line)["id"]: line for line in source.read_text().splitlines()}
    ids = [*results]
    folder.mkdir(parents=True)
    with (
        (folder / "run.jsonl").open("w") as run_file,
        log_of(folder / "run.jsonl").open("w") as log_file,
        (folder / "gold.jsonl").open("w") as gold_file,
    ):
        print(header, file=log_file)
        for number in range(size):
            document = ids[number % len(ids)]
            key = f"{document}-{number}"
            for line in steps[document]:
                print(line.replace(f'"document":"{document}"', f'"document":"{key}"', 1), file=log_file)
            print(results[document].replace(f'"id":"{document}"', f'"id":"{key}"', 1), file=run_file)
            print(
                json.dumps({"id": key, "labels": sorted(gold[document].labels) if document in gold else []}),
                file=gold_file,
            )


def measure(name: str, folder: str) -> None:
    """Run a command in a folder. Print its seconds and the largest memory of this process."""
    shutil.rmtree(Path(folder, "corpus"), ignore_errors=True)
    started = perf_counter()
    assert ctd_agent(COMMANDS[name].format(folder).split()) == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": perf_counter() - started, "mb": peak}))


if __name__ == "__main__":
    run(main)
