"""The workflow in the documentation is one that a repository can take as it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.regression.power import SHIPPED, share_caught

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


def test_the_whole_task_is_asked_and_what_it_finds_is_what_the_page_says() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert "--limit" not in text
    shares = [f"{100 * share_caught(replace(SHIPPED, loss=0.03, fact=fact)):.0f}%" for fact in (1, SHIPPED.fact)]
    assert f"in {shares[0]} of the cases if single questions turn, in {shares[1]} if whole facts do" in " ".join(
        text.replace("#", " ").split()
    )
