"""The examples in docstrings run, and every public entry point has one."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ctd_agent
import ctd_agent.distill.corpus
import ctd_agent.files
import ctd_agent.graphs.job
import ctd_agent.measure.evaluate
from ctd_agent import schema

ENTRIES = [
    *(getattr(ctd_agent, name) for name in ctd_agent.__all__),
    *(getattr(ctd_agent.files, name) for name in ctd_agent.files.__all__),
    ctd_agent.distill.corpus.make_corpus,
    ctd_agent.measure.evaluate.evaluate,
]
NEED_WEIGHTS = ("ctd_agent.graphs.labeling.build_graph", "ctd_agent.graphs.job.Labeller")


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    names = [module.name for module in pkgutil.walk_packages(ctd_agent.__path__, "ctd_agent.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    found = [test for module in modules for test in finder.find(module, module.__name__, extraglobs=known(module))]
    return [test for test in found if test.examples]


def known(module: ModuleType) -> dict[str, Any]:
    """The names that an example may use: those of its module, of the package and of its records."""
    public = {name: getattr(ctd_agent, name) for name in ctd_agent.__all__}
    return vars(schema) | public | vars(module)


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(test, marks=pytest.mark.slow if test.name.startswith(NEED_WEIGHTS) else (), id=test.name)
        for test in examples()
    ],
)
def test_an_example_prints_what_it_says(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert not told, "".join(told)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_a_public_entry_point_has_an_example(entry: Any):
    assert ">>> " in (inspect.getdoc(entry) or "")
