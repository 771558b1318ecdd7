"""What a release says of itself agrees: version, changelog, citation and the workflow that publishes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def changelog() -> list[str]:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()


def test_changelog_citation_and_package_name_one_version() -> None:
    released = [line for line in changelog() if re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == f"## [{harness.__version__}] - {citation['date-released']}"
    assert citation["version"] == harness.__version__


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    versions = [line for line in changelog() if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[[^]]+\] - \d{4}-\d\d-\d\d", line) for line in versions[1:])
    assert {line.removeprefix("### ") for line in changelog() if line.startswith("### ")} <= set(KINDS)


def jobs(name: str) -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / name
    parsed: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return parsed


def test_nothing_is_published_that_was_not_installed_and_run() -> None:
    steps = jobs("release.yml")
    assert (steps["publish"]["needs"], steps["install"]["needs"]) == ("install", "build")
    assert steps["install"]["strategy"]["matrix"]["python"] == ["3.10", "3.12", "3.14"]
    asked = "\n".join(step.get("run", "") for step in steps["build"]["steps"])
    named = re.findall(r"tests/\w+\.py", asked)
    assert "tests/test_wheel.py" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_publishing_is_by_identity_and_attested() -> None:
    publish = jobs("release.yml")["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    (step,) = [step for step in publish["steps"] if step["uses"].startswith("pypa/gh-action-pypi-publish@")]
    assert step["with"] == {"attestations": True}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_expression_reaches_a_shell(path: Path) -> None:
    assert "${{" not in "".join(step.get("run", "") for job in jobs(path.name).values() for step in job["steps"])
