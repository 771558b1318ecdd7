"""Our own channels pass the tests that other people's channels have to pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.channels.spec import parse_channel
from harness.conformance import test_channel as conformance
from harness.conformance.models import tiny_lm

CHANNELS = ("receiver", "sharer", "tuned", "ensemble", "t2t:max_new_tokens=8", "c2c")
WITH_FORM = ("order_of_questions", "company", "controls")
ONCE = ("bytes", "nothing_is_remembered", "resume", "views")
CAST = conformance.Cast(tiny_lm(0), tiny_lm(1))


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("promise", [*ONCE, "company"])
def test_a_channel_of_ours_conforms(name: str, promise: str, tmp_path: Path) -> None:
    spec, check = parse_channel(name), getattr(conformance, f"test_{promise}")
    if promise in WITH_FORM:
        check(spec, CAST, tmp_path, "options")
    else:
        check(spec, CAST, tmp_path)
