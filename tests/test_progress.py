"""One display of progress, and nobody else's."""

from __future__ import annotations

import pytest

from harness.progress import progress, quiet, stage


def test_a_line_has_the_title_of_what_is_going_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.progress._EVERY_S", 0.0)
    with stage("loading"), progress("answers", 4) as bar:
        bar.advance()
        bar.entitle("c2c and controls")
        bar.advance()
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == ["answers: 1/4", "c2c and controls: 2/4"]


def test_bars_of_libraries_are_hidden_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm.auto import tqdm
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    with quiet():
        assert not theirs.is_progress_bar_enabled()
        assert list(tqdm(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert theirs.is_progress_bar_enabled() == shown
