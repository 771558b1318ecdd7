"""Receiver and sharer behind somebody else's engine: the same answers as ours, nothing lost, nothing told."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.config import build
from harness.errors import UserError
from harness.evaluation.setup import load_cast
from harness.inference.types import CallStats
from harness.lm_eval_bridge.arguments import SINGLE
from harness.lm_eval_bridge.model import channel_lm
from harness.models.reference import Reference
from harness.paths import PAIR
from harness.records.schema import Sample
from harness.serving.backend import filled_in
from harness.serving.channels import throughput_of
from tests.support.api_server import Api, serving
from tests.support.processes import dying, ended, forked
from tests.support.refusals import edit, refused
from tests.support.relay import LETTERS, LETTERS_FILE, WORDS

QUESTIONS, BATCH = 6, 4
TEXT = "t2t:max_new_tokens=12"
KEY = "sk-this-must-never-be-written-down"
MODELS = {"receiver": PAIR / "receiver", "sharer": PAIR / "sharer"}


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving(MODELS) as api:
        yield api


@pytest.fixture
def api(server: Api) -> Api:
    server.calm()
    return server


def command(folder: Path, *more: str, tasks: str = f"{WORDS},{LETTERS_FILE}") -> list[str]:
    own = ["--latency_samples", "0"] if "--backend" not in more else []
    base = ["--tasks", tasks, "--limit", str(QUESTIONS), "--batch_size", str(BATCH), "--no-progress"]
    arms = ["--channels", f"receiver,sharer,{TEXT}", "--controls", "mismatched"]
    return ["run", *base, *arms, "--output_path", str(folder), *own, *more]


def through(api: Api, backend: str = "local-completions", more: str = "") -> list[str]:
    path = "chat/completions" if "chat" in backend else "completions"
    sides = [f"--{role}_args=model={role},base_url={api.url(path)}{more}" for role in MODELS]
    return ["--backend", backend, *sides]


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text()))


def answers(folder: Path, tasks: tuple[str, ...] = (WORDS, LETTERS)) -> dict[tuple[str, ...], Sample]:
    found = [Sample.model_validate_json(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    kept = {(s.task, s.doc_id, s.channel, s.control): s for s in found if s.task in tasks}
    assert len(kept) == len([s for s in found if s.task in tasks]), "a sample was written twice"
    return kept


def stopped(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Runs a command that fails on the way and returns its sentence."""
    capsys.readouterr()
    assert cli.main(arguments) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.partition("Error: ")[2]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Sample]:
    """What our own engine answers."""
    folder = tmp_path_factory.mktemp("own") / "run"
    assert cli.main(command(folder)) == 0
    return answers(folder)


def check_equal(found: dict[tuple[str, ...], Sample], own: dict[tuple[str, ...], Sample]) -> None:
    """Equal but for the tokens that end an answer, which an engine does not hand back."""
    assert found.keys() == own.keys()
    for key, sample in found.items():
        numbers, theirs = sample.loglikelihoods, own[key].loglikelihoods
        assert (numbers is None) == (theirs is None)
        if numbers is not None:
            assert numbers == pytest.approx(theirs, abs=1e-3)
        apart = {"loglikelihoods": None, "entropy": None, "tokens_out": 0}
        assert sample.model_copy(update=apart) == own[key].model_copy(update=apart), key


@pytest.mark.parametrize("more", ["", ",num_concurrent=3,batch_size=2", ",batch_size=1,tokenized_requests=False"])
def test_a_completions_server_gives_the_answers_of_our_own_engine(
    api: Api, own: dict[tuple[str, ...], Sample], tmp_path: Path, more: str
) -> None:
    assert cli.main(command(tmp_path / "run", *through(api, more=more))) == 0
    check_equal(answers(tmp_path / "run"), own)
    assert all(s.message_text for (_, _, channel, _), s in answers(tmp_path / "run").items() if channel == TEXT)


def test_an_engine_in_this_process_gives_the_answers_of_our_own(
    own: dict[tuple[str, ...], Sample], tmp_path: Path
) -> None:
    assert cli.main(command(tmp_path / "run", "--backend", "hf", "--receiver_args", "dtype=float32")) == 0
    check_equal(answers(tmp_path / "run"), own)


def test_a_checkpoints_own_generation_settings_change_no_answer(
    own: dict[tuple[str, ...], Sample], tmp_path: Path
) -> None:
    """With a repetition penalty the sharer could not name again what the question names."""
    models = {role: tmp_path / role for role in MODELS}
    for role, folder in models.items():
        shutil.copytree(MODELS[role], folder)
        edit(folder / "generation_config.json", lambda settings: settings.update(repetition_penalty=50.0))
    sides = [f"--{role}={folder}" for role, folder in models.items()]
    assert cli.main(command(tmp_path / "run", *sides, "--backend", "hf")) == 0
    check_equal(answers(tmp_path / "run"), own)


def test_plain_text_is_read_as_our_own_engine_reads_it(api: Api, tmp_path: Path) -> None:
    plain = ["--no-chat-template"]
    assert cli.main(command(tmp_path / "own", *plain)) == 0
    assert cli.main(command(tmp_path / "run", *plain, *through(api))) == 0
    check_equal(answers(tmp_path / "run"), answers(tmp_path / "own"))


def test_a_chat_server_gets_chats_and_gives_the_same_texts(
    api: Api, own: dict[tuple[str, ...], Sample], tmp_path: Path
) -> None:
    assert cli.main(command(tmp_path / "run", *through(api, "local-chat-completions"), tasks=WORDS)) == 0
    found = answers(tmp_path / "run")
    for key in found.keys() & {k for k in own if k[3] == ""}:
        assert (found[key].text, found[key].message_text) == (own[key].text, own[key].message_text)
        assert (found[key].tokens_out, found[key].prompt_tokens) == (0, 0)
    roles = [[turn["role"] for turn in body["messages"]] for _, body in api.asked]
    assert ["user", "assistant", "user"] in roles
    assert {body["max_tokens"] for _, body in api.asked} == {8, 12}


def test_the_budget_and_the_stops_are_the_tasks_own(api: Api, tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("gen_kwargs: {until: [D, x, y, z, B]}\nmax_new_tokens: 3\nmax_error_rate: 1\n")
    one = [str(suite), "--channels", "receiver", "--controls", ""]
    assert cli.main(command(tmp_path / "own", *one, tasks=WORDS)) == 0
    ours = {k: s.text for k, s in answers(tmp_path / "own").items()}
    assert "?" in {text.strip() for text in ours.values()}  # it knows no place, and stops before its letter
    for backend in ("local-completions", "local-chat-completions"):
        folder = tmp_path / backend
        assert cli.main(command(folder, *one, *through(api, backend), tasks=WORDS)) == 0
        assert {k: s.text for k, s in answers(folder).items()} == ours
    assert {body["max_tokens"] for _, body in api.asked} == {3}


def test_a_batch_that_fails_once_is_asked_again(
    api: Api, own: dict[tuple[str, ...], Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes: list[int | None] = [None] * len(MODELS)
    api.failing = [*probes, 500]
    assert cli.main(command(tmp_path / "retried", *through(api))) == 0
    assert "halved" not in capsys.readouterr().err
    api.failing = [*probes, 503]
    assert cli.main(command(tmp_path / "halved", *through(api, more=",max_retries=1"))) == 0
    assert f"A batch of {BATCH} failed (HTTPError) and was halved." in capsys.readouterr().err
    for folder in ("retried", "halved"):
        check_equal(answers(tmp_path / folder), own)


def test_a_question_that_an_engine_cannot_take_is_its_own_error(api: Api, tmp_path: Path) -> None:
    assert cli.main(command(tmp_path / "whole", "--channels", "receiver", "--controls", "", *through(api))) == 0
    questions = [json.loads(line) for line in (tmp_path / "whole" / "questions.jsonl").read_text().splitlines()]
    api.poison = questions[5]["prompt"]
    flags = ["--channels", "receiver", "--controls", "", "--max_error_rate", "1"]
    assert cli.main(command(tmp_path / "run", *flags, *through(api, more=",max_retries=1"))) == 0
    whole, found = answers(tmp_path / "whole"), answers(tmp_path / "run")
    failed = {key for key, sample in found.items() if sample.error is not None}
    assert {key[:2] for key in failed} == {(q["task"], q["doc_id"]) for q in questions if q["prompt"] == api.poison}
    check_equal(
        {k: s for k, s in found.items() if k not in failed}, {k: s for k, s in whole.items() if k not in failed}
    )
    rows = record(tmp_path / "run")["results"]
    assert sum(row["errors"] for row in rows) == len(failed)
    assert record(tmp_path / "run")["throughput"]["receiver"]["questions"] == 2 * QUESTIONS - len(failed)


def test_a_prompt_that_is_too_long_is_an_error_and_never_cut(api: Api, tmp_path: Path) -> None:
    flags = ["--channels", "receiver", "--controls", "", "--max_error_rate", "1", *through(api, more=",max_length=9")]
    assert cli.main(command(tmp_path / "run", *flags)) == 0
    assert not api.asked
    for sample in answers(tmp_path / "run").values():
        assert sample.error is not None
        assert sample.error.type == "PromptTooLong"
        assert "max_length" in sample.error.message


def test_a_server_that_goes_away_ends_the_run_which_then_goes_on(
    api: Api, own: dict[tuple[str, ...], Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, flags = tmp_path / "run", through(api, more=",max_retries=1")
    api.lost = 4
    said = stopped(capsys, command(folder, *flags))
    assert "does not answer" in said
    assert "resume" in said
    assert record(folder)["status"] == "error"
    kept = len(answers(folder))
    assert 0 < kept < len(own)
    api.calm()
    assert cli.main(["resume", str(folder)]) == 0
    check_equal(answers(folder), own)
    assert record(folder)["resumed"] == kept
    measured = record(folder)["throughput"]
    asked = sum(found["questions"] for found in measured.values())
    assert asked == len([k for k in own if k[3] == ""]) - kept


def test_a_killed_run_goes_on_to_the_same_answers(api: Api, own: dict[tuple[str, ...], Sample], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert ended(forked(dying, command(folder, *through(api)), 5, 0.4)) == -signal.SIGKILL
    assert record(folder)["status"] == "started"
    before = len(api.asked)
    assert cli.main(["resume", str(folder)]) == 0
    check_equal(answers(folder), own)
    assert len(api.asked) - before < before + len(own)
    assert cli.main(["resume", str(folder)]) == 0
    assert record(folder)["throughput"] == {}


def test_no_access_token_is_ever_written(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api.key = KEY
    said = stopped(capsys, command(tmp_path / "refused", *through(api, more=",max_retries=1")))
    assert "refuses the access token" in said
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    boards = ["--leaderboards_dir", str(tmp_path / "boards")]
    assert cli.main(command(tmp_path / "run", *boards, *through(api))) == 0
    assert api.keys == {f"Bearer {KEY}", "Bearer "}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert not any(KEY in path.read_text(errors="replace") for path in files)


def test_the_record_and_the_board_name_the_engine_and_show_no_latency(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, boards = tmp_path / "run", tmp_path / "boards"
    assert cli.main(command(folder, "--leaderboards_dir", str(boards), *through(api))) == 0
    shown = capsys.readouterr().out
    found = record(folder)
    assert found["engine"]["backend"] == "local-completions"
    assert found["engine"]["receiver_args"] == f"model=receiver,base_url={api.url('completions')}"
    assert found["engine"]["lm_eval"]
    for channel in ("receiver", "sharer", TEXT):
        measured = found["throughput"][channel]
        assert measured["questions"] == 2 * QUESTIONS
        assert measured["questions_per_second"] == pytest.approx(2 * QUESTIONS / measured["seconds"])
        assert "batched" in measured["conditions"]
        assert f"{channel}: {measured['questions_per_second']:.3g} questions/s" in shown
    assert not (folder / "timings.jsonl").read_text()
    assert all(row["ttft_s_p50"] is None and row["e2e_s_p50"] is None for row in found["results"])
    assert all("through local-completions" in row["variant"] for row in found["results"] if row["model_pass"])
    page = (boards / f"{WORDS}.md").read_text()
    (ours,) = [line for line in page.splitlines() if f"run {found['run_id']}, through local-completions" in line]
    assert "rerun: <code>" in ours
    assert "(commit unknown, behind an engine)" in ours
    assert {(model["revision"], model["fingerprint"]) for model in found["models"]} == {("", "")}
    assert f"run {found['run_id']} through local-completions" in (boards / "overview.csv").read_text()
    assert cli.main(["report", "--check", "--leaderboards_dir", str(boards)]) == 0


def test_left_alone_it_compares_the_plain_channels_of_the_embedded_pair(tmp_path: Path) -> None:
    flags = ["run", "--backend", "hf", "--tasks", WORDS, "--limit", "2", "--no-progress"]
    assert cli.main([*flags, "--output_path", str(tmp_path / "run")]) == 0
    config = record(tmp_path / "run")["config"]
    assert (config["channels"], config["controls"]) == (["receiver", "sharer", "t2t"], ["mismatched"])
    assert config["latency_samples"] == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--backend", "vlm"], "Did you mean 'vllm'?"),
        (["--backend", "c2c"], "Unknown backend 'c2c'"),
        (["--backend", ""], "backend"),
        (["--backend", "hf", "--channels", "receiver,c2c"], "channels c2c"),
        (["--backend", "hf", "--channels", "receiver,sharer,routed"], "channels routed"),
        (["--backend", "hf", "--controls", "mean"], "controls mean"),
        (["--backend", "hf", "--fuser", "some"], "no cache to fuse"),
        (["--backend", "hf", "--latency_samples", "3"], "latency_samples"),
        (["--backend", "hf", "--device", "cpu"], "device"),
        (["--backend", "hf", "--dtype", "bfloat16"], "dtype"),
        (["--backend", "hf", "--receiver_chat_template", "simple"], "receiver_chat_template"),
        (["--receiver_args", "dtype=float32"], "name it with --backend"),
        (["--backend", "hf", "--receiver_args", "dtype"], "name=value"),
        (["--backend", "hf", "--receiver_args", "no_such_argument=1"], "cannot be set up"),
        (["--backend", "hf", "--receiver", "org/nothing-here", "--sharer", "org/nor-here"], "cannot be set up"),
        (["--backend", "local-completions", "--receiver_args", "auth_token=x"], "OPENAI_API_KEY"),
        (["--backend", "local-completions", "--receiver_args", "header=x"], "OPENAI_API_KEY"),
        (["--backend", "local-completions", "--sharer_args", "base_url=http://me:x@host/v1"], "OPENAI_API_KEY"),
        (["--backend", "local-completions", "--sharer_args", "base_url=http://host/v1?api_key=x"], "OPENAI_API_KEY"),
        (["--backend", "local-chat-completions", "--receiver_args", "base_url=http://host/v1"], "no loglikelihoods"),
        (["--backend", "local-chat-completions", "--no-chat-template"], "takes chats only"),
        (["--backend", "gguf", "--receiver_args", "base_url=http://host"], "renders no chats"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_run_through_an_engine_is_refused_in_one_sentence(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--tasks", LETTERS_FILE, "--limit", "2", "--no-progress", "--output_path", str(tmp_path / "run")]
    flags = ["run", *base, *more]
    assert said in refused(capsys, flags)
    assert not (tmp_path / "run").exists()


def test_a_token_of_this_process_is_refused_under_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", KEY)
    given = ["--backend", "local-completions", "--receiver_args", f"something={KEY}"]
    said = refused(capsys, command(tmp_path / "run", *given))
    assert "OPENAI_API_KEY" in said
    assert KEY not in said


def test_arguments_about_a_vocabulary_are_no_secrets() -> None:
    given = "add_bos_token=True,think_end_token=</think>,prefix_token_id=3"
    assert build({"backend": "vllm", "receiver_args": given, "sharer_args": given}).receiver_args == given


def test_lm_evals_own_command_line_is_pointed_to_its_own_engines() -> None:
    with pytest.raises(UserError, match="--model"):
        channel_lm(SINGLE, receiver="r", backend="vllm")


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="spreads its work by itself"):
        load_cast(build({"backend": "hf", "receiver": "r", "sharers": ["s"]}))


class Offline:
    """Takes what lm-eval's engines for vLLM and SGLang take."""

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        trust_remote_code: bool = True,
        add_bos_token: bool | None = False,
        batch_size: str | int = "auto",
        **more: Any,
    ) -> None: ...


def test_an_engine_is_told_the_model_and_how_we_read_prompts_unless_the_user_says_otherwise() -> None:
    reference = Reference("org/name@abc", "org/name", "abc")
    filled = filled_in("vllm", Offline, reference, {}, True, 32)
    assert filled == {
        "pretrained": "org/name", "revision": "abc", "add_bos_token": False, "trust_remote_code": False,
    }  # fmt: skip
    assert filled_in("vllm", Offline, reference, {}, False, 32)["add_bos_token"] is True
    given = {"pretrained": "other", "trust_remote_code": "True", "add_bos_token": "True"}
    assert filled_in("vllm", Offline, reference, given, True, 32) == {}


def test_a_server_is_told_the_name_and_the_tokenizer_is_that_of_the_model() -> None:
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI, OpenAICompletionsAPI

    reference = Reference("org/name@abc", "org/name", "abc")
    filled = filled_in("local-completions", LocalCompletionsAPI, reference, {"model": "short"}, True, 32)
    assert filled["tokenizer"] == "org/name"
    assert (filled["revision"], filled["batch_size"], filled["tokenizer_backend"]) == ("abc", 32, "huggingface")
    assert "pretrained" not in filled
    filled = filled_in("local-completions", LocalCompletionsAPI, reference, {"tokenizer": "mine"}, True, 32)
    assert filled.keys() & {"tokenizer", "revision"} == set()
    assert filled["pretrained"] == "org/name"
    for name, engine in (
        ("local-chat-completions", LocalChatCompletion),
        ("openai-completions", OpenAICompletionsAPI),
    ):
        assert "tokenizer" not in filled_in(name, engine, reference, {}, True, 32)


def test_throughput_counts_what_was_asked_and_leaves_controls_out() -> None:
    work = {
        "t2t": CallStats(busy_s=2.0, answered=10),
        "t2t/mismatched": CallStats(busy_s=1.0, answered=10),
        "receiver": CallStats(),
    }
    found = throughput_of(build({"backend": "vllm", "batch_size": 64}), work)
    assert found.keys() == {"t2t"}
    assert (found["t2t"].questions, found["t2t"].questions_per_second) == (10, 5.0)
    assert "64 questions handed to vllm at once" in found["t2t"].conditions
