"""`ctd-agent distill run`: label, corpus, train, eval in one command, which goes on where it was cut."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctd_agent.commands.evaluate import read_run
from ctd_agent.commands.label import label
from ctd_agent.commands.options import FILES, Json, Task, read_catalogue
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctd_agent.agents.student import Student
    from ctd_agent.distill.evaluation import Evaluation

TEMPERATURE = 0.7  # of a teacher that is sampled more than once: without one, all its runs would be the same
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
    candidates: Annotated[int | None, typer.Option(min=1, help="As for `label`.")] = None,
    turns: Annotated[int | None, typer.Option(min=0, help="As for `label`.")] = None,
    min_recall: Annotated[float, typer.Option(min=0, max=1, help="As for `distill corpus`.")] = 0.1,
    min_f1: Annotated[float, typer.Option(min=0, max=1, help="As for `distill corpus`.")] = 0.1,
    epochs: Annotated[float | None, typer.Option(min=0, help="As for `distill train`.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Of samples, corpus and training.")] = 0,
    as_json: Json = False,
) -> None:  # long by its options: their list is the command's documentation
    """Label with a teacher, make a corpus, train a student, and score both side by side."""
    from ctd_agent.console import note
    from ctd_agent.distill.corpora import Recipe, make_corpus
    from ctd_agent.distill.supervision import Gates
    from ctd_agent.distill.training.course import Plan
    from ctd_agent.distill.training.students import kind_of, train
    from ctd_agent.files import read_gold

    plan = Plan(seed=seed, epochs=epochs)
    kind_of(student, plan)  # what cannot be trained is told before the teacher's hours
    asked = {"labels": labels, "task": task, "turns": turns, "candidates": candidates}
    logs = []
    for sample in range(samples):
        sampling = f"temperature={TEMPERATURE},seed={seed + sample}" if samples > 1 else None
        logs.append(_label(documents, out / f"teacher-{sample}.jsonl", asked, model=model, sampling=sampling))
    corpus = out / "corpus"
    if corpus.exists():
        note(f"{corpus}: it is there already; delete it to make it again")
    else:
        recipe = Recipe(gates=Gates(recall=min_recall, f1=min_f1), seed=seed)
        make_corpus(logs, read_gold(gold) if gold else None, recipe, corpus)
    made = train(corpus, student, out / "student", plan, read_catalogue(labels, {}))
    if test is None:
        note(f"{out / 'student'}: trained; give --test documents with right labels to see how good it is")
        return
    # The student's run lies in the last of its folders: who trains it anew deletes that, and its answers with it.
    runs = out / "test-teacher.jsonl", [*made][-1] / "test.jsonl"
    _label(test, runs[0], asked, model=model)
    _label(test, runs[1], asked | {"turns": None}, **_named(made))
    _summary(out, runs, test, seed, as_json)


def _label(source: str, output: Path, asked: "Mapping[str, Any]", **models: Any) -> Path:
    """Label documents, those that are left; return the log. A document that fails teaches nothing, and ends nothing."""
    sampling = models.pop("sampling", None)
    try:
        label(source, output=output, shortlist_sampling=sampling, select_sampling=sampling, **asked, **models)
    except typer.Exit as end:
        if end.exit_code != 1:
            raise
    return output.with_name(f"{output.name}.transitions.jsonl")


def _named(made: "Mapping[Path, Student]") -> dict[str, str | None]:
    """Return a student's phases by the options of `label`."""
    first, *_ = made
    if made[first].kind != "writer":
        return {folder.name: f"encoder:{folder}" for folder in made}
    weights = first / f"{first.resolve().name}.gguf"
    if not weights.is_file():
        raise UserError(f"{first}: the local engine cannot run it; label and eval with --model vllm:{first}")
    return {"model": f"gguf:{weights}"}


def _summary(out: Path, both_runs: "Sequence[Path]", test: str, seed: int, as_json: bool) -> None:
    from ctd_agent.distill import evaluation
    from ctd_agent.files import read_gold

    right = read_gold(test)
    runs = [read_run(run, None) for run in both_runs]
    scores = [evaluation.scored(results, right, steps) for results, steps in runs]
    found = [evaluation.evaluate(results, right, steps, seed=seed) for results, steps in runs]
    both = found[1].model_copy(update={"compared": evaluation.compare(scores[1], scores[0], None, seed=seed)})
    (out / "summary.json").write_text(
        "".join(one.model_dump_json() + "\n" for one in (found[0], both)), encoding="utf-8"
    )
    if as_json or not sys.stdout.isatty():
        sys.stdout.write((out / "summary.json").read_text(encoding="utf-8"))
    else:
        _show(found[0], both)


def _show(teacher: "Evaluation", student: "Evaluation") -> None:
    from rich.table import Table

    from ctd_agent.console import show_table

    table = Table("", "teacher", "student", "student less teacher", title=f"{student.documents} documents")
    for name in (name for name in SHOWN if name in student.metrics and student.compared):
        change = student.compared.differences[name] if student.compared else student.metrics[name]
        figures = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        table.add_row(name, f"{teacher.metrics[name].mean:.3f}", f"{student.metrics[name].mean:.3f}", figures)
    seconds = [sum(cost.seconds for cost in one.cost.values()) for one in (teacher, student)]
    ratio = f"1/{seconds[0] / max(seconds[1], 1e-9):.0f}"
    table.add_row("seconds a document", *(f"{one:.2f}" for one in seconds), ratio)
    show_table(table)
