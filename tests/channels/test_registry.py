"""Names, specs and slugs of channels; what a third party brings; what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from harness import registry
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.channels.spec import channel_of, parse_channel, slug, spec_text
from harness.config import build
from harness.errors import UserError
from harness.registry import Registry, resolve
from harness.results.grouping import DERIVED

OTHERS = ChannelEntry("others", "of another distribution", build="nowhere:build")


@dataclass(frozen=True)
class Named:
    name: str
    value: int = 0


def points(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, "some.group") for name, value in pairs]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "some.group" else [])


def test_a_name_means_one_thing() -> None:
    names: Registry[Named] = Registry("thing", "some.group", [Named("one")])
    assert names.add(Named("one")) == Named("one")
    with pytest.raises(UserError, match="Two entries are named thing 'one'"):
        names.add(Named("one", 1))
    with pytest.raises(UserError, match=r"Unknown thing 'ome'\. Did you mean 'one'\? Allowed: one\."):
        names.get("ome")


def test_other_distributions_are_imported_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{__name__}:OTHERS"
    points(monkeypatch, ("others", here), ("broken", "no_such_module:x"), ("alias", here))
    names: Registry[Any] = Registry("channel", "some.group", [Named("one")])
    assert names.names() == ["one", "others", "broken", "alias"]
    assert names.get("others") is OTHERS
    with pytest.raises(UserError, match="cannot be loaded from no_such_module:x"):
        names.get("broken")
    with pytest.raises(UserError, match="calls itself 'others'"):
        names.get("alias")


def test_a_name_of_ours_cannot_be_brought_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, ("one", "m:x"))
    with pytest.raises(UserError, match="is there already"):
        Registry("thing", "some.group", [Named("one")]).names()


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("c2c", "c2c"),
        (" ensemble : rule = mean ", "ensemble"),
        ("ensemble:rule=product", "ensemble:rule=product"),
        ("routed:share=0.5", "routed"),
        ("routed:share=.25:by=random", "routed:by=random:share=0.25"),
    ],
)
def test_the_canonical_form_sorts_options_and_leaves_defaults_out(given: str, canonical: str) -> None:
    assert parse_channel(given).text == canonical
    assert parse_channel(canonical).text == canonical
    assert channel_of(canonical) == parse_channel(given).entry.name


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("t2t:max_new_tokens=64:with_options", "t2t-max_new_tokens-64-with_options"),
        ("routed:by=random:share=0.25", "routed-by-random-share-0.25"),
        ("c2c", "c2c"),
    ],
)
def test_slugs_name_files(spec: str, name: str) -> None:
    assert slug(spec) == name


def test_yaml_may_write_options_as_a_mapping() -> None:
    assert spec_text({"ensemble": {"rule": "product"}}) == "ensemble:rule=product"
    config = build({"receiver": "r", "sharers": ["s"], "channels": ["receiver", {"ensemble": {"rule": "product"}}]})
    assert config.channels == ("receiver", "ensemble:rule=product")
    for wrong in ({"ensemble": {}, "c2c": {}}, {"ensemble": "product"}):
        with pytest.raises(UserError, match="written"):
            build({"receiver": "r", "sharers": ["s"], "channels": [wrong]})


def test_without_names_everything_takes_part_that_the_models_allow() -> None:
    pair = build({"receiver": "r", "sharers": ["s"], "fusers": ["f"]})
    assert pair.channels == ("receiver", "sharer", "ensemble", "t2t", "c2c")
    assert pair.controls == ("mismatched", "mean")
    alone = build({"receiver": "r"})
    assert (alone.channels, alone.controls) == (("receiver",), ())
    assert "tuned" in build({"receiver": "r", "tuned": "t"}).channels


def test_every_entry_can_be_built_or_composed() -> None:
    for entry in CHANNELS:
        derived = entry.name in DERIVED
        assert (bool(entry.build), bool(entry.compose), derived).count(True) == 1, entry.name
        assert derived or callable(resolve(entry.build or entry.compose))
    assert len({entry.order for entry in CHANNELS}) == len({entry.color for entry in CHANNELS}) == len(list(CHANNELS))
