"""A process of its own that asks a local hub: it reads calls as JSON lines and writes what came of them.

huggingface_hub reads its endpoint and cache when it is imported, so a test cannot change them in its own process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class HubWorker:
    """Such a process; use it as a context manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        path = os.pathsep.join((str(Path(__file__).parents[2]), str(Path(__file__).parents[1])))
        command = [sys.executable, "-m", "support.hub_worker"]
        env = {**kept, **environment, "PYTHONPATH": path}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, name: str, *arguments: Any, offline: bool = False) -> Any:
        """Returns what a function of this module returns, or a text that begins with the name of what it raises."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments, offline]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> HubWorker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def rows(repo: str, revision: str, config: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split."""
    from harness.benchmarks.definitions import Source
    from harness.benchmarks.sources import read_rows

    return [dict(row) for row in read_rows(Source(repo, revision, ""), config, split)]


def library_rows(repo: str, revision: str, config: str, split: str) -> list[dict[str, Any]]:
    """The rows that the `datasets` library gives, which also fills the cache."""
    import datasets

    return list(datasets.load_dataset(repo, config, revision=revision, split=split))


def task_of_lm_eval(folder: str, name: str) -> list[str]:
    """Names of the tasks that `python -m harness.lm_eval` loads."""
    from lm_eval.tasks import TaskManager

    from harness.lm_eval_bridge.__main__ import with_our_tasks

    manager = with_our_tasks(TaskManager)(include_path=folder, include_defaults=False)
    return [str(task) for task in manager.load([name])["tasks"]]


def model(reference: str) -> list[Any]:
    """Commit, digest of the files and a sum of the weights of a model."""
    from harness.evaluation.fingerprint import model_info
    from harness.models.loading import load

    lm = load(reference, device="cpu", dtype="float32")
    info = model_info("receiver", lm)
    total = sum(float(value.double().abs().sum()) for value in lm.model.parameters())
    return [info.revision, info.adapter_revision, info.fingerprint, total]


def fuser(reference: str) -> list[str]:
    """Commit and folder of a fuser."""
    from harness.evaluation.setup import fuser_place

    place = fuser_place(reference)
    return [place.commit, str(place.folder)]


def run(*arguments: str) -> list[Any]:
    """Exit code of the command line and its standard error."""
    from harness import cli

    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(list(arguments))
    return [code, said.getvalue()]


def _main() -> None:
    from huggingface_hub import constants

    answers, sys.stdout = sys.stdout, sys.stderr
    time.sleep = lambda seconds: None  # between retries
    for line in sys.stdin:
        name, arguments, constants.HF_HUB_OFFLINE = json.loads(line)
        try:
            value = globals()[name](*arguments)
        except Exception as error:
            value = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(value) + "\n")
        answers.flush()


if __name__ == "__main__":
    _main()
