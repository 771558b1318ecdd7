"""Runs of several trainings, averaged on the boards."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import stats
from harness.leaderboard import add_record, write
from harness.leaderboard.pairs import model_pairs, with_recipes
from harness.leaderboard.record_format import read_records
from harness.leaderboard.rows import board_frame
from harness.leaderboard.trainings import TrainingsRow, trainings_rows
from harness.records.schema import ModelInfo
from tests.support.synthetic import Plan, run
from tests.support.synthetic import write as write_run

ARMS = (("receiver", ""), ("c2c", ""), ("c2c", "mean"), ("c2c", "self"))


def fusers_of(fuser: str, own: str, **settings: Any) -> list[dict[str, Any]]:
    training = {"steps": 9, **settings}
    shared = {"reference": f"fuser {fuser}", "training": training}
    return [{**shared, "fingerprint": fuser}, {**shared, "role": "self", "fingerprint": own}]


def add(board: Path, number: int, fuser: str, own: str = "", **changes: Any) -> None:
    fusers = fusers_of(fuser, own or f"self of {fuser}", seed=number)
    seed = changes.pop("seed", number)
    fields = {"run_id": f"run-{number}", "fusers": fusers, "identity_fields": {"seed": 0, "fuser_weights": [fuser]}}
    made = run([Plan(n=50, arms=ARMS, seed=seed)], **{**fields, **changes})
    add_record(board, write_run(made, board.parent / f"{board.name}-{number}"))


def rows(board: Path) -> dict[str, TrainingsRow]:
    return {row.quantity.text: row for row in trainings_rows(read_records(board))}


@pytest.fixture
def board(tmp_path: Path) -> Path:
    for number, fuser in enumerate("abc"):
        add(tmp_path / "board", number, fuser)
    return tmp_path / "board"


def test_each_training_shows_the_accuracy_of_its_run(board: Path) -> None:
    found = rows(board)
    for name, arm in (("c2c", ("c2c", "")), ("c2c/mean", ("c2c", "mean")), ("c2c/self", ("c2c", "self"))):
        entries = read_records(board)
        alone = [next(r.accuracy for r in e.rows if (r.channel, r.control) == arm) for e in entries]
        assert found[name].found.each == pytest.approx(alone)
        assert found[name].found.n == 50
        assert found[name].found.interval is not None
    gain = found["c2c − receiver"]
    assert gain.quantity.title == "vs receiver"
    alone = [
        next(r.accuracy for r in e.rows if (r.channel, r.control) == ("receiver", "")) for e in read_records(board)
    ]
    assert gain.found.each == pytest.approx([a - b for a, b in zip(found["c2c"].found.each, alone, strict=True)])


def test_what_was_not_trained_is_not_averaged(board: Path) -> None:
    assert "receiver" not in rows(board)


def test_a_training_that_was_run_twice_counts_once(board: Path) -> None:
    add(board, 3, "c", own="another")
    found = rows(board)
    assert len(found["c2c"].found.each) == 3
    assert len(found["c2c/self"].found.each) == 4
    apart = found["c2c − c2c/self"]
    assert (apart.found.each, apart.found.trainings) == ((), (3, 4))
    assert apart.weights == ("fuser a", "fuser b", "fuser c") * 2 + ("fuser c",)


def test_other_models_questions_or_settings_are_other_things(board: Path) -> None:
    add(board, 3, "d", identity_fields={"seed": 1})
    add(board, 4, "e", models=[ModelInfo(role="receiver", reference="other", fingerprint="3" * 64)])
    assert len(rows(board)["c2c"].found.each) == 3


def test_trainings_with_other_settings_or_that_tell_none_are_other_things(board: Path) -> None:
    add(board, 3, "d", fusers=fusers_of("d", "self of d", steps=10))
    add(board, 4, "e", fusers=[{"fingerprint": "e"}, {"role": "self", "fingerprint": "f"}])
    assert len(rows(board)["c2c"].found.each) == 3


def test_a_row_of_trainings_takes_nothing_from_a_larger_run_of_another_recipe(board: Path) -> None:
    fields = {"fusers": fusers_of("z", "self of z", steps=1), "identity_fields": {"seed": 0, "fuser_weights": ["z"]}}
    larger = run([Plan(n=80, arms=ARMS, seed=9)], run_id="run-9", **fields)
    add_record(board, write_run(larger, board.parent / "larger"))
    entries = read_records(board)
    (pair,) = model_pairs(with_recipes(board_frame(entries), entries), list(trainings_rows(entries)))
    shown = pair.rows.set_index("arm")
    assert shown.loc["receiver", "run_id"] == "run-9"
    assert (shown.loc["c2c", "n"], shown.loc["c2c", "trainings"]) == (50, 3)
    of_trainings = pair.every[(pair.every["arm"] == "c2c") & (pair.every["n"] == 50)]
    said = shown.loc["c2c", "verdict_text"]
    assert said in {f"one of 3 trainings: {text}" for text in of_trainings["verdict_text"]}


def test_trainings_may_differ_in_seed_and_held_out_rows(board: Path) -> None:
    add(board, 3, "d", fusers=fusers_of("d", "self of d", seed=7, held_out_rows=5, data_fingerprint="x"))
    assert rows(board)["c2c"].weights == ("fuser a", "fuser b", "fuser c", "fuser d")


def test_an_error_is_no_right_answer_and_leaves_its_question_out_of_differences(board: Path) -> None:
    made = run(
        [Plan(n=50, arms=ARMS, errors=4)],
        run_id="run-9",
        fusers=fusers_of("d", "self of d"),
        identity_fields={"seed": 0},
    )
    failed = sum(not sample.done for sample in made.samples)
    assert failed == 4
    add_record(board, write_run(made, board.parent / "failed"))
    found = rows(board)
    own = [sample for sample in made.samples if sample.arm == ("c2c", "self")]
    assert (found["c2c/self"].found.n, found["c2c/self"].left_out) == (50, 0)
    assert found["c2c/self"].found.each[-1] == pytest.approx(sum(bool(s.correct) for s in own) / 50)
    assert (found["c2c − c2c/self"].found.n, found["c2c − c2c/self"].left_out) == (46, 4)
    assert (found["c2c"].found.n, found["c2c"].left_out) == (50, 0)


def test_the_page_shows_them(board: Path) -> None:
    write(board)
    section = (board / "openbookqa.md").read_text().partition("## Over trainings")[2]
    line = next(line for line in section.splitlines() if "<br>content " in line)
    repeated = rows(board)["c2c − c2c/mean"].found
    assert f" {100 * repeated.mean:+.1f}<br>" in line
    assert "<br>n 50 |" in line
    assert "<br>".join(f"{100 * one:+.1f}" for one in repeated.each) in line


def test_things_trained_apart_are_no_pairs_whatever_runs_they_met_in(tmp_path: Path) -> None:
    for name, own in (("one", "xyz"), ("other", "zxy")):
        for number, fuser in enumerate("abc"):
            made = run([Plan(n=50, arms=ARMS, seed=number)])
            answers = {
                s.doc_id: s
                for s in run([Plan(n=50, arms=ARMS, seed=10 + ord(own[number]))]).samples
                if s.control == "self"
            }
            samples = [answers[s.doc_id] if s.control == "self" else s for s in made.samples]
            fields = {"run_id": f"run-{number}", "fusers": fusers_of(fuser, own[number], seed=number)}
            fields["identity_fields"] = {"seed": 0}
            mixed = replace(made, samples=samples, record=made.record.model_copy(update=fields))
            add_record(tmp_path / name, write_run(mixed, tmp_path / f"{name}-{number}"))
    first, second = (rows(tmp_path / name)["c2c − c2c/self"].found for name in ("one", "other"))
    assert first.mean == pytest.approx(second.mean)
    assert first.interval is not None
    assert second.interval is not None
    assert (first.interval.low, first.interval.high) == pytest.approx((second.interval.low, second.interval.high))


def test_differences_over_trainings_are_one_family(board: Path) -> None:
    found = [row for row in rows(board).values() if row.quantity.base is not None]
    expected = stats.holm([row.found.p_value or 0.0 for row in found])
    assert [row.p_holm for row in found] == pytest.approx(expected)
    assert all(row.verdict for row in found)
    assert all(row.p_holm is None for row in rows(board).values() if row.quantity.base is None)


def test_one_training_makes_no_table(tmp_path: Path) -> None:
    add(tmp_path / "board", 0, "a")
    write(tmp_path / "board")
    assert "Over trainings" not in (tmp_path / "board" / "openbookqa.md").read_text()
