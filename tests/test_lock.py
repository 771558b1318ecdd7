"""The lock file holds on every Python that the package names."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LINES = [Requirement(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()]
PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))


def pins(python: str) -> dict[str, str]:
    """What the lock installs on a Python of Linux: version by name."""
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    kept = [line for line in LINES if line.marker is None or line.marker.evaluate(here)]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in kept}


def installed() -> dict[str, metadata.Distribution]:
    return {canonicalize_name(one.name): one for one in metadata.distributions()}


@pytest.mark.parametrize("python", PYTHONS)
def test_no_pin_refuses_a_python_that_the_package_names(python: str) -> None:
    found = installed()
    wanted = {
        name: SpecifierSet(found[name].metadata["Requires-Python"] or "")
        for name, version in pins(python).items()
        if name in found and found[name].version.partition("+")[0] == version
    }
    assert len(wanted) > 80
    assert [name for name, asked in wanted.items() if f"{python}.20" not in asked] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_of_the_package_has_one_pin_that_meets_it(python: str) -> None:
    pinned = pins(python)
    asked = [Requirement(text) for text in metadata.requires("c2c-harness") or []]
    own = [one for one in asked if one.name != "c2c-harness" and "docs" not in str(one.marker)]
    assert len(own) > 20
    assert [str(one) for one in own if not one.specifier.contains(pinned[canonicalize_name(one.name)])] == []


def test_torch_is_the_same_line_for_all() -> None:
    """What the Makefile installs before anything that would bring another torch."""
    assert [str(line) for line in LINES if line.name == "torch"] == ["torch==2.13.0"]
