"""Which channel takes which control, what is refused, and a control that others bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from harness.channels.control_registry import CONTROLS, ControlEntry, channels_taking, controls_taken, not_taken
from harness.channels.controls import Given
from harness.channels.messages import TensorMessage
from harness.channels.registry import CHANNELS, ChannelEntry
from harness.config import build
from harness.errors import UserError
from harness.registry import resolve
from tests.channels.test_controls import answered_by, config

PAIR = {"receiver": "r", "sharers": ["s"], "fusers": ["f"]}
STATES = ChannelEntry("states", "hidden states", build="nowhere:build", message="tensors")


def reversed_tokens(message: TensorMessage, given: Given) -> TensorMessage:
    return message.with_rows([tuple(part.flip(1) for part in row) for row in message.rows()])


REVERSED = ControlEntry("reversed_tokens", "tokens from last to first", tensors=reversed_tokens)


@pytest.fixture
def brought() -> Iterator[ControlEntry]:
    yield CONTROLS.add(REVERSED)
    del CONTROLS._entries[REVERSED.name]


def test_every_control_is_one_kind_of_change() -> None:
    for entry in CONTROLS:
        for target in filter(None, (entry.text, entry.tensors, entry.reader, entry.models)):
            assert callable(resolve(target))
    both: dict[str, Any] = {"tensors": reversed_tokens, "reader": "m:x"}
    for wrong in (both, {}, {"reader": "m:x", "models": "m:y"}):
        with pytest.raises(ValueError, match="give one of them"):
            ControlEntry("wrong", "", **wrong)


def test_what_each_channel_takes() -> None:
    names = CONTROLS.names()
    assert names == ["mismatched", "mean", "zeroed", "noise", "noise_own", "closed", "self", "shuffled_tokens"]
    assert controls_taken(names, CHANNELS.get("t2t")) == ("mismatched", "zeroed", "shuffled_tokens")
    assert controls_taken(names, CHANNELS.get("c2c")) == tuple(names)
    assert controls_taken(names, CHANNELS.get("receiver")) == ()
    # Of a channel without gates everything that changes its message.
    assert controls_taken(names, STATES) == ("mismatched", "mean", "zeroed", "noise", "noise_own", "shuffled_tokens")
    assert channels_taking("mean") == ["c2c"]
    chosen = {name: CHANNELS.get(name) for name in ("receiver", "t2t", "c2c")}
    assert not_taken(["mean", "zeroed", "closed"], chosen) == ["mean, closed of t2t"]
    assert not_taken(["zeroed"], chosen) == []


@pytest.mark.parametrize("control", ["mean", "noise", "closed", "noise_own"])
def test_a_control_that_no_chosen_channel_takes_is_refused(control: str) -> None:
    with pytest.raises(UserError, match=rf"Control {control} does nothing to t2t; add one of c2c to channels"):
        build({**PAIR, "channels": ["receiver", "t2t"], "controls": ["mismatched", control]})
    assert build({**PAIR, "channels": ["t2t", "c2c"], "controls": [control]}).controls == (control,)


def test_a_run_that_began_with_a_control_goes_on_with_it() -> None:
    begun = {**PAIR, "channels": ["t2t"], "controls": ["mismatched", "mean"], "resume": True, "output_path": "run"}
    assert build(begun).controls == ("mismatched", "mean")


def test_an_unknown_control_gets_its_nearest_neighbour() -> None:
    with pytest.raises(UserError, match=r"Unknown control 'meen'\. Did you mean 'mean'\?"):
        build({**PAIR, "controls": ["meen"]})


def test_usual_controls_are_those_that_something_takes() -> None:
    assert build({"receiver": "r", "sharers": ["s"], "channels": ["t2t"]}).controls == ("mismatched",)
    assert build({**PAIR, "channels": ["t2t", "c2c"]}).controls == ("mismatched", "mean")


def test_a_control_of_others_works_on_every_channel_of_tensors(brought: ControlEntry) -> None:
    assert channels_taking(brought.name) == ["c2c"]
    assert brought.takes(STATES)
    asked = config("letters").model_copy(
        update={"channels": ("c2c", "c2c:payload=int8"), "controls": (brought.name, "closed"), "limit": 3}
    )
    found = answered_by(asked)
    for channel in asked.channels:
        own, turned = (found[channel, control] for control in ("", brought.name))
        assert len(own) == len(turned) == 3
        assert all(s.done for s in [*own, *turned])
        assert [s.loglikelihoods for s in own] != [s.loglikelihoods for s in turned]
        assert [s.payload_bytes for s in own] == [s.payload_bytes for s in turned]
    sizes = [{s.payload_bytes for s in found[channel, ""]} for channel in asked.channels]
    assert sizes[0].isdisjoint(sizes[1])


def test_two_controls_of_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match="Two entries are named control 'mean'"):
        CONTROLS.add(replace(REVERSED, name="mean"))
