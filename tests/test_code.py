"""The code itself: linted, typed, and in rooms of a size one can read."""

import ast
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
    """Importing is from cli to graphs and distill, to agents and tools, to schema and errors."""
    above = {
        "agents": ("graphs", "distill", "cli"),
        "tools": ("graphs", "distill", "cli"),
        "graphs": ("distill", "cli"),
    }
    for module in MODULES:
        room = module.parent.name
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and room in above:
                assert not node.module.startswith(tuple(f"ctd_agent.{upper}" for upper in above[room])), module


def test_only_one_room_knows_the_trainers():
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & {"trl", "peft", "accelerate"}:
                assert module.parent.name == "training", module


SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_says_how_it_is_run(script: Path):
    if script.name == "distil_static.py" and not find_spec("torch"):
        pytest.skip("needs torch")
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python benchmarks/" in done.stdout
