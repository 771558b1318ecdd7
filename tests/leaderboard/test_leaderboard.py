from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from subprocess import run as run_process
from typing import Any

import pytest

from harness.cli import main
from harness.errors import UserError
from harness.leaderboard import add_record, check, export_record, write, write_own
from harness.leaderboard.cells import overview_cells, overview_rows
from harness.leaderboard.pairs import Pair, resolved_first
from harness.leaderboard.pictures import draw, drawn_data, picture_data
from harness.leaderboard.record_format import Entry, read_record, read_records, serialise
from harness.leaderboard.rows import PUBLISHED, board_effects, board_frame, published_frame
from harness.paths import LEADERBOARDS
from harness.records import LoadedRun
from harness.results import effects, facts_of, frame, summarise
from harness.results.formatting import csv_cell, markdown
from harness.results.frame import typed_frame
from tests.support.published import publish_few
from tests.support.synthetic import SUBJECTS, Plan, run
from tests.support.synthetic import write as write_run

PLANS = (
    Plan(n=60, errors=2, timed=8),
    Plan(n=80, task="mmlu_redux", subjects=SUBJECTS, answer="{letter}. <script>alert(1)</script> | pipe"),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("written")
    add_record(home / "boards", write_run(run(PLANS), home / "run"))
    publish_few(home / "boards")
    write(home / "boards")
    return home / "boards"


@pytest.fixture
def board(written: Path, tmp_path: Path) -> Path:
    return Path(copytree(written, tmp_path / "boards"))


def record_path(board: Path) -> Path:
    return next((board / "records").glob("*.json"))


def test_the_same_records_give_the_same_bytes(board: Path) -> None:
    before = {path.name: path.read_bytes() for path in board.iterdir() if path.is_file()}
    assert write(board) == []
    for path in board.glob("*.*"):
        path.unlink()
    write(board)
    assert {path.name: path.read_bytes() for path in board.iterdir() if path.is_file()} == before
    assert check(board) == []


def test_an_exported_record_gives_the_numbers_of_its_run(board: Path) -> None:
    made, entry = run(PLANS), read_record(record_path(board))
    facts = facts_of(made.record)
    assert entry.rows == summarise(made.samples, made.timings, facts)
    assert {"chance", "majority", "oracle"} <= {row.channel for row in entry.rows}
    assert effects(entry.samples, facts) == effects(made.samples, facts)
    assert entry.consistent


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(run(PLANS), tmp_path / "run")
    assert serialise(export_record(folder)) == serialise(export_record(folder))


def test_a_record_holds_no_text_of_models_or_datasets(board: Path) -> None:
    content = record_path(board).read_text()
    assert "script" not in content
    assert "Background" not in content


def test_an_edited_page_a_missing_page_and_a_stale_one_are_found_and_mended(board: Path) -> None:
    page = board / "openbookqa.md"
    page.write_text(page.read_text().replace("60", "61"))
    (board / "README.md").unlink()
    (board / "gone.md").write_text(page.read_text())
    (board / "notes.md").write_text("by hand")
    assert check(board) == ["README.md", "gone.md", "openbookqa.md"]
    write(board)
    assert check(board) == []
    assert (board / "notes.md").read_text() == "by hand"


def test_an_edited_aggregate_is_found(board: Path) -> None:
    path = record_path(board)
    content = json.loads(path.read_text())
    content["results"][0]["accuracy"] += 0.01
    path.write_text(json.dumps(content))
    assert check(board) == [f"records/{path.name}"]


def test_published_figures_are_marked_and_keep_to_the_paper() -> None:
    rows = published_frame(LEADERBOARDS)
    timed = rows[(rows["control"] == "") & rows["e2e_s_mean"].notna()]
    assert len(timed) == 60
    own = timed[(timed["task"] == "mmlu_redux") & (timed["sharers"] == "Qwen/Qwen2.5-0.5B-Instruct")]
    row = own[own["channel"] == "c2c"].iloc[0]
    assert (row["accuracy"], row["e2e_s_mean"], row["n"]) == (pytest.approx(0.4292), 0.40, 5632)
    assert set(rows["kind"]) == {"reported, not re-run"}


def test_measured_and_reported_rows_stand_apart_on_one_page(board: Path) -> None:
    page = (board / "openbookqa.md").read_text()
    here, reported = page.split("## Reported by others")
    assert "Cache-to-Cache" not in here
    assert "Cache-to-Cache, v2" in reported
    assert "run 20260101-openbookqa, 2026-01-01, 0123456789ab, NVIDIA A100" in page
    assert "rerun: <code>python run\\_eval.py run" in page or "rerun: <code>python run_eval.py run" in page
    rows = list(csv.DictReader(io.StringIO((board / "openbookqa.csv").read_text())))
    fused = next(row for row in rows if (row["arm"], row["kind"]) == ("c2c", "measured"))
    assert (fused["n"], fused["peak_memory_bytes"]) == ("60", "3600000000")
    assert float(fused["speed_up"]) > 3
    overview = (board / "README.md").read_text()
    first, second = overview.split("## Reported by others")
    assert first.count("(openbookqa.md)") == 1
    assert second.count("(openbookqa.md)") == 1


def test_the_first_screen_is_a_ranking_and_a_sentence(board: Path) -> None:
    page = (board / "openbookqa.md").read_text()
    first = page.split("<picture>")[0]
    table = [line for line in first.splitlines() if line.startswith("| ") and "channel" not in line]
    assert 2 <= len(table) <= 8
    assert "c2c/" not in first
    assert re.search(r"(communicates|adapts|not resolved|harms)", first)
    assert "<details>" in page


def test_several_trainings_are_one_row(tmp_path: Path) -> None:
    for number in range(3):
        settings = {"fingerprint": str(number) * 64, "training": {"steps": 9, "seed": number}}
        fields: dict[str, Any] = {
            "identity_fields": {"fuser_weights": [number]},
            "fusers": [{"reference": f"f{number}", **settings}],
        }
        write_run(run([Plan(n=60, seed=number)], run_id=f"run-{number}", **fields), tmp_path / str(number))
        add_record(tmp_path / "boards", tmp_path / str(number))
    write(tmp_path / "boards")
    first = (tmp_path / "boards" / "README.md").read_text().split("## Reported")[0]
    assert first.count("(openbookqa.md)") == 1
    page = (tmp_path / "boards" / "openbookqa.md").read_text().split("<picture>")[0]
    assert page.count("3 trainings") == page.count("one of 3 trainings: c2c") + 1 == 2


def test_a_picture_is_compared_by_the_data_that_it_draws(board: Path) -> None:
    path = board / "openbookqa-dark.svg"
    drawn = path.read_text()
    path.write_text(drawn.replace("<path", "<path  "))
    assert check(board) == []
    data = json.loads(drawn_data(drawn) or "")
    assert {row["label"] for row in data[0]["rows"]} >= {"receiver", "c2c", "c2c/mean"}
    path.write_text(drawn.replace("&quot;percent&quot;", "&quot;per cent&quot;").replace('"percent"', '"per cent"'))
    assert check(board) == [path.name]
    write(board)
    assert check(board) == []


CLIPPED = re.compile(r'<clipPath id="(\w+)">\s*<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"')
MARK = re.compile(r'<g clip-path="url\(#(\w+)\)">\s*<use [^>]*?x="([\d.]+)"')


def pair(accuracy: float, verdict: str = "", **cells: Any) -> Pair:
    row = {"channel": "t2t", "arm": "t2t", "control": "", "kind": "measured", "accuracy": accuracy, "verdict": verdict}
    rows = typed_frame([{**row, "accuracy_low": accuracy, "accuracy_high": accuracy, **cells}])
    return Pair("receiver", "sharer", rows, rows, [])


def test_a_picture_has_room_for_long_labels_and_marks_at_the_ends() -> None:
    long = pair(1.0, variant="no options, in the task's words", arm="t2t/mismatched")
    svg = draw(picture_data([pair(0.0), long]), "light")
    data = json.loads(drawn_data(svg) or "")
    assert data[1]["rows"][0]["label"] == "t2t/mismatched (no options, in the task's words)"
    assert [part in svg for part in ("t2t/mismatched (no options, in the<", ">task's words)")] == [True, True]
    frames = {name: (float(x), float(x) + float(width)) for name, x, width in CLIPPED.findall(svg)}
    marks = MARK.findall(svg)
    assert len(marks) == 2
    for name, place in marks:
        assert frames[name][0] + 3.5 < float(place) < frames[name][1] - 3.5


def test_of_a_tasks_pairs_one_with_a_resolved_verdict_comes_first() -> None:
    pairs = [pair(0.9, "not resolved"), pair(0.8), pair(0.7, "harms"), pair(0.6, "communicates")]
    assert [float(one.rows["accuracy"].iloc[0]) for one in resolved_first(pairs)] == [0.7, 0.6, 0.9, 0.8]


def test_the_overview_says_where_nothing_was_timed() -> None:
    assert overview_cells(overview_rows(pair(0.5, "harms")))[1] == "harms<br>not timed"
    assert overview_cells(overview_rows(pair(0.5, "harms", e2e_s_p50=1.0, ttft_ratio=2.0)))[1] == "harms<br>TTFT 2x"
    assert "not timed" not in overview_cells(overview_rows(pair(0.5, kind="reported, not re-run")))[1]


def test_what_is_not_known_of_a_message_is_blank(board: Path) -> None:
    path = record_path(board)
    content = json.loads(path.read_text())
    content["results"] = [row for row in content["results"] if row["channel"] != "c2c"]
    path.write_text(json.dumps(content))
    rows = frame([read_record(path)])
    unknown = rows[rows["channel"].isin(["c2c", "oracle", "majority", "chance"])]
    assert unknown["payload_bytes"].isna().all()
    assert not rows[rows["arm"] == "t2t"]["payload_bytes"].isna().any()


@pytest.mark.parametrize("lost", ["arm", "questions", "task"])
def test_a_run_with_fewer_answers_does_not_replace_its_record(board: Path, tmp_path: Path, lost: str) -> None:
    before = record_path(board).read_bytes()
    made = run(PLANS, resumed=1)
    kept = [
        sample
        for sample in made.samples
        if not (lost == "arm" and sample.arm == ("c2c", "mean"))
        and not (lost == "questions" and sample.position >= 50)
        and not (lost == "task" and sample.task != "openbookqa")
    ]
    poorer = type(made)(made.path, made.record, kept, [])
    with pytest.raises(UserError, match="holds answers that this run lacks"):
        add_record(board, write_run(poorer, tmp_path / "poorer"))
    assert record_path(board).read_bytes() == before


def test_a_run_has_a_page_of_its_own(tmp_path: Path) -> None:
    folder = write_run(run(PLANS), tmp_path / "run")
    page = write_own(folder).read_text()
    assert "OpenBookQA" in page
    assert "Cache-to-Cache" not in page
    assert "| c2c" in page


def test_everything_that_names_files_after_tasks_keeps_them_apart(tmp_path: Path) -> None:
    tasks = ["quiz", "quiz-dark", "quiz-light", "README-dark"]
    add_record(tmp_path, write_run(run([Plan(n=3, task=task, timed=0) for task in tasks]), tmp_path / "run"))
    names = [path.name for path in write(tmp_path)]
    assert len(names) == len(set(names))
    assert check(tmp_path) == []


def test_a_board_elsewhere_shows_what_was_run_there_and_nothing_else(tmp_path: Path) -> None:
    add_record(tmp_path / "boards", write_run(run([Plan(n=3, timed=0)]), tmp_path / "run"))
    pages = {path.name for path in write(tmp_path / "boards") if path.suffix == ".md"}
    assert pages == {"README.md", "openbookqa.md"}
    assert "Reported by others" not in "".join(path.read_text() for path in (tmp_path / "boards").glob("*.md"))


def test_the_command_says_what_it_wrote_or_that_nothing_was_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, board = write_run(run([Plan(n=3, timed=0)]), tmp_path / "run"), tmp_path / "boards"
    assert main(["report", "--add", str(folder), "--leaderboards_dir", str(board)]) == 0
    said = capsys.readouterr().out
    assert f"Wrote {record_path(board)}" in said
    assert f"Wrote {board / 'README.md'}" in said
    assert main(["report", "--leaderboards_dir", str(board)]) == 0
    assert capsys.readouterr().out == f"The pages in {board} are up to date.\n"


def test_without_records_the_published_figures_still_stand(tmp_path: Path) -> None:
    copytree((LEADERBOARDS / PUBLISHED).parent, (tmp_path / PUBLISHED).parent)
    names = {path.name for path in write(tmp_path)}
    assert {"README.md", "mmlu_redux.md", "arc_challenge.csv"} <= names
    assert (tmp_path / "README.md").read_text().count("(openbookqa.md)") == 5
    assert check(tmp_path) == []


def test_names_from_outside_cannot_break_a_table(tmp_path: Path) -> None:
    hostile = "evil|<script>alert(1)</script>\n# [x](http://e) `y` _z_"
    made = run([Plan(n=5)])
    models = [model.model_copy(update={"reference": hostile}) for model in made.record.models]
    path = add_record(tmp_path, write_run(run([Plan(n=5)], models=models), tmp_path / "run"))
    assert path.parent == tmp_path / "records"
    write(tmp_path)
    lines = (tmp_path / "openbookqa.md").read_text().splitlines()
    assert not any("<script" in line for line in lines)
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table[:2]}) == 1


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "a/b", "..", ".hidden"])
def test_a_run_id_cannot_leave_the_records_folder(tmp_path: Path, run_id: str) -> None:
    path = add_record(tmp_path / "boards", write_run(run([Plan(n=3)], run_id=run_id), tmp_path / "run"))
    assert path.resolve().parent == (tmp_path / "boards" / "records").resolve()


def test_a_task_name_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    add_record(tmp_path, write_run(run([Plan(n=3, task="../up")]), tmp_path / "run"))
    with pytest.raises(UserError, match="cannot name a page"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no valid record"),
        ("[]", "expected one JSON object"),
        ('{"schema_version": 99}', "update the harness"),
        ('{"run": 1}', "'run"),
    ],
)
def test_a_broken_record_is_one_sentence_naming_the_file(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "x.json").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        write(tmp_path)
    assert "x.json" in str(caught.value)


def test_marks_that_do_not_fit_the_questions_are_refused(board: Path) -> None:
    path = record_path(board)
    content = json.loads(path.read_text())
    content["answers"][0]["marks"] = "1"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no valid record"):
        check(board)


def test_two_records_of_one_run_are_refused(board: Path) -> None:
    (board / "records" / "copy.json").write_bytes(record_path(board).read_bytes())
    with pytest.raises(UserError, match="same run"):
        write(board)


@pytest.mark.parametrize(
    "changes",
    [
        {"identity": "cd" * 32},
        {"started_at": "2026-01-01T10:00:01+00:00"},
        {"finished_at": "2026-01-01T11:00:01+00:00"},
    ],
    ids=["identity", "started", "finished"],
)
def test_another_run_with_the_same_id_replaces_nothing(board: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    before = record_path(board).read_bytes()
    with pytest.raises(UserError, match="another run"):
        add_record(board, write_run(run(PLANS, **changes), tmp_path / "other"))
    assert record_path(board).read_bytes() == before


def test_other_answers_of_the_same_second_replace_nothing(board: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another run"):
        add_record(board, write_run(run([Plan(n=60, seed=5)]), tmp_path / "other"))


def test_the_same_run_is_replaced_when_it_is_added_again(board: Path, tmp_path: Path) -> None:
    later: dict[str, Any] = {
        "started_at": "2026-01-02T10:00:00+00:00",
        "finished_at": "2026-01-02T11:00:00+00:00",
        "resumed": 3,
    }
    add_record(board, write_run(run(PLANS), tmp_path / "again"))
    path = add_record(board, write_run(run(PLANS, **later), tmp_path / "resumed"))
    assert list((board / "records").glob("*.json")) == [path]
    assert read_record(path).record.run.resumed == 3


def test_run_ids_that_are_alike_are_records_of_their_own(tmp_path: Path) -> None:
    ids = ["my run", "my-run", "My-Run", "my_run", "MY RUN"]
    names = {
        add_record(tmp_path / "boards", write_run(run([Plan(n=3)], run_id=run_id), tmp_path / str(number))).name.lower()
        for number, run_id in enumerate(ids)
    }
    assert len(names) == len(ids)
    write(tmp_path / "boards")
    page = (tmp_path / "boards" / "openbookqa.md").read_text()
    assert all(f"run {run_id}" in page for run_id in ids)


def test_tasks_that_are_alike_have_pages_of_their_own(tmp_path: Path) -> None:
    tasks = ["README", "readme", "overview", "Overview", "Quiz", "quiz"]
    add_record(tmp_path, write_run(run([Plan(n=3, task=task, timed=0) for task in tasks]), tmp_path / "run"))
    write(tmp_path)
    overview = (tmp_path / "README.md").read_text()
    assert "# Leaderboards" in overview
    pages = {task: [p for p in tmp_path.glob("*.md") if f"Task `{task}`." in p.read_text()] for task in tasks}
    assert all(len(found) == 1 for found in pages.values())
    names = [page.name.lower() for (page,) in pages.values()]
    assert len({*names, "readme.md"}) == len(tasks) + 1
    for (page,) in pages.values():
        assert f"]({page.name})" in overview
        assert f"({page.stem}.csv)" in page.read_text()
        assert page.with_suffix(".csv").is_file()
    assert check(tmp_path) == []


def adding(board: Path, runs: list[Path]) -> int:
    """Starts a process that adds runs one after the other and returns its number."""
    if process := os.fork():
        return process
    try:
        for added in runs:
            add_record(board, added)
            write(board)
        os._exit(0)
    finally:
        os._exit(1)  # never back into the tests


def test_two_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    runs = [write_run(run([Plan(n=3, timed=0)], run_id=f"run-{number}"), tmp_path / str(number)) for number in range(6)]
    children = [adding(tmp_path / "boards", half) for half in (runs[:3], runs[3:])]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert check(tmp_path / "boards") == []
    assert len(list((tmp_path / "boards" / "records").iterdir())) == 6


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    folder = write_run(run([Plan(n=3)], status="cancelled"), tmp_path / "run")
    with pytest.raises(UserError, match="cancelled"):
        export_record(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        check(tmp_path / "none")


def test_escapes() -> None:
    assert markdown("a|b") == "a&#124;b"
    assert markdown("<b>*x*\n") == "&lt;b&gt;\\*x\\*"
    assert markdown("mmlu_redux _it_") == "mmlu_redux \\_it\\_"
    assert csv_cell("=1+1") == "'=1+1"


def test_leaderboards_never_import_a_model_library() -> None:
    code = "import sys, harness.leaderboard; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0


def board_of(folder: Path, *runs: LoadedRun) -> list[Entry]:
    for number, made in enumerate(runs):
        add_record(folder / "boards", write_run(made, folder / str(number)))
    return read_records(folder / "boards")


def test_a_verdict_does_not_depend_on_the_arms_that_ran_beside(tmp_path: Path) -> None:
    rich = run([Plan(n=60)], run_id="rich")
    few = [s for s in rich.samples if s.arm in (("receiver", ""), ("c2c", ""))]
    record = rich.record.model_copy(update={"run_id": "poor", "identity_fields": {"seed": 9}})
    found = board_effects(board_of(tmp_path, rich, replace(rich, record=record, samples=few, timings=[])))
    gains = [e for effects in found for e in effects if (e.kind, e.arm) == ("to_receiver", ("c2c", ""))]
    assert len(gains) == 2
    assert gains[0].verdict == gains[1].verdict
    assert gains[0].p_holm == pytest.approx(gains[1].p_holm)
    assert {e.level for effects in found for e in effects} == {0.05 / sum(map(len, found))}


def test_weights_that_were_run_twice_are_one_row_and_one_test(tmp_path: Path) -> None:
    once = board_of(tmp_path / "once", run([Plan(n=60)], run_id="a"))
    fields = {"channels": ["receiver", "c2c"]}  # which arms took part decides no answer
    later = run([Plan(n=60)], run_id="b", started_at="2026-12-24T00:00:00+00:00", identity_fields=fields)
    twice = board_of(tmp_path / "twice", run([Plan(n=60)], run_id="a"), later)
    rows = board_frame(twice)
    assert len(rows) == len(board_frame(once))
    assert set(zip(rows["run_id"], rows["also"], strict=True)) == {("b", "a")}
    alone, both = board_effects(once)[0], board_effects(twice)[1]
    assert [e.p_holm for e in both] == pytest.approx([e.p_holm for e in alone])
