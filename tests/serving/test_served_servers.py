"""Servers that give no prompt loglikelihoods, refuse, or run beside libraries that count: one sentence, no zeros."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.paths import PAIR, ROOT
from harness.progress import other_bars_hidden
from harness.serving.backend import reason_in
from tests.support.api_server import Api, serving
from tests.support.refusals import refused
from tests.support.relay import LETTERS_FILE, WORDS

CONCURRENT = ",num_concurrent=3,batch_size=2"


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    with serving({"receiver": PAIR / "receiver"}) as api:
        yield api


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    server.calm()
    logger = logging.getLogger("lm_eval.models.api_models")
    level = logger.level
    yield server
    logger.setLevel(level)


def command(api: Api, folder: Path, task: str, more: str = "", model: str = "receiver") -> list[str]:
    arguments = f"model={model},base_url={api.url('completions')},max_retries=1{more}"
    flags = ["run", "--tasks", task, "--limit", "4", "--channels", "receiver", "--controls", "", "--no-progress"]
    return [*flags, "--output_path", str(folder), "--backend", "local-completions", "--receiver_args", arguments]


@pytest.mark.parametrize("more", [CONCURRENT, ",batch_size=1,tokenized_requests=False"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"echo": False}, "ignores echo"),
        ({"logprobs": "content"}, "gives no prompt loglikelihoods"),
        ({"logprobs": "none"}, "gives no logprobs"),
        ({"logprobs": "zeros"}, "every token the same loglikelihood"),
        ({"extra": 1}, "reads another number of tokens"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_server_that_does_not_score_prompts_is_refused_before_anything_is_asked(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: dict[str, Any], said: str, more: str
) -> None:
    vars(api).update(fault)
    sentence = refused(capsys, command(api, tmp_path / "run", LETTERS_FILE, more))
    assert said in sentence
    assert "run tasks that generate" in sentence
    assert not (tmp_path / "run").exists()
    assert len(api.asked) == 1


def test_such_a_server_still_writes(api: Api, tmp_path: Path) -> None:
    api.echo = False
    assert cli.main(command(api, tmp_path / "run", WORDS)) == 0
    assert not any(body.get("echo") for _, body in api.asked)


def test_one_bad_question_does_not_pass_for_a_bad_server(api: Api, tmp_path: Path) -> None:
    api.failing = [500]
    assert cli.main(command(api, tmp_path / "run", LETTERS_FILE)) == 0


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR], ids=["usual", "quiet"])
@pytest.mark.parametrize("more", ["", CONCURRENT])
@pytest.mark.parametrize("task", [WORDS, LETTERS_FILE])
def test_an_unknown_model_is_said_in_the_servers_own_words(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str], task: str, more: str, level: int
) -> None:
    logging.getLogger("lm_eval.models.api_models").setLevel(level)
    assert cli.main(command(api, tmp_path / "run", task, more, model="other")) == 1
    lines = capfd.readouterr().err.splitlines()
    assert "The model `other` does not exist." in lines[-1]
    assert [line for line in lines if "Error" in line or "Traceback" in line or "failed" in line] == lines[-1:]


@pytest.mark.parametrize("more", ["", CONCURRENT])
@pytest.mark.parametrize("task", [WORDS, LETTERS_FILE])
def test_a_context_that_is_too_small_is_said_in_the_servers_own_words(
    api: Api, tmp_path: Path, capfd: pytest.CaptureFixture[str], task: str, more: str
) -> None:
    api.context = 3
    assert cli.main(command(api, tmp_path / "run", task, more)) in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert "This model's maximum context length is 3 tokens." in lines[-1]
    assert not [line for line in lines[:-1] if "Traceback" in line or "API request" in line or "Exception" in line]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"error": {"message": "too long", "code": 400}}', "too long"),
        ('{"object": "error", "message": "no such model", "code": 404}', "no such model"),
        ('{"error": "told to fail"}', "told to fail"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"detail": [{"loc": ["body"], "msg": "wrong"}]}', '[{"loc": ["body"], "msg": "wrong"}]'),
        ("<h1>Bad\n Gateway</h1>", "<h1>Bad Gateway</h1>"),
        ("", ""),
        ("[1]", "[1]"),
    ],
)
def test_reasons_are_read_from_the_bodies_that_servers_send(body: str, reason: str) -> None:
    assert reason_in(body) == reason


def test_hidden_bars_go_on_counting(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm.auto import tqdm

    with other_bars_hidden():
        bar = tqdm(total=3, mininterval=0, miniters=1)
        for _ in range(3):
            bar.update()
        assert bar.format_dict["elapsed"] > 0
        assert bar.n == 3
        bar.close()
        assert tqdm(disable=True).disable
    assert capsys.readouterr().err == ""
    with tqdm(total=1) as bar:
        bar.update()
    assert "1/1" in capsys.readouterr().err


ENGINE = f"""
import sys
import lm_eval.models
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

@register_model("counting")
class Counting(HFLM):
    '''Reports its speed as vLLM does, which divides by the seconds of its bar.'''

    def generate_until(self, requests, disable_tqdm=False):
        from tqdm.auto import tqdm
        bar = tqdm(total=len(requests), desc="Processed prompts", dynamic_ncols=True)
        texts = super().generate_until(requests, disable_tqdm=disable_tqdm)
        bar.update(len(texts))
        bar.postfix = f"{{len(texts) / bar.format_dict['elapsed']:.2f}} prompts/s"
        bar.close()
        return texts

from harness import cli
sys.exit(cli.main(["run", "--backend", "counting", "--tasks", {WORDS!r}, "--limit", "2", "--channels", "receiver",
                   "--controls", "", "--no-progress", "--max_error_rate", "0", "--output_path", sys.argv[1]]))
"""


def test_an_engine_that_divides_by_its_bars_seconds_answers(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Processed prompts" not in done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["results"][0]["errors"] == 0
