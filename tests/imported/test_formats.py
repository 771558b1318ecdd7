from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from harness.errors import UserError
from harness.imported.formats import FORMATS, format_of
from harness.leaderboard.record_format import Questions
from harness.leaderboard.reported import ReportedRecord, read_reported
from harness.leaderboard.reported.packing import PackedQuestions
from tests.imported import build

LETTERS = "ABCDAAAA"  # five of eight right
GENERATED = {"cot-csv", "csv-text", "lm-eval"}


def _cot(path: Path) -> Path:
    return build.write_csv(path / "run_cot.csv", build.cot_rows(LETTERS))


def _lm_eval(path: Path) -> Path:
    return build.write_lines(path / "samples.jsonl", [build.lm_eval_line(n, x) for n, x in enumerate(LETTERS)])


def _compared(path: Path) -> Path:
    return build.write_lines(path / "samples.jsonl", [build.compared_line(n, x) for n, x in enumerate(LETTERS)])


def _letters_csv(path: Path) -> Path:
    rows = [{"id": f"q-{n}", "letter": x, "latency_s": 0.1 + n / 1e3} for n, x in enumerate(LETTERS)]
    return build.write_csv(path / "letters.csv", rows)


def _text_csv(path: Path) -> Path:
    rows = [{"question": build.question(n), "text": f"Answer: {x}"} for n, x in enumerate(LETTERS)]
    return build.write_csv(path / "texts.csv", rows)


MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "cot-csv": ("cot-csv", _cot),
    "lm-eval": ("lm-eval", _lm_eval),
    "lm-eval letters": ("lm-eval", _compared),
    "csv": ("csv", _letters_csv),
    "csv-text": ("csv", _text_csv),
}


def imported(home: Path) -> list[ReportedRecord]:
    return [one.record for one in read_reported(home / "boards")]


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_is_told_by_its_content_and_joined_to_our_questions(home: Path, name: str) -> None:
    form, make = MAKERS[name]
    path = make(home)
    assert format_of(path) == form
    assert cli.main(build.flags(path, home)) == 0
    (record,) = imported(home)
    (arm,) = record.arms
    assert record.asked is not None
    assert (record.asked.keys, record.asked.ids[:2]) == (build.KEYS, ["q-0", "q-1"])
    assert (arm.predicted, arm.right, arm.invalid) == (LETTERS, 5, 0)
    assert (record.kind == "generate", bool(arm.predicted_strict), arm.echoes is not None) == (name in GENERATED,) * 3
    assert record.of_questions == len(build.KEYS)
    assert record.joined_by


def test_what_a_file_lacks_stays_blank(home: Path) -> None:
    cli.main(build.flags(_cot(home), home))
    cli.main(build.flags(_compared(home), home, variant="other"))
    timed, untimed = sorted((record.arms[0] for record in imported(home)), key=lambda arm: arm.variant)
    assert timed.latency_ms[:2] == [100.0, 101.0]
    assert timed.tokens_out_mean == 7
    assert (untimed.latency_ms, untimed.tokens_out_mean, untimed.predicted_strict) == ([], None, "")


def test_a_letter_may_be_written_small(home: Path) -> None:
    rows = [{"id": f"q-{n}", "letter": letter.lower()} for n, letter in enumerate(LETTERS)]
    assert cli.main(build.flags(build.write_csv(home / "small.csv", rows), home)) == 0
    assert imported(home)[0].arms[0].predicted == LETTERS


def test_an_answer_without_a_letter_is_invalid_and_stays_in_n(home: Path) -> None:
    cli.main(build.flags(build.write_csv(home / "run_cot.csv", build.cot_rows("AB  ABCD")), home))
    (arm,) = imported(home)[0].arms
    assert (arm.predicted, arm.right, arm.invalid) == ("AB--ABCD", 6, 2)


def test_places_count_what_the_benchmark_leaves_out_and_four_of_five_options_are_enough(home: Path) -> None:
    rows = [row for row in build.cot_rows(build.KEYS) if row["question_id"] != 2]
    cli.main(build.flags(build.write_csv(home / "arc_cot.csv", rows), home, task="arc_challenge"))
    (record,) = imported(home)
    assert record.asked is not None
    assert record.asked.ids == [f"q-{n}" for n in range(8) if n != 2]
    assert (record.cut_options, record.arms[0].right) == (1, 7)


def test_subjects_are_joined_by_place_and_are_clusters(home: Path) -> None:
    rows = [
        build.cot_row(n, "A", subject=subject, question=f"{subject}: {build.question(n)}", true_answer="ABCD"[n])
        | {"is_correct": n == 0}
        for subject in ("virology", "astronomy")
        for n in (0, 2)
    ]
    cli.main(build.flags(build.write_csv(home / "m_cot.csv", rows), home, task="mmlu_redux"))
    (record,) = imported(home)
    assert record.asked is not None
    assert record.asked.ids == ["astronomy-0", "astronomy-2", "virology-0", "virology-2"]
    assert record.asked.subjects == ["astronomy", "virology"]
    assert "subject" in record.joined_by


def test_copies_that_differ_in_white_space_and_foreign_signs_are_the_same_text(home: Path) -> None:
    rows = build.cot_rows(build.KEYS)
    rows[0]["question"] = rows[0]["question"].replace(" ", "\u00a0").replace("?", "\u2026?")
    assert cli.main(build.flags(build.write_csv(home / "run_cot.csv", rows), home)) == 0


def test_a_summary_alone_is_a_figure(home: Path) -> None:
    path = home / "x_summary.json"
    path.write_text(json.dumps(build.summary_of(build.cot_rows(LETTERS))))
    assert format_of(path) == "summary"
    assert cli.main(build.flags(path, home)) == 0
    (record,) = imported(home)
    assert [(one.channel, one.right, one.n) for one in record.figures] == [("c2c", 5, 8)]
    assert (record.arms, record.questions) == ([], None)


def test_parts_of_one_whole_are_one_record(home: Path) -> None:
    parts = [build.write_csv(home / f"{n}_cot.csv", build.cot_rows(build.KEYS)[n : n + 4]) for n in (0, 4)]
    command = build.flags(parts[0], home)
    assert cli.main([*command[:2], str(parts[1]), *command[2:]]) == 0
    (record,) = imported(home)
    assert (record.arms[0].right, len(record.files)) == (8, 2)


@pytest.mark.parametrize(
    "ids",
    [["a-0", "a-1", "a-3", "b-9", "b-10"], ["7", "007", "8"], ["x", "x", "1"], ["a-1", "b-2"], ["a1b", "a2b", "9"]],
)
def test_ids_are_what_they_were_before_they_were_packed(ids: list[str]) -> None:
    places = [0, 0, 1, 1, 0][: len(ids)]
    questions = Questions(ids=ids, keys="A" * len(ids), subjects=["law", "physics"], subject=places)
    unpacked = PackedQuestions.of(questions).unpacked()
    assert (unpacked.ids, unpacked.keys) == (questions.ids, questions.keys)
    assert [unpacked.subjects[one] for one in unpacked.subject] == [questions.subjects[one] for one in places]


def test_one_filter_of_several_is_taken(home: Path) -> None:
    lines = [build.lm_eval_line(n, x) for n, x in enumerate(LETTERS)]
    lines += [{**line, "filter": "letter", "filtered_resps": [LETTERS[n]]} for n, line in enumerate(lines)]
    path = build.write_lines(home / "samples.jsonl", lines)
    assert cli.main(build.flags(path, home, filter="letter")) == 0
    assert imported(home)[0].arms[0].right == 5


def test_what_is_in_no_format_is_refused_with_all_of_them(tmp_path: Path) -> None:
    for name, text in (("a.csv", "x,y\n1,2\n"), ("b.json", '{"a": 1}'), ("c.txt", ""), ("d.json", "{broken")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="none of the formats") as found:
            format_of(tmp_path / name)
        assert all(form in str(found.value) for form in FORMATS)


def test_nothing_heavy_is_imported(home: Path) -> None:
    command = build.flags(_cot(home), home)
    code = (
        "import sys; from harness import cli; "
        f"assert cli.main({command!r}) == 0; "
        "found = {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
