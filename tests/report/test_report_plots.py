from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.errors import UserError
from harness.report.plots import write_plots
from tests.support.synthetic import Plan, run


def test_every_plot_is_written_twice_and_reads_as_what_it_is(tmp_path: Path) -> None:
    paths = write_plots([run([Plan(n=12)])], tmp_path / "plots")
    assert {path.name.split("openbookqa-openbookqa-")[1] for path in paths} == {
        f"{name}.{form}" for name in ("accuracy", "effects", "cost", "stages") for form in ("png", "svg")
    }
    for path in paths:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    made = [run([Plan(n=12)])]
    first, second = write_plots(made, tmp_path / "a"), write_plots(made, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    paths = write_plots([run([Plan(n=5, arms=[("receiver", "")], timed=0)]), run([])], tmp_path)
    assert {path.stem.rsplit("-", 1)[1] for path in paths} == {"accuracy"}


def test_a_name_cannot_leave_the_folder_nor_start_mathematics(tmp_path: Path) -> None:
    paths = write_plots([run([Plan(n=4, task="../$x^{")], run_id="../up")], tmp_path / "plots")
    assert {path.parent for path in paths} == {tmp_path / "plots"}


def test_runs_that_are_alike_do_not_share_plots(tmp_path: Path) -> None:
    alike = [run([Plan(n=4, timed=0)], run_id=name) for name in ("a b", "a-b", "A-b")]
    paths = write_plots(alike, tmp_path)
    assert len({path.name.lower() for path in paths}) == len(paths)
    with pytest.raises(UserError, match="plot them apart"):
        write_plots([alike[0], alike[0]], tmp_path)
