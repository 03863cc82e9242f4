"""The code itself: linted, typed, and in rooms of a size one can read."""

import ast
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "ctd_agent").rglob("*.py")) + sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize(
    "check", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)], ids=["lint", "format", "types"]
)
def test_the_tools_find_nothing(check: tuple[str, ...]):
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_so_are_its_functions(module: Path):
    source = module.read_text(encoding="utf-8")
    lines = source.splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            signature_end = lines[node.body[0].lineno - 2]
            assert length <= 40 or "# long" in signature_end, f"{node.name} has {length} lines and no reason beside it"


def test_imports_run_one_way():
    """The layout stands in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_layout_forbids_an_upward_arrow(tmp_path: Path):
    """The checker sees it if the graph's rooms import a command."""
    shutil.copytree(
        ROOT / "ctd_agent", tmp_path / "ctd_agent", ignore=shutil.ignore_patterns("*.safetensors", "*.json")
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "ctd_agent" / "graphs" / "faults.py").write_text("from ctd_agent.commands import options\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert "ctd_agent.graphs.faults -> ctd_agent.commands.options" in done.stdout
    assert done.returncode == 1


SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_says_how_it_is_run(script: Path):
    if script.name == "distil_static.py" and not find_spec("torch"):
        pytest.skip("needs torch")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python benchmarks/" in done.stdout
