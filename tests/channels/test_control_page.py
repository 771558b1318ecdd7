"""The code of docs/add_a_control.md works as it stands there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.channels.control_registry import ControlEntry
from harness.channels.controls import Control
from harness.channels.messages import TensorMessage, TextMessage
from harness.channels.registry import CHANNELS
from harness.errors import UserError
from tests.support.pages import ROOT, texts
from tests.support.work import query

PAGE = ROOT / "docs" / "add_a_control.md"


def test_the_control_of_the_page_changes_both_kinds_of_message() -> None:
    found: dict[str, Any] = {}
    for block in texts(PAGE, "python"):
        exec(block, found)
    entry = found["REVERSED"]
    assert isinstance(entry, ControlEntry)
    assert all(entry.takes(CHANNELS.get(name)) for name in ("t2t", "c2c"))
    control, queries = Control(entry), [query("Why?"), query("How?")]
    sent = TensorMessage((torch.arange(2 * 5 * 3.0).view(2, 5, 3),), (2, 3))
    heard = control(sent, queries)
    assert isinstance(heard, TensorMessage)
    assert torch.equal(heard.parts[0], sent.parts[0][:, [1, 0, 4, 3, 2]])
    assert heard.payload_bytes == sent.payload_bytes
    told = control(TextMessage(("a b", "c d e"), ("q", "q")), queries)
    assert told == TextMessage(("b a", "e d c"), ("q", "q"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda message, _: message.with_rows(message.rows()[:1]), "Control mine: a message of 2 .* was given 1 rows"),
        (lambda message, _: message.only(0), "Control mine returns a TensorMessage of 1 for a TensorMessage of 2"),
        (lambda message, _: None, "Control mine returns a NoneType for a TensorMessage of 2"),
    ],
)
def test_a_control_that_gives_something_else_back_is_refused(change: Any, said: str) -> None:
    sent = TensorMessage((torch.zeros(2, 5, 3),), (2, 3))
    with pytest.raises(UserError, match=said):
        Control(ControlEntry("mine", "x", tensors=change))(sent, [query("Why?"), query("How?")])
