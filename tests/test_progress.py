"""One display of progress, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cli
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


def test_a_run_that_times_nothing_counts_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.progress._EVERY_S", 0.0)
    command = ["run", "--tasks", "relay_one", "--limit", "2", "--channels", "receiver", "--latency_samples", "0"]
    assert cli.main([*command, "--output_path", str(tmp_path / "run")]) == 0
    assert "receiver: 2/2 answers," in capsys.readouterr().err


def test_one_count_goes_from_the_first_answer_to_the_last_that_is_timed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("harness.progress._EVERY_S", 0.0)
    arms = ["--channels", "receiver,c2c", "--controls", "mismatched", "--latency_samples", "2"]
    command = ["run", "--tasks", "relay_one", "--limit", "3", *arms, "--output_path", str(tmp_path / "run")]
    assert cli.main(command) == 0
    counts = [line.split(",")[:2] for line in capsys.readouterr().err.splitlines() if " s left" in line]
    titles = [title.split(":")[0] for title, *_ in counts]
    assert list(dict.fromkeys(titles)) == ["receiver", "c2c and controls", "latency"]
    total = 3 * 3 + 2 * 2 * 2  # three arms of three questions; two channels timed on two questions in two rounds
    assert f"{total}/{total} answers and timings" in counts[-1][-1]


def test_bars_of_libraries_are_hidden_and_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm.auto import tqdm
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    with quiet():
        assert not theirs.is_progress_bar_enabled()
        assert list(tqdm(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert theirs.is_progress_bar_enabled() == shown
