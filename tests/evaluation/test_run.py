"""A whole run through the command line: what it leaves behind, and that its parts agree with each other."""

from __future__ import annotations

import functools
import json
import resource
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from safetensors.torch import load_file

from harness import cli
from harness.benchmarks.questions import sample_of
from harness.channels.spec import slug
from harness.evaluation.latency_pass import draw
from harness.paths import PAIR, ROOT
from harness.records.schema import Failure, Sample
from tests.support.relay import LETTERS, LETTERS_FILE, WORDS

QUESTIONS, TIMED, EQUAL, FRACTION = 12, 3, 3, 0.25
ROUTED = f"routed:share={FRACTION}"
TEXT = "t2t:max_new_tokens=8"
CHANNELS = ["receiver", "sharer", "ensemble", TEXT, "c2c", ROUTED]
SUITE = f"""
channels: [{", ".join(CHANNELS)}]
controls: [mismatched, mean, closed]
tasks: [{WORDS}, {LETTERS_FILE}]
limit: 7
latency_samples: {TIMED}
latency_warm_up: 1
latency_equal_tokens: {EQUAL}
progress: false
"""
HEAVY = ("torch", "transformers", "lm_eval", "datasets", "numpy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run from a suite whose limit a flag overrides."""
    home = tmp_path_factory.mktemp("run")
    suite = home / "suite.yaml"
    suite.write_text(SUITE)
    flags = ["--limit", str(QUESTIONS), "--output_path", str(home / "out"), "--leaderboards_dir", str(home / "boards")]
    assert cli.main(["run", str(suite), *flags]) == 0
    return home / "out"


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


@functools.cache
def schema(name: str) -> jsonschema.Draft202012Validator:
    form = json.loads((ROOT / "docs" / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(form)
    return jsonschema.Draft202012Validator(form)


def samples(folder: Path, task: str, channel: str, control: str = "") -> list[Sample]:
    found = [Sample.model_validate(line) for line in lines(folder, "samples.jsonl")]
    return [s for s in found if s.task == task and s.arm == (channel, control)]


def test_every_file_keeps_its_published_form(folder: Path) -> None:
    schema("run").validate(record(folder))
    for name in ("sample", "timing"):
        written = lines(folder, f"{name}s.jsonl")
        assert written
        for line in written:
            schema(name).validate(line)


def test_flags_win_over_the_suite_and_the_rest_of_it_holds(folder: Path) -> None:
    config = record(folder)["config"]
    assert (config["limit"], config["channels"]) == (QUESTIONS, CHANNELS)
    assert len(samples(folder, WORDS, "receiver")) == QUESTIONS


def test_every_question_is_answered_by_every_arm(folder: Path) -> None:
    arms = [(c, "") for c in CHANNELS] + [("c2c", c) for c in ("mismatched", "mean", "closed")]
    arms += [(TEXT, "mismatched"), (ROUTED, "random")]
    for task in (LETTERS, WORDS):
        for channel, control in arms:
            made = samples(folder, task, channel, control)
            assert [s.position for s in made] == sample_of(432, QUESTIONS, 0, task), (task, channel, control)
            assert all(s.done for s in made)
    assert len(lines(folder, "samples.jsonl")) == 2 * len(arms) * QUESTIONS


def test_question_pages_name_what_was_asked(folder: Path) -> None:
    asked = lines(folder, "questions.jsonl")
    assert len(asked) == 2 * QUESTIONS
    for line in asked:
        assert line["question"] in line["prompt"]
        assert all(choice in line["prompt"] for choice in line["choices"])
        assert line["key"] in line["labels"]


def test_rows_are_what_the_samples_give(folder: Path) -> None:
    for row in record(folder)["results"]:
        if not row["model_pass"]:
            assert row["channel"] in ("chance", "majority", "oracle")
            continue
        own = samples(folder, row["task"], row["channel"], row["control"])
        assert (row["n"], row["errors"]) == (len(own), 0)
        assert row["accuracy"] == pytest.approx(sum(bool(s.correct) for s in own) / len(own))
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert sum(row["letters"].values()) + row["invalid"] == row["n"]
        timed = not row["control"] or row["channel"] == ROUTED
        assert (row["latency_n"] > 0) == timed, row
        for name in ("ttft_s_p50", "ttft_s_p90", "e2e_s_p50", "e2e_s_p90", "e2e_s_p99"):
            assert (row[name] is not None) == timed, (name, row)


def test_lm_eval_finds_the_same_accuracy(folder: Path) -> None:
    rows = {(r["task"], r["channel"]): r["accuracy"] for r in record(folder)["results"] if not r["control"]}
    for channel in ("receiver", "sharer", TEXT, "c2c"):
        found = json.loads((folder / "lm_eval" / f"results_{slug(channel)}.json").read_text(encoding="utf-8"))
        for task in (LETTERS, WORDS):
            first = "none" if task == LETTERS else "paper"
            assert found["results"][task][f"acc,{first}"] == pytest.approx(rows[task, channel])


def test_provenance_is_whole(folder: Path) -> None:
    found = record(folder)
    assert found["status"] == "success"
    assert [m["role"] for m in found["models"]] == ["receiver", "sharer"]
    assert all(len(m["fingerprint"]) == 64 for m in found["models"])
    assert set(found["datasets"]) == {LETTERS, WORDS}
    assert found["counters"]["c2c"]["fused_tokens"] > 0
    assert found["counters"]["receiver"]["fused_tokens"] == 0
    assert found["hardware"]["fingerprint"]
    assert found["finished_at"] > found["started_at"]


def test_pages_are_written_and_agree_with_their_records(folder: Path) -> None:
    boards = folder.parent / "boards"
    page = (boards / f"{WORDS}.md").read_text(encoding="utf-8")
    assert all(channel in page for channel in CHANNELS)
    assert cli.main(["report", "--check", "--leaderboards_dir", str(boards)]) == 0
    copy = boards / f"{LETTERS}.md"
    before = copy.read_text(encoding="utf-8")
    copy.write_text(before + "edited\n", encoding="utf-8")
    assert cli.main(["report", "--check", "--leaderboards_dir", str(boards)]) == 1
    copy.write_text(before, encoding="utf-8")


def test_channels_take_turns_in_every_round(folder: Path) -> None:
    channels = [name for name in CHANNELS if name != ROUTED]
    every = [t for t in lines(folder, "timings.jsonl") if t["task"] == WORDS and not t["equal_length"]]
    timed = [t for t in every if t["channel"] != ROUTED]
    groups = [timed[i : i + len(channels)] for i in range(0, len(timed), len(channels))]
    assert len(groups) == 2 * TIMED
    for group in groups:
        assert sorted(t["channel"] for t in group) == sorted(channels)
        assert len({(t["doc_id"], t["round"]) for t in group}) == 1
    firsts = [group[0]["channel"] for group in groups]
    assert firsts == [channels[(number % TIMED + number // TIMED) % len(channels)] for number in range(2 * TIMED)]


def test_timed_answers_are_compared_with_the_accuracy_pass(folder: Path) -> None:
    for timing in lines(folder, "timings.jsonl"):
        composed = timing["channel"] == ROUTED
        assert timing["same_answer"] is (None if timing["equal_length"] or composed else True)
        assert 0 < timing["ttft_s"] <= timing["e2e_s"]
        if timing["equal_length"] and timing["task"] == WORDS:
            assert timing["tokens_out"] == EQUAL


def test_stages_are_those_of_the_channel(folder: Path) -> None:
    seen = defaultdict(set)
    for timing in lines(folder, "timings.jsonl"):
        seen[timing["channel"]] |= set(timing["stages_s"])
    assert seen["receiver"] == {"receiver_prefill", "receiver_decode"}
    assert seen["sharer"] == {"sharer_prefill", "sharer_decode"}
    assert {"sharer_prefill", "message_transfer", "fusion", "receiver_prefill"} <= seen["c2c"]
    assert "sharer_decode" in seen[TEXT]
    assert "sharer_decode" not in seen["c2c"]


def test_resuming_asks_nothing_again_and_carries_no_old_timing(folder: Path, tmp_path: Path) -> None:
    flags = ["run", "--tasks", WORDS, "--limit", "4", "--channels", "receiver", "--no-progress"]
    flags += ["--latency_samples", "2", "--output_path", str(tmp_path / "out")]
    assert cli.main([*flags, "--resume"]) == 0  # where nothing has begun it starts
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    first = lines(tmp_path / "out", "timings.jsonl")
    assert cli.main([*flags, "--resume"]) == 0
    second = lines(tmp_path / "out", "timings.jsonl")
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before
    assert record(tmp_path / "out")["resumed"] == 4
    assert len(second) == len(first)
    assert not {t["e2e_s"] for t in first} & {t["e2e_s"] for t in second}
    assert not any("e2e_s" in line for line in lines(tmp_path / "out", "samples.jsonl"))


@pytest.mark.parametrize("control", ["", "random"])
@pytest.mark.parametrize("task", [LETTERS, WORDS])
def test_routing_sends_its_fraction_and_repeats_the_chosen_answers(folder: Path, task: str, control: str) -> None:
    routed = samples(folder, task, ROUTED, control)
    assert sum(s.routed_to == "sharer" for s in routed) == round(FRACTION * QUESTIONS)
    for sample in routed:
        assert sample.routed_to is not None
        (own,) = [s for s in samples(folder, task, sample.routed_to) if s.doc_id == sample.doc_id]
        assert (sample.text, sample.loglikelihoods, sample.correct) == (own.text, own.loglikelihoods, own.correct)


def test_what_was_routed_by_a_failed_answer_is_routed_again(folder: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    path = again / "samples.jsonl"
    kept = [Sample.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    fault = {"error": Failure(type="X", message="x"), "entropy": None, "correct": None, "predicted": None}
    wrong = {"sharer": "receiver", "receiver": "sharer"}
    changed = []
    for sample in kept:
        update: dict[str, Any] = {}
        if sample.arm == ("receiver", "") and sample.position == 0:
            update = fault
        if sample.channel == ROUTED and sample.position == 0:
            update = {"routed_to": wrong[str(sample.routed_to)]}
        changed.append(sample.model_copy(update=update).model_dump_json() + "\n")
    path.write_text("".join(changed), encoding="utf-8")
    assert cli.main(["resume", str(again)]) == 0

    def routed(where: Path) -> list[tuple[str, str, str, str | None]]:
        found = [Sample.model_validate(line) for line in lines(where, "samples.jsonl")]
        return [(s.task, s.doc_id, s.control, s.routed_to) for s in found if s.channel == ROUTED]

    assert routed(again) == routed(folder)


def test_routing_takes_the_receivers_most_doubtful_questions(folder: Path) -> None:
    own = {s.doc_id: s.entropy or 0.0 for s in samples(folder, LETTERS, "receiver")}
    routed = samples(folder, LETTERS, ROUTED)
    away = [own[s.doc_id] for s in routed if s.routed_to == "sharer"]
    kept = [own[s.doc_id] for s in routed if s.routed_to == "receiver"]
    assert min(away) >= max(kept)


def test_the_timed_draw_is_fixed_by_its_seed_and_in_order() -> None:
    items: Any = list(range(100))
    assert draw(items, 10, 1) == draw(items, 10, 1) == sorted(draw(items, 10, 1))
    assert draw(items, 10, 1) != draw(items, 10, 2)
    assert draw(items, 500, 1) == items


def test_a_run_is_as_good_as_itself(folder: Path) -> None:
    assert cli.main(["check", str(folder), str(folder)]) == 0


def test_page_and_plots_are_written(folder: Path, tmp_path: Path) -> None:
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    assert cli.main(["report", str(folder), "--html", str(page), "--plots", str(plots)]) == 0
    assert "<html" in page.read_text(encoding="utf-8")
    assert {p.suffix for p in plots.iterdir()} == {".png", ".svg"}


def test_converting_there_and_back_changes_no_bit(tmp_path: Path) -> None:
    there, back = tmp_path / "official", tmp_path / "ours"
    assert cli.main(["convert", str(PAIR / "fuser"), str(there), "--official"]) == 0
    assert cli.main(["convert", str(there), str(back)]) == 0
    before, after = (load_file(path / "fuser.safetensors") for path in (PAIR / "fuser", back))
    assert before.keys() == after.keys()
    assert all(before[n].dtype == after[n].dtype and before[n].equal(after[n]) for n in before)
    assert cli.main(["convert", str(there), str(back)]) == 2


@pytest.mark.parametrize(
    ("what", "name"),
    [("tasks", "openbookqa"), ("channels", "c2c"), ("controls", "mean"), ("fusers", "c2c"), ("subtasks", WORDS)],
)
def test_ls_lists(what: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", what]) == 0
    assert name in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rnu"], "run"),
        (["run", "--lmit", "3"], "--limit"),
        (["run", "--limit", "x"], "not a whole number"),
        (["run", "--tasks", "factwrld"], "factworld"),
        (["run", "--channels", "c2d"], "c2c"),
        (["run", "no-such-suite.yaml"], "no-such-suite.yaml"),
        (["report", "--html", "x.html"], "at least one run"),
        (["check", "nowhere", "nowhere"], "nowhere"),
        (["convert", "nowhere", "somewhere-new"], "nowhere"),
        (["run", "--channels", "routed", "--tasks", WORDS, "--no-progress"], "receiver and sharer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_end_in_one_sentence_and_code_2(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(given) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(shown) == 1
    assert said in shown[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["ls"]], ids=" ".join)
def test_help_is_quick_because_it_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = HEAVY if arguments == ["ls"] else (*HEAVY, "pydantic")
    code = (
        "import sys\nfrom harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [m for m in {heavy!r} if m in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\nrun_eval.py {' '.join(arguments)}: {seconds:.2f} s of CPU time")
    assert done.stdout.rstrip().endswith("heavy: []")


def short_run(folder: Path, *flags: str) -> list[str]:
    base = ["run", "--tasks", WORDS, "--limit", "2", "--latency_samples", "0", "--no-progress"]
    return [*base, "--channels", "receiver", "--controls", "", "--output_path", str(folder), *flags]


def test_a_length_that_is_asked_for_comes_before_the_tasks_own(tmp_path: Path) -> None:
    assert cli.main(short_run(tmp_path / "run", "--gen_kwargs", "max_new_tokens=1")) == 0
    assert {line["tokens_out"] for line in lines(tmp_path / "run", "samples.jsonl")} == {1}


def test_no_error_passes_where_none_may(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["--limit", "1", "--max_new_tokens", "100000"]
    assert cli.main(short_run(tmp_path / "usual", *one)) == 0
    assert cli.main(short_run(tmp_path / "none", *one, "--max_error_rate", "0")) == 1
    assert "more than --max_error_rate 0 allows" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_another_chat_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text((PAIR / "receiver" / "chat_template.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    assert cli.main(short_run(tmp_path / "run", "--receiver_chat_template", str(template))) == 0
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert cli.main(["resume", str(tmp_path / "run")]) == 2
    assert "differing: exchanges, prompts" in capsys.readouterr().err


def test_the_embedded_pair_takes_another_fuser(tmp_path: Path) -> None:
    fuser = shutil.copytree(PAIR / "fuser", tmp_path / "fuser")
    assert cli.main(short_run(tmp_path / "run", "--channels", "c2c", "--fuser", str(fuser))) == 0
    assert record(tmp_path / "run")["fusers"][0]["reference"] == str(fuser)


def test_the_results_file_of_lm_eval_says_how_prompts_were_read(folder: Path) -> None:
    found = json.loads((folder / "lm_eval" / "results_c2c.json").read_text(encoding="utf-8"))["config"]["prompts"]
    assert found == record(folder)["prompts"]
    assert found["seam"].startswith("kept")
    assert "enable_thinking, sharer 0" in found
