"""Flags follow from the fields of a model: their types, names, groups and words."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from harness.bench.main import BenchOptions
from harness.config import RunConfig
from harness.config.flags import Also, Each, Section, add_flags, flags_of, given_values, keys_of
from harness.training.recipe import Recipe


class Model(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)

    name: Annotated[str, Section("first")] = "n"
    """What it is called, 100%."""
    sharers: Annotated[tuple[str, ...], Also("sharer"), Each()] = ()
    tasks: tuple[str, ...] = ()
    limit: Annotated[int, Field(ge=1)] | None = None
    rate: Annotated[float, Section("second")] = 0.5
    on_top: bool = False
    chat: Annotated[bool, Also("chat_template")] = True
    kind: Literal["a", "b"] = "a"
    settings: dict[str, int | str] = {}
    place: str | dict[str, int] | None = None


def parsed(*given: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    add_flags(parser, Model)
    return given_values(Model, vars(parser.parse_args(given)))


def test_forms_follow_from_annotations() -> None:
    forms = {flag.field: flag.form for flag in flags_of(Model)}
    assert forms == {
        "name": "text",
        "sharers": "parts",
        "tasks": "list",
        "limit": "count",
        "rate": "number",
        "on_top": "switch",
        "chat": "switch",
        "kind": "text",
        "settings": "mapping",
        "place": "text",
    }
    assert [flag.section for flag in flags_of(Model)] == ["first"] * 4 + ["second"] * 6
    assert keys_of(Model) == {"sharer": "sharers", "chat_template": "chat"}
    assert next(flags_of(Model)).help == "What it is called, 100%%. (default: n)"


def test_values_are_read_and_what_nobody_gives_is_absent() -> None:
    assert parsed() == {}
    assert parsed("--sharer", "a, b", "--sharers", "c", "--tasks", "x", "--tasks", "y,z") == {
        "sharers": ["a", "b", "c"],
        "tasks": ["y", "z"],
    }
    assert parsed("--limit", "3", "--rate=0.25", "--kind", "b", "--tasks", "") == {
        "limit": 3,
        "rate": 0.25,
        "kind": "b",
        "tasks": [],
    }
    assert parsed("--on-top", "--no-chat-template") == {"on_top": True, "chat": False}
    assert parsed("--settings", "a=1,b=x") == {"settings": {"a": 1, "b": "x"}}


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(argparse.ArgumentError, match="'x' is not a whole number"):
        parsed("--limit", "x")


@pytest.mark.parametrize("model", [RunConfig, Recipe, BenchOptions])
def test_every_field_of_a_command_has_a_flag_with_words(model: type[BaseModel]) -> None:
    found = list(flags_of(model))
    assert [flag.field for flag in found] == list(model.model_fields)
    assert all(flag.help for flag in found)
    spelled = [spelling for flag in found for spelling in flag.spellings]
    assert len(spelled) == len(set(spelled))
