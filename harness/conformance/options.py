"""The options of the conformance tests, as a plug-in of pytest; they are there only where these tests are run."""

from __future__ import annotations

import sys
from typing import Any

PACKAGE = "harness.conformance"


def pytest_addoption(parser: Any) -> None:
    """Adds `--channel` and `--plugin` where the command line names the tests, since other tests may have their own."""
    if not any(PACKAGE in word for word in sys.argv):
        return
    group = parser.getgroup("c2c-harness", "conformance of a channel")
    group.addoption("--channel", metavar="NAME[:OPTION=VALUE]", help="channel that is tested; required")
    group.addoption("--plugin", action="append", default=[], metavar="MODULE", help="module or file that brings it")
