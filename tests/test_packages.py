"""How the packages depend on one another, read from their imports: layers, no ring, and what is kept out of whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import harness

PACKAGE = Path(harness.__file__).parent
# A package imports those of the rows above alone, and of its own row none but itself.
LAYERS = (
    ("errors", "paths", "progress"),
    ("registry", "stats", "records"),
    ("models",),
    ("token_alignment", "fusers"),
    ("inference",),
    ("distributed", "channels"),
    ("config", "self_check"),
    ("benchmarks",),
    ("results",),
    ("serving", "leaderboard"),
    ("evaluation", "imported"),
    ("lm_eval_bridge", "regression", "training"),
    ("bench", "factworld_build", "conformance", "report"),
    ("relay_build",),
    ("cli", "adapter", "lm_eval", "api"),
)
LAYER = {name: place for place, row in enumerate(LAYERS) for name in row}


def imported(path: Path) -> set[str]:
    """Packages and top-level modules of the harness that a file imports anywhere, for types alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "harness":
            found |= {alias.name for alias in node.names if alias.name in LAYER}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("harness."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("harness.")}
    return found


def files() -> list[Path]:
    """All modules but entry points, which nothing imports."""
    return sorted(
        path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path != PACKAGE / "__init__.py"
    )


def package(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_its_layer() -> None:
    assert {package(path) for path in files()} <= set(LAYER)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_imports_lower_layers_alone(path: Path) -> None:
    own = package(path)
    above = sorted(name for name in imported(path) - {own} if LAYER[name] >= LAYER[own])
    assert not above, f"{own} imports {', '.join(above)}"


def test_few_modules_stand_outside_the_packages() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            ("results", "records", "stats", "leaderboard.writing", "report.page", "regression.check"),
            ("torch", "transformers", "lm_eval"),
        ),
        (("channels.engine", "channels.c2c", "channels.t2t", "inference.generate", "fusers.checkpoint"), ("lm_eval",)),
    ],
)
def test_reports_need_no_models_and_models_no_lm_eval(modules: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    names = ", ".join(f"harness.{name}" for name in modules)
    code = f"import sys, {names}\nprint(sorted(set({heavy!r}) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent
    )
    assert found.stdout == "[]\n", found.stdout + found.stderr
