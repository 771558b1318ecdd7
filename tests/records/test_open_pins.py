"""A run names the references that do not fix what was read, and what they stood for."""

from __future__ import annotations

from typing import Any

import pytest

from harness.evaluation.fingerprint import served_info
from harness.models.reference import parse_reference
from harness.records.schema import open_pins, recorded_commits
from tests.support.record_examples import run_record

PIN = "a" * 40


class Engine:
    """A model behind an engine, as far as its record goes."""

    role = "receiver"

    def __init__(self, reference: str) -> None:
        self.reference = parse_reference(reference)


@pytest.mark.parametrize("reference", ["org/name", "org/name@main", "org/name@v1.0", "org/name@abc1234"])
def test_the_commit_of_a_served_model_is_unknown_unless_it_is_named(reference: str) -> None:
    engine: Any = Engine(reference)
    run = run_record(models=[served_info(engine)])
    assert open_pins(run) == [f"{reference} (commit unknown, behind an engine)"]
    assert recorded_commits(run) == {}


def test_a_served_model_with_a_commit_is_no_open_pin() -> None:
    engine: Any = Engine(f"org/name@{PIN}")
    assert open_pins(run_record(models=[served_info(engine)])) == []


def test_a_data_set_is_open_where_its_task_names_no_commit() -> None:
    read = {"one": f"org/rows@{PIN}", "two": f"org/rows@{PIN}", "pinned": f"org/others@{PIN}"}
    run = run_record(dataset_revisions=read, unpinned=["one", "two", "without-a-record"])
    assert open_pins(run) == [f"org/rows ({PIN[:12]})"]
