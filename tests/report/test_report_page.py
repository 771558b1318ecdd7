from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from subprocess import run as run_process

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.records import load_run
from harness.report.data import page_data, run_numbers, subject_gains
from harness.report.page import embedded, fitted, write_html
from harness.report.questions import Question, wording
from harness.results.baselines import DERIVED
from tests.synthetic import SUBJECTS, Plan, questions, run, write

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
    assert HOSTILE in json.loads(page.data)["texts"]


def test_a_prompt_comes_back_from_its_wording(tmp_path: Path) -> None:
    plan = Plan(n=5)
    rows = questions(plan)
    wordings = {wording(Question(**row)) for row in rows}
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
    assert subject_gains(run_numbers(made).tables[0]) == []
    coarse = [
        sample.model_copy(update={"category": "even" if sample.position % 2 else "odd"}) for sample in made.samples
    ]
    (table,) = run_numbers(type(made)(made.path, made.record, coarse, [])).tables
    assert {gain["subject"] for gain in subject_gains(table)} == {"even", "odd"}


def test_several_runs_share_a_page_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    one, two = run([Plan(n=4)], run_id="one"), run([Plan(n=4)], run_id="two")
    empty = run([], run_id="empty")
    text = write_html([one, empty, two], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<title>one, two · c2c-harness</title>" in text


def test_no_samples_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No run has a sample"):
        write_html([run([])], tmp_path / "r.html")


def test_a_run_with_one_channel_and_no_timings_has_a_page(tmp_path: Path) -> None:
    page = page_of(write(run([Plan(n=3, arms=[("receiver", "")], timed=0)], fusion=[]), tmp_path))
    (task,) = json.loads(page.data)["runs"][0]["tasks"]
    assert task["effects"] == []
    assert (task["speed_ups"], {row["e2e_s_p50"] for row in task["rows"]}) == ([], {None})


def test_a_broken_sidecar_names_its_line(tmp_path: Path) -> None:
    folder = write(run([Plan(n=3)]), tmp_path)
    (folder / "questions.jsonl").write_text('{"task": 1, "doc_id": "x"}\n')
    with pytest.raises(UserError, match=r"questions\.jsonl line 1"):
        write_html([load_run(folder)], tmp_path / "r.html")


def test_texts_are_cut_and_said_to_be_only_where_the_budget_asks() -> None:
    data = {"texts": ["x" * 5000] * 40, "runs": []}
    assert fitted(data, 10_000_000)[1] is None
    content, limit = fitted(data, 30_000)
    assert limit == 600
    assert len(content) < 30_000


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_embedded_data_survives_and_cannot_end_its_element(data: object) -> None:
    content = embedded(data)
    assert not set("<>&\u2028\u2029") & set(content)
    assert json.loads(content) == data


def test_a_number_that_is_none_is_never_embedded() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        embedded([float("nan")])


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    plans = [Plan(n=6000, task="mmlu_redux", subjects=SUBJECTS, timed=4, answer="{letter} " + "because " * 12)]
    folder = write(run(plans), tmp_path)
    sidecar(folder, plans[0], "A question of some length, number {position}, " + "with words " * 20)
    path = write_html([load_run(folder)], tmp_path / "r.html")
    assert path.stat().st_size < 15_000_000


def test_reports_never_import_a_model_library() -> None:
    heavy = ("torch", "transformers", "matplotlib")
    code = f"import sys, harness.report.page; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert run_process([sys.executable, "-c", code], check=False).returncode == 0
