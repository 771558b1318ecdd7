"""The workflow in the documentation is one that a repository can take as it is."""

from pathlib import Path

import pytest
import yaml

WORKFLOW = Path(__file__).parents[2] / "docs" / "github-actions.yml"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, str]]:
    parsed = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    assert parsed["permissions"] == {"contents": "read"}
    assert parsed[True] == {"pull_request": None}  # YAML 1.1 reads the key "on" as true
    found: list[dict[str, str]] = parsed["jobs"]["check"]["steps"]
    return found


def test_base_and_head_alternate(steps: list[dict[str, str]]) -> None:
    measure = next(step["run"] for step in steps if step.get("name") == "Measure")
    assert measure.index("for round") < measure.index("for side in base head") < measure.index("run_eval.py run")


def test_no_expression_reaches_a_shell(steps: list[dict[str, str]]) -> None:
    assert not [step for step in steps if "${{" in step.get("run", "")]


def test_runs_are_checked_and_kept_even_after_a_regression(steps: list[dict[str, str]]) -> None:
    assert "run_eval.py check ../runs/base ../runs/head" in next(s["run"] for s in steps if s.get("name") == "Check")
    assert steps[-1]["if"] == "always()"
