"""`ctd-agent distill run`: label, corpus, train, eval in one command, which goes on where it was cut."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctd_agent.commands.evaluate import read_run
from ctd_agent.commands.options import (
    FILES,
    Candidates,
    Epochs,
    Force,
    Json,
    MinF1,
    MinRecall,
    Task,
    given,
    refuse_inputs,
)
from ctd_agent.commands.outcome import label_into
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctd_agent.agents.engines.student import Student
    from ctd_agent.graphs.job import Job
    from ctd_agent.measure.evaluate import Evaluation

TEMPERATURE = 0.7  # of a teacher with several samples: at 0 they would all be the same
SHOWN = ("P@1", "RP@5", "nDCG@5", "R@10", "micro F1")


def run(
    documents: Annotated[str, typer.Argument(help=f"What the teacher labels for the student to learn: {FILES}.")],
    labels: Annotated[str, typer.Option(help=f"The catalogue: {FILES}.")],
    student: Annotated[str, typer.Option(help="What to train, as for `distill train`.")],
    out: Annotated[Path, typer.Option(help="A folder for all of it; the same command goes on where it was cut.")],
    gold: Annotated[str | None, typer.Option(help="The documents' right labels, where they are known.")] = None,
    test: Annotated[
        str | None, typer.Option(help="Other documents with right labels (`id`, `text`, `labels`), to score both on.")
    ] = None,
    model: Annotated[str, typer.Option(help="The teacher: what `label --model` takes.")] = "local",
    task: Task = None,
    samples: Annotated[int, typer.Option(min=1, help="Teacher runs a document; the best for each phase counts.")] = 1,
    candidates: Candidates = None,
    turns: Annotated[int | None, typer.Option(min=0, help="As for `label`.")] = None,
    min_recall: MinRecall = 0.1,
    min_f1: MinF1 = 0.1,
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(help="Seed of samples, corpus and training.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Label with a teacher, make a corpus, train a student, and score both side by side."""
    from ctd_agent.agents.prompts import DEFAULT_TASK
    from ctd_agent.agents.sampling import Sampling
    from ctd_agent.console import note
    from ctd_agent.distill.corpus import Gates, Recipe, make_corpus
    from ctd_agent.distill.training.plan import Plan
    from ctd_agent.distill.training.students import kind_of, train
    from ctd_agent.files import read_gold, read_labels
    from ctd_agent.graphs.job import Job

    plan = Plan(seed=seed, epochs=epochs)
    kind_of(student, plan)  # a student that cannot be trained is refused before the teacher's hours
    budget = given(candidates=candidates, turns=turns)
    teacher = Job(
        labels=labels, shortlister=model, selector=model, task=task or DEFAULT_TASK, budget=budget, force=force
    )
    logs = []
    for sample in range(samples):
        job = teacher
        if samples > 1:
            drawn = Sampling(temperature=TEMPERATURE, seed=seed + sample)
            job = teacher.model_copy(update={"shortlist_sampling": drawn, "select_sampling": drawn})
        logs.append(_label(job, documents, out / f"teacher-{sample}.jsonl"))
    corpus = out / "corpus"
    if corpus.exists():
        note(f"{corpus}: it is there already; delete it to make it again")
    else:
        recipe = Recipe(gates=Gates(recall=min_recall, f1=min_f1), seed=seed)
        make_corpus(logs, read_gold(gold) if gold else None, recipe, corpus)
    made = train(corpus, student, out / "student", plan, read_labels(labels))
    if test is None:
        note(f"{out / 'student'}: trained; give --test documents with right labels to see how good it is")
        return
    # The student's run lies in the last of its folders: deleting that to train it anew deletes its answers too.
    runs = out / "test-teacher.jsonl", [*made][-1] / "test.jsonl"
    _label(teacher, test, runs[0])
    _label(teacher.model_copy(update=_models(made) | {"budget": given(candidates=candidates)}), test, runs[1])
    _summary(out, runs, test, seed, as_json)


def _label(job: "Job", source: str, output: Path) -> Path:
    """Label the documents that are left. Return the log. A document that fails teaches nothing, and ends nothing."""
    from ctd_agent.files import read_documents
    from ctd_agent.graphs.transitions import log_of

    refuse_inputs("--out", output, source)
    label_into(job, read_documents(source), output, log_of(output))
    return log_of(output)


def _models(made: "Mapping[Path, Student]") -> dict[str, str]:
    """Return the models of a job whose phases the students do."""
    first, *_ = made
    if made[first].kind != "language-model":
        return {name: spec for folder, student in made.items() for name, spec in student.specs(folder).items()}
    weights = first / f"{first.resolve().name}.gguf"
    if not weights.is_file():
        raise UserError(f"{first}: the local engine cannot run it; label and eval with --model vllm:{first}")
    return {"shortlister": f"gguf:{weights}", "selector": f"gguf:{weights}"}


def _summary(out: Path, both_runs: "Sequence[Path]", test: str, seed: int, as_json: bool) -> None:
    from ctd_agent.console import say_json
    from ctd_agent.files import read_gold
    from ctd_agent.measure.evaluate import compare, evaluate
    from ctd_agent.records import write_text

    right = read_gold(test)
    teacher, student = (read_run(run, right) for run in both_runs)
    found = [evaluate(run, right, seed=seed) for run in (teacher, student)]
    both = found[1].model_copy(update={"compared": compare(student, teacher, seed=seed)})
    lines = [scores.model_dump_json() for scores in (found[0], both)]
    write_text(out / "summary.json", "".join(f"{line}\n" for line in lines))
    if as_json or not sys.stdout.isatty():
        for line in lines:
            say_json(line)
    else:
        _show(found[0], both)


def _show(teacher: "Evaluation", student: "Evaluation") -> None:
    from rich.table import Table

    from ctd_agent.console import show_table

    table = Table("", "teacher", "student", "student less teacher", title=f"{student.documents} documents")
    for name in (name for name in SHOWN if name in student.metrics and student.compared):
        change = student.compared.differences[name] if student.compared else student.metrics[name]
        table.add_row(name, f"{teacher.metrics[name].mean:.3f}", f"{student.metrics[name].mean:.3f}", f"{change:+.3f}")
    seconds = [sum(cost.seconds for cost in scores.cost.values()) for scores in (teacher, student)]
    ratio = f"1/{seconds[0] / max(seconds[1], 1e-9):.0f}"
    table.add_row("seconds a document", *(f"{mean:.2f}" for mean in seconds), ratio)
    show_table(table)
