from __future__ import annotations

import base64
import gzip
import json
import random
import re
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import matplotlib.figure as mpl_figure
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.records import load_run
from harness.report.beside import compared_runs, run_names
from harness.report.data import Pool, page_data, prompt_wording, question_columns, run_numbers
from harness.report.drawing import place_labels
from harness.report.figures import log_ticks
from harness.report.page import embed_data, fit_budget, write_html
from harness.report.sidecar import Question, read_questions
from harness.report.subjects import SubjectGains, subject_gains
from harness.results import frame
from harness.results.frame import verdict_sentences
from harness.results.grouping import DERIVED, tables
from tests.support.synthetic import SUBJECTS, Plan, questions, run, write

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)> & \u2028'


class Elements(HTMLParser):
    """Collects the elements of a page, and the text of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data += data


def unpacked(content: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(content)))
    return found


def page_of(folder: Path) -> Elements:
    found = Elements()
    found.feed(write_html([load_run(folder)], folder / "report.html").read_text(encoding="utf-8"))
    return found


def sidecar(folder: Path, plan: Plan, text: str) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in questions(plan, text))
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")


def test_a_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    page = page_of(write(run([Plan(n=8)]), tmp_path))
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_text_from_models_and_datasets_is_inert(tmp_path: Path) -> None:
    plan = Plan(n=6, answer="{letter} " + HOSTILE, subjects=(HOSTILE, "other"))
    folder = write(run([plan], warnings=[HOSTILE]), tmp_path)
    sidecar(folder, plan, HOSTILE)
    page = page_of(folder)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    assert HOSTILE in unpacked(page.data)["texts"]


def test_a_prompt_comes_back_from_its_wording(tmp_path: Path) -> None:
    plan = Plan(n=5)
    rows = questions(plan)
    wordings = {prompt_wording(Question(**row), row["prompt"]) for row in rows}
    assert len(wordings) == 1
    (shared,) = wordings
    assert shared is not None
    text = shared.replace("\ue000", rows[2]["question"])
    assert re.sub("\ue001(\\d)\ue001", lambda found: rows[2]["choices"][int(found[1])], text) == rows[2]["prompt"]


def test_answers_stand_at_their_questions(tmp_path: Path) -> None:
    plan = Plan(n=12, errors=2, subjects=SUBJECTS[:3])
    made = run([plan], path=write(run([plan]), tmp_path))
    sidecar(tmp_path, plan, "Q{position}?")
    data = page_data([run_numbers(made)])
    columns, texts = data["runs"][0]["tasks"][0]["questions"], data["texts"]
    by_key = {(sample.doc_id, *sample.arm): sample for sample in made.samples}
    asked = [arm for arm in columns["arms"] if arm["channel"] not in DERIVED]
    assert {(arm["channel"], arm["control"]) for arm in asked} == set(plan.arms)
    for arm in asked:
        for index, doc in enumerate(columns["ids"]):
            sample = by_key[(texts[doc], arm["channel"], arm["control"])]
            assert texts[columns["questions"][index]] == f"Q{sample.position}?"
            assert arm["marks"][index] == ("!" if sample.error else "1" if sample.correct else "0")
            if sample.text is not None:
                assert texts[arm["texts"][index]] == sample.text


def test_subjects_too_many_to_read_give_way_to_categories() -> None:
    made = run([Plan(n=200, subjects=[f"fact{i}" for i in range(100)])])
    assert subject_gains(run_numbers(made).tables[0]) == SubjectGains({}, 100)
    coarse = [
        sample.model_copy(update={"category": "even" if sample.position % 2 else "odd"}) for sample in made.samples
    ]
    (table,) = run_numbers(type(made)(made.path, made.record, coarse, [])).tables
    gains = subject_gains(table)
    assert {gain["subject"] for own in gains.channels.values() for gain in own} == {"even", "odd"}
    assert gains.left_out == 0


def test_subjects_of_few_questions_are_counted_and_not_drawn(tmp_path: Path) -> None:
    made = run([Plan(n=30, subjects=["law"] * 8 + ["art"] * 6 + ["tea"])])
    gains = subject_gains(run_numbers(made).tables[0])
    assert {gain["subject"] for own in gains.channels.values() for gain in own} == {"law", "art"}
    assert {gain["n"] for own in gains.channels.values() for gain in own} == {16, 12}
    (task,) = page_data([run_numbers(made)])["runs"][0]["tasks"]
    assert "1 subject has fewer than 5" in next(one["lead"] for one in task["figures"] if "subjects" in one["name"])
    alone = run([Plan(n=30, subjects=[f"fact{i}" for i in range(30)])])
    (task,) = page_data([run_numbers(alone)])["runs"][0]["tasks"]
    assert "30 subjects have fewer than 5" in task["note"]
    assert not [one for one in task["figures"] if "subjects" in one["name"]]


def test_links_and_words_are_of_what_the_page_shows(tmp_path: Path) -> None:
    arms = [("receiver", "")]
    alone = page_of(write(run([Plan(n=40, arms=arms, timed=2)], fusion=[]), tmp_path / "alone"))
    links = {attributes["data-section"] for _, attributes in alone.tags if "data-section" in attributes}
    parts = {attributes["data-part"] for _, attributes in alone.tags if "data-part" in attributes}
    assert links == parts | {"questions", "runs"}
    text = (tmp_path / "alone" / "report.html").read_text(encoding="utf-8")
    assert [words in text for words in ("Hollow marks", "The line joins", "gain:")] == [False] * 3
    both = page_of(write(run([Plan(n=40)]), tmp_path / "both"))
    text = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "inside the grey band are too small" in " ".join(text.split())
    assert {"effects", "gates"} <= {attributes.get("data-section") for _, attributes in both.tags}


@pytest.mark.parametrize("seconds", [0.881, 1.3, 1.02, 9.7, 0.0123])
def test_one_time_alone_has_numbers_on_its_axis(seconds: float) -> None:
    times = read_times([seconds])
    assert 2 <= len(times) <= 9
    assert all(seconds / 1.31 < time < seconds * 1.31 for time in times)
    assert read_times([0.005, 0.09]) == [0.005, 0.01, 0.02, 0.05, 0.1]


def read_times(seconds: list[float]) -> list[float]:
    axes = mpl_figure.Figure().add_subplot()
    axes.set_xscale("log")
    axes.plot(seconds, [0] * len(seconds))
    log_ticks(axes, seconds)
    low, high = axes.get_xlim()
    return [round(tick, 6) for tick in axes.get_xticks() if low <= tick <= high]


def test_runs_are_named_by_their_folders_and_compared_arm_by_arm(tmp_path: Path) -> None:
    made = [
        run([Plan(n=12, seed=seed)], path=tmp_path / name, run_id=f"id-{seed}") for seed, name in ((1, "a"), (2, "b"))
    ]
    data = page_data([run_numbers(one) for one in made])
    assert [one["name"] for one in data["runs"]] == ["a", "b"]
    (pair,) = data["compared"]
    (task,) = pair["tasks"]
    rows = {row["channel"]: row for row in task["rows"]}
    right = [sum(bool(s.correct) for s in one.samples if s.arm == ("c2c", "")) / 12 for one in made]
    assert (rows["c2c"]["first"], rows["c2c"]["second"]) == tuple(f"{100 * share:.1f}" for share in right)
    text = write_html(made, tmp_path / "two.html").read_text(encoding="utf-8")
    assert "<title>a, b · c2c-harness</title>" in text
    assert "<h2>b minus a: openbookqa</h2>" in text
    alike = [run([Plan(n=3)], path=tmp_path / name / "run") for name in "xy"]
    assert run_names(alike) == ["x/run", "y/run"]


def test_runs_without_a_common_question_say_so(tmp_path: Path) -> None:
    made = [run([Plan(n=4, task=task)], path=tmp_path / task) for task in ("openbookqa", "mmlu_redux")]
    (pair,) = compared_runs(made)
    assert pair["tasks"] == []
    assert "no question in common" in pair["said"]


def test_several_runs_share_a_page_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    one, two = run([Plan(n=4)], run_id="one"), run([Plan(n=4)], run_id="two")
    empty = run([], run_id="empty")
    text = write_html([one, empty, two], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>one, two · c2c-harness</title>" in text


def test_no_samples_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No run has a sample"):
        write_html([run([])], tmp_path / "r.html")


def test_a_run_with_one_channel_and_no_timings_has_a_page(tmp_path: Path) -> None:
    made = write(run([Plan(n=3, arms=[("receiver", "")], timed=0)], fusion=[]), tmp_path)
    assert [tag for tag, attributes in page_of(made).tags if attributes.get("data-part")]
    (task,) = page_data([run_numbers(load_run(made))])["runs"][0]["tasks"]
    assert task["effects"] == []
    assert (task["speed_ups"], {row["e2e_s_p50"] for row in task["rows"]}) == ([], {None})
    assert [figure["name"] for figure in task["figures"]] == ["accuracy"]


def test_the_verdicts_of_the_page_are_those_of_the_terminal(tmp_path: Path) -> None:
    folder = write(run([Plan(n=60)]), tmp_path)
    made = load_run(folder)
    sentences = verdict_sentences(frame([made]))
    assert len(sentences) == 2
    (task,) = page_data([run_numbers(made)])["runs"][0]["tasks"]
    assert task["verdicts"] == sentences
    page = write_html([made], tmp_path / "r.html").read_text(encoding="utf-8")
    assert [sentence for sentence in sentences if escape(sentence) not in page] == []


def test_a_gate_is_open_above_zero_and_says_its_logit(tmp_path: Path) -> None:
    layers = [
        {"layer": 0, "sharer": 0, "gate_k": -0.5, "gate_v": 0.25},
        {"layer": 1, "sharer": 0, "gate_k": 1.5, "gate_v": -2},
    ]
    made = load_run(write(run([Plan(n=3)], fusion=layers), tmp_path))
    (figure,) = page_data([run_numbers(made)])["runs"][0]["gates"]
    assert "1 of 2 key gates and 1 of 2 value gates" in figure["lead"]
    assert "layer 0, keys: gate closed, logit -0.500" in figure["wide"]
    assert "layer 1, keys: gate open, logit 1.500" in figure["wide"]


def test_figures_have_the_colours_of_the_page_and_no_identifier_twice(tmp_path: Path) -> None:
    text = write_html([load_run(write(run([Plan(n=12)]), tmp_path))], tmp_path / "r.html").read_text(encoding="utf-8")
    drawn = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    assert len(drawn) >= 8
    assert not re.findall(r'style="[^"]*#[0-9a-f]{6}', "".join(drawn))
    used, known = set(re.findall(r"var\((--[\w-]+)", "".join(drawn))), set(re.findall(r"(--[\w-]+):", text))
    assert used <= known
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_names_of_points_do_not_cover_each_other() -> None:
    figure = mpl_figure.Figure(figsize=(6, 3))
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 10), ylim=(0, 10))
    points = [(5.0, 5.0), (5.1, 5.05), (5.2, 4.95), (9.9, 5.0)]
    found = place_labels(axes, points, ["receiver", "sharer", "ensemble", "at the edge"])
    assert len(set(found[:3])) == 3
    assert found[3][1] == "right"


def test_a_broken_sidecar_names_its_line(tmp_path: Path) -> None:
    folder = write(run([Plan(n=3)]), tmp_path)
    (folder / "questions.jsonl").write_text('{"task": 1, "doc_id": "x"}\n')
    with pytest.raises(UserError, match=r"questions\.jsonl line 1"):
        write_html([load_run(folder)], tmp_path / "r.html")


def test_texts_are_cut_and_said_to_be_only_where_the_budget_asks() -> None:
    data = {"texts": ["x" * 5000] * 40, "runs": []}
    assert fit_budget(data, 10_000_000)[1] is None
    varied = {"texts": [random.Random(i).randbytes(2500).hex() for i in range(40)], "runs": []}
    content, limit = fit_budget(varied, 20_000)
    assert limit == 600
    assert len(content) < 20_000


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_data_survives_and_cannot_end_its_element(data: object) -> None:
    content = embed_data(data)
    assert not set("<>&\u2028\u2029") & set(content)
    assert unpacked(content) == data


def test_a_number_that_is_none_is_never_embedded() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_data([float("nan")])


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    arms = [("receiver", ""), ("sharer", ""), ("t2t", ""), ("t2t", "mismatched"), ("c2c", ""), ("c2c", "mean"),
            ("c2c", "mismatched"), ("c2c", "zeroed")]  # fmt: skip
    large = Plan(n=6400, task="mmlu_redux", subjects=SUBJECTS, timed=4, arms=arms, answer="{letter} " + "because " * 12)
    sidecar(tmp_path, large, "A question of some length, number {position}, " + "with words " * 20)
    pool = Pool()
    (table,) = tables(run([large]).samples)
    columns = question_columns(table, read_questions(tmp_path), [], pool)
    content, cut = fit_budget({"runs": [columns], "texts": pool.texts})
    small = Plan(n=60, task="mmlu_redux", subjects=SUBJECTS, timed=4, arms=arms)
    page = write_html([run([small])], tmp_path / "r.html")
    assert len(content) + page.stat().st_size < 4_000_000
    assert cut is None


def test_reports_never_import_a_model_library() -> None:
    heavy = ("torch", "transformers", "matplotlib")
    code = f"import sys, harness.report.page; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
