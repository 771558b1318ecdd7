from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from harness import cli, stats
from harness.leaderboard import check, write
from harness.leaderboard.reported import ReportedBoard, read_reported
from harness.paths import LEADERBOARDS
from harness.results.frame import REPORTED_ITEMS
from tests.imported import build
from tests.support.refusals import edit, refused

ANSWERS = {"receiver": "ABAAAAAA", "t2t": "ABCDAAAA", "c2c": "ABCDABAA"}
PLACE = ("openbookqa", "org/receiver", "org/sharer", "someone/results @ 01234567")


def marks(letters: str) -> list[bool]:
    return [letter == key for letter, key in zip(letters, build.KEYS, strict=True)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose board has receiver, T2T and C2C of one source, the last without latencies."""
    home = tmp_path_factory.mktemp("built")
    build.write_datasets(home / "data")
    for channel, letters in ANSWERS.items():
        rows = build.cot_rows(letters)
        if channel == "c2c":
            rows = [{**row, "answer_latency_ms": ""} for row in rows]
        path = build.write_csv(home / f"{channel}_cot.csv", rows)
        assert cli.main(build.flags(path, home, channel=channel)) == 0
    return home


@pytest.fixture
def three(built: Path, home: Path) -> Path:
    """A copy of that board, beside its files."""
    copytree(built, home, dirs_exist_ok=True)
    return home / "boards"


def rows_of(board: Path, task: str = "openbookqa") -> list[dict[str, str]]:
    rows = csv.DictReader(io.StringIO((board / f"{task}.csv").read_text()))
    return [row for row in rows if row["kind"] == REPORTED_ITEMS]


def records(board: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (board / "records" / "reported").iterdir()}


def test_rows_stand_among_what_others_reported_with_intervals(three: Path) -> None:
    rows = {row["channel"]: row for row in rows_of(three)}
    assert list(rows) == ["receiver", "t2t", "c2c"]
    for channel, letters in ANSWERS.items():
        interval = stats.wilson(sum(marks(letters)), 8)
        found = [float(rows[channel][f"accuracy{part}"]) for part in ("", "_low", "_high")]
        assert found == pytest.approx([sum(marks(letters)) / 8, interval.low, interval.high], abs=1e-5)
    page = (three / "openbookqa.md").read_text()
    assert "## Run here" not in page
    here = page.split("### ")
    ours = next(part for part in here if "someone/results" in part)
    assert "reported per item, not run here" in ours
    assert "8 of 8 questions, joined by id, question, options, key" in ours
    assert "104 ms median" in ours
    assert (rows["c2c"]["e2e_s_p50"], rows["c2c"]["e2e_s_mean"]) == ("", "")


def test_every_two_arms_of_a_source_are_compared_question_by_question(three: Path) -> None:
    found = ReportedBoard(read_reported(three)).effects[PLACE]
    pairs = {(effect.arm[0], effect.base[0]): effect for effect in found}
    assert list(pairs) == [("t2t", "receiver"), ("c2c", "receiver"), ("c2c", "t2t")]
    for (arm, base), effect in pairs.items():
        expected = stats.paired(marks(ANSWERS[arm]), marks(ANSWERS[base]), resamples=1)
        assert (effect.n, effect.difference, effect.p) == (8, expected.difference, expected.p_value)
        assert (effect.low, effect.high) == (expected.interval.low, expected.interval.high)
    assert [one.p_holm for one in found] == stats.holm([one.p or 0.0 for one in found])
    rows = {row["channel"]: row for row in rows_of(three)}
    assert float(rows["c2c"]["to_receiver"]) == pytest.approx(0.375)
    assert float(rows["c2c"]["to_t2t"]) == pytest.approx(0.125)
    assert rows["receiver"]["to_receiver"] == ""


def test_arms_of_other_sources_and_pairs_are_not_compared(three: Path, home: Path) -> None:
    path = build.write_csv(home / "x_cot.csv", build.cot_rows(build.KEYS))
    cli.main(build.flags(path, home, commit="f" * 40))
    cli.main(build.flags(path, home, sharer="org/another"))
    board = ReportedBoard(read_reported(three))
    assert {place: len(effects) for place, effects in board.effects.items() if place != PLACE} == {
        ("openbookqa", "org/receiver", "org/sharer", "someone/results @ ffffffff"): 0,
        ("openbookqa", "org/receiver", "org/another", "someone/results @ 01234567"): 0,
    }
    assert len(board.effects[PLACE]) == 3


def test_importing_twice_changes_nothing(three: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, pages = records(three), {path.name: path.read_bytes() for path in three.glob("*.*")}
    assert cli.main(build.flags(home / "t2t_cot.csv", home, channel="t2t")) == 0
    assert "Every record was there already." in capsys.readouterr().out
    assert (records(three), {path.name: path.read_bytes() for path in three.glob("*.*")}) == (before, pages)
    assert check(three) == []


def test_a_better_description_replaces_a_record(three: Path, home: Path) -> None:
    assert cli.main(build.flags(home / "t2t_cot.csv", home, channel="t2t", hardware="one GPU")) == 0
    assert len(records(three)) == 3
    assert "one GPU" in (three / "openbookqa.md").read_text()


def test_another_content_under_the_same_path_is_refused(
    three: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = build.write_csv(home / "t2t_cot.csv", build.cot_rows(build.KEYS))
    assert "one commit holds one of them" in refused(capsys, build.flags(path, home, channel="t2t"))


def test_one_arm_from_two_files_is_refused(three: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = build.write_csv(home / "again_cot.csv", build.cot_rows(build.KEYS))
    assert "both hold c2c of someone/results" in refused(capsys, build.flags(path, home))
    assert cli.main(build.flags(path, home, variant="second fuser")) == 0
    assert len(ReportedBoard(read_reported(three)).effects[PLACE]) == 6


def test_a_dry_run_writes_nothing(home: Path) -> None:
    path = build.write_csv(home / "run_cot.csv", build.cot_rows(build.KEYS))
    assert cli.main([*build.flags(path, home), "--dry-run"]) == 0
    assert not (home / "boards").exists()


def test_records_hold_letters_and_no_texts(three: Path) -> None:
    content = "".join(text.decode() for text in records(three).values())
    assert build.KEYS in content
    assert "Which" not in content
    assert "correct answer" not in content
    assert "stone" not in content


def _flip(content: dict[str, Any]) -> None:
    arm = content["arms"][0]
    arm["predicted"] = "D" + arm["predicted"][1:]


def _flip_quietly(content: dict[str, Any]) -> None:
    _flip(content)
    content["arms"][0]["right"] -= 1


def test_an_edited_record_is_found(three: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(iter(sorted((three / "records" / "reported").iterdir())))
    before = path.read_text()
    edit(path, _flip)
    command = ["report", "--check", "--leaderboards_dir", str(three)]
    assert "contradicts itself" in refused(capsys, command)
    path.write_text(before)
    edit(path, _flip_quietly)
    assert cli.main(command) == 1
    assert {"openbookqa.md", "openbookqa.csv"} <= set(check(three))
    path.write_text(before)
    edit(path, lambda content: content["questions"].update(keys="B" + build.KEYS[1:]))
    assert refused(capsys, command)


def test_rows_without_id_and_text_are_compared_among_themselves(home: Path) -> None:
    said = [{"base": base, "fused": fused} for base, fused in zip("AAAAAAAA", build.KEYS, strict=True)]
    arms = ["--arm", "base=receiver", "--arm", "fused=c2c,own fuser"]
    for name in ("one", "two"):
        path = build.write_lines(home / f"{name}.jsonl", [build.letters_line(n, x) for n, x in enumerate(said)])
        more = arms if name == "one" else ["--arm", "base=receiver/", "--arm", "fused=c2c,other fuser"]
        sharer = "org/sharer" if name == "one" else "org/second"
        assert cli.main([*build.flags(path, home, channel="", sharer=sharer), *more]) == 0
    board = ReportedBoard(read_reported(home / "boards"))
    place = (*PLACE[:3], f"{PLACE[3]}, not joined")
    (effect,) = board.effects[place]
    assert (effect.arm, effect.base, effect.n, effect.difference) == (("c2c own fuser", ""), ("receiver", ""), 8, 0.75)
    page = (home / "boards" / "openbookqa.md").read_text()
    assert "8 questions that cannot be joined to ours" in page
    rows = rows_of(home / "boards")
    assert {row["source"] for row in rows} == {f"{PLACE[3]}, not joined"}
    assert {row["e2e_s_p50"] for row in rows} == {""}


def test_sets_that_nobody_named_are_not_paired_with_each_other(home: Path) -> None:
    for channel in ("receiver", "c2c"):
        rows = [{"letter": letter, "key": key} for letter, key in zip(ANSWERS[channel], build.KEYS, strict=True)]
        path = build.write_csv(home / f"{channel}.csv", rows)
        assert cli.main(build.flags(path, home, channel=channel)) == 0
    assert ReportedBoard(read_reported(home / "boards")).effects == {(*PLACE[:3], f"{PLACE[3]}, not joined"): []}


def test_a_task_of_others_is_paired_by_their_ids(home: Path) -> None:
    for channel in ("receiver", "c2c"):
        rows = [
            {"id": f"x{n}", "letter": letter, "key": key}
            for n, (letter, key) in enumerate(zip(ANSWERS[channel], build.KEYS, strict=True))
        ]
        path = build.write_csv(home / f"{channel}.csv", rows)
        assert cli.main([*build.flags(path, home, channel=channel, task="their_quiz"), "--not-joined"]) == 0
    ((place, effects),) = ReportedBoard(read_reported(home / "boards")).effects.items()
    assert (place[0], [one.n for one in effects]) == ("their_quiz", [8])
    assert "not joined" in (home / "boards" / "their_quiz.md").read_text()


def test_figures_of_a_manifest_have_an_interval_and_no_test(home: Path) -> None:
    source = {key: value for key, value in build.SOURCE.items() if key != "receiver"}
    figures = [
        {"channel": "receiver", "n": 1150, "accuracy_percent": "40.17"},
        {"channel": "c2c", "n": 1150, "right": 627, "invalid": 3},
    ]
    part = {"task": "arc_challenge", "receiver": "org/receiver", "sharers": ["org/sharer"], "figures": figures}
    (home / "m.yaml").write_text(json.dumps({**source, "figures": [part]}))
    command = ["import", str(home / "m.yaml"), "--leaderboards_dir", str(home / "boards")]
    assert (cli.main(command), cli.main(command)) == (0, 0)
    board = ReportedBoard(read_reported(home / "boards"))
    rows = board.frame.set_index("channel")
    assert list(rows["accuracy"]) == [462 / 1150, 627 / 1150]
    interval = stats.wilson(627, 1150)
    assert (rows["accuracy_low"]["c2c"], rows["accuracy_high"]["c2c"]) == (interval.low, interval.high)
    assert all(not effects for effects in board.effects.values())
    assert rows["to_receiver"].isna().all()
    assert "figures alone" in (home / "boards" / "arc_challenge.md").read_text()


def test_a_manifest_names_files_of_a_copy_of_the_repository(home: Path) -> None:
    build.write_csv(home / "clone" / "out" / "run_cot.csv", build.cot_rows(build.KEYS))
    part = {"task": "openbookqa", "channel": "c2c", "files": [{"path": "out/run_cot.csv"}]}
    (home / "m.yaml").write_text(json.dumps({**build.SOURCE, "results": [part]}))
    folders = {"files_dir": home / "clone", "datasets_dir": home / "data", "leaderboards_dir": home / "boards"}
    assert cli.main(["import", str(home / "m.yaml"), *(x for k, v in folders.items() for x in (f"--{k}", str(v)))]) == 0
    (one,) = read_reported(home / "boards")
    assert [file.path for file in one.record.files] == ["out/run_cot.csv"]


def test_the_committed_results_of_others_are_whole() -> None:
    found = {(one.record.repository, one.record.task): one.record for one in read_reported(LEADERBOARDS)}
    assert {repository for repository, _ in found} == {
        "Cyrusi6/Cache",
        "Piedpiperrr/message-skip-cert",
        "yyfenghuang/cache-2-cache-lite",
    }
    assert all(record.licence in ("Apache-2.0", "MIT") for record in found.values())
    board = ReportedBoard(read_reported(LEADERBOARDS))
    compared = {place[0]: len(effects) for place, effects in board.effects.items() if effects}
    assert compared == {"openbookqa": 1, "arc_challenge": 1, "mmlu_redux_ok_letters": 6}
    assert {int(n) for n in board.frame["n"]} == {500, 1150, 2641, 5632}


def test_writing_a_board_needs_no_data_sets(three: Path, home: Path) -> None:
    for path in (home / "data").rglob("*.jsonl"):
        path.unlink()
    assert write(three) == []
