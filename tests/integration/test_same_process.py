"""Runs that share a process, one after another or in threads, are what each would be in a process of its own."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.benchmarks.sources import DATASETS_DIR_VARIABLE
from harness.config import RunConfig
from harness.evaluation import run as process
from harness.evaluation.run import run
from harness.records.files import sha256_file
from tests.support import processes
from tests.support.relay import LETTERS_FILE, WORDS

TASK = "openbookqa_letters"
FOLDERS = {"one": ["red", "blue", "green", "grey"], "two": ["tall", "small", "wide"]}
FLAGS = ["--channels", "receiver", "--tasks", TASK, "--device", "cpu", "--limit", "4", "--latency_samples", "0"]
FLAGS += ["--no-progress"]
OWN = ("run_id", "started_at", "finished_at", "command", "config", "counters", "peak_memory_bytes", "datasets_from")


@pytest.fixture(autouse=True)
def _no_folder_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATASETS_DIR_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of data sets with other questions under the same names."""
    home = tmp_path_factory.mktemp("data")
    for name, words in FOLDERS.items():
        path = home / name / "allenai" / "openbookqa" / "main" / "test.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row(word, words)) + "\n" for word in words))
    return home


def row(word: str, words: list[str]) -> dict[str, Any]:
    options = {"text": words[:3], "label": list("ABC")}
    return {"id": word, "question_stem": f"Which one is {word} ?", "choices": options, "answerKey": "A"}


def asked(home: Path, data: str, output: Path) -> list[str]:
    return ["run", *FLAGS, "--datasets_dir", str(home / data), "--output_path", str(output)]


def kept(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """The answers and what the record says, without what belongs to one session alone."""
    found = processes.record(folder)
    return processes.lines(folder), {name: value for name, value in found.items() if name not in OWN}


@pytest.fixture(scope="module")
def apart(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], dict[str, Any]]]:
    """Each run in a process of its own."""
    out = tmp_path_factory.mktemp("apart")
    children = [processes.forked(processes.run, asked(home, name, out / name)) for name in FOLDERS]
    assert [processes.ended(child) for child in children] == [0, 0]
    return {name: kept(out / name) for name in FOLDERS}


def in_threads(*work: Callable[[], int]) -> list[int]:
    """Starts all at once and returns what each returned."""
    codes: list[int] = [-1] * len(work)

    def keep(place: int) -> None:
        codes[place] = work[place]()

    threads = [threading.Thread(target=keep, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return codes


def test_runs_one_after_another_do_not_know_of_each_other(home: Path, tmp_path: Path, apart: Any) -> None:
    for name in (*FOLDERS, "one"):
        output = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        assert cli.main(asked(home, name, output)) == 0
        assert kept(output) == apart[name]
    assert apart["one"] != apart["two"]


def test_runs_in_two_threads_do_not_know_of_each_other(home: Path, tmp_path: Path, apart: Any) -> None:
    work = [functools.partial(cli.main, asked(home, name, tmp_path / name)) for name in FOLDERS]
    assert in_threads(*work) == [0, 0]
    for name in FOLDERS:
        assert kept(tmp_path / name) == apart[name]


def test_a_later_run_without_a_folder_asks_the_hub(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(asked(home, "one", tmp_path / "one")) == 0
    assert DATASETS_DIR_VARIABLE not in os.environ
    assert cli.main(["run", *FLAGS, "--output_path", str(tmp_path / "hub")]) == 2
    assert "allenai/openbookqa" in capsys.readouterr().err
    assert not (tmp_path / "hub").exists()


def test_the_folder_is_on_record_whoever_names_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, str(home / "two"))
    assert cli.main(["run", *FLAGS, "--output_path", str(tmp_path / "environment")]) == 0
    assert cli.main(asked(home, "one", tmp_path / "flag")) == 0
    said = [processes.record(tmp_path / name) for name in ("environment", "flag")]
    assert [s["config"]["datasets_dir"] for s in said] == [str(home / "two"), str(home / "one")]
    assert [s["datasets_from"] for s in said] == [DATASETS_DIR_VARIABLE, "datasets_dir"]
    monkeypatch.setenv(DATASETS_DIR_VARIABLE, str(home / "one"))
    assert cli.main(["resume", str(tmp_path / "environment")]) == 0  # reads what the run read
    assert processes.record(tmp_path / "environment")["resumed"] == len(FOLDERS["two"])


def test_the_folder_reaches_every_task_of_a_group(home: Path) -> None:
    from harness.benchmarks import registry

    for task in ("ceval_val", "mmlu_redux"):
        with pytest.raises(Exception, match=str(home / "one")):
            registry.load([task], str(home / "one"))


def test_a_run_gives_the_process_back(home: Path, tmp_path: Path) -> None:
    from transformers.utils import logging as theirs

    def handler(*_: object) -> None: ...

    theirs.set_verbosity_info()
    before, environment = signal.signal(signal.SIGTERM, handler), dict(os.environ)
    filters = list(logging.getLogger("lm_eval.api.task").filters)
    try:
        assert cli.main(asked(home, "one", tmp_path / "run")) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
        assert (theirs.get_verbosity(), theirs.is_progress_bar_enabled()) == (logging.INFO, True)
        assert dict(os.environ) == environment
        assert logging.getLogger("lm_eval.api.task").filters == filters
    finally:
        signal.signal(signal.SIGTERM, before)
        theirs.set_verbosity_warning()


PAIR = "tasks/relay/pair"
SETTINGS: dict[str, dict[str, Any]] = {
    "fused": {
        "receiver": f"{PAIR}/receiver",
        "sharers": (f"{PAIR}/sharer",),
        "fusers": (f"{PAIR}/fuser",),
        "channels": ("receiver", "c2c"),
        "controls": ("mismatched", "zeroed"),
        "tasks": (LETTERS_FILE,),
        "limit": 5,
        "seed": 3,
    },
    "alone": {
        "receiver": f"{PAIR}/sharer",
        "channels": ("receiver",),
        "tasks": (WORDS,),
        "limit": 6,
        "dtype": "bfloat16",
        "batch_size": 2,
    },
}


def config_of(name: str, output: Path) -> RunConfig:
    common: dict[str, Any] = {"device": "cpu", "latency_samples": 0, "progress": False, "output_path": str(output)}
    return RunConfig(**SETTINGS[name], **common)


def run_of(name: str, output: Path) -> int:
    return int(run(config_of(name, output)) != output)


def state_of_the_process() -> dict[str, Any]:
    """Everything of the process that a run could change and that others in it rely on."""
    import datasets
    import torch
    import tqdm
    import transformers

    loggers = {None: logging.getLogger()} | {n: logging.getLogger(n) for n in list(logging.Logger.manager.loggerDict)}
    return {
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "loggers": {n: (g.level, g.propagate, g.disabled, [*g.handlers], [*g.filters]) for n, g in loggers.items()},
        "warnings": ([*warnings.filters], warnings.showwarning),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr, gc.isenabled(), gc.get_threshold()),
        "torch": (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.get_rng_state().tolist(),
        ),
        "transformers": (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()),
        "datasets": (datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()),
        "tqdm": vars(tqdm.tqdm)["__init__"],
    }


def test_a_run_changes_nothing_of_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_of("fused", tmp_path / "first") == 0  # whatever libraries change when they are imported is theirs
    changed: list[tuple[str, str]] = []
    for place, name in (
        (signal, "signal"),
        (logging.Logger, "setLevel"),
        (logging.Logger, "addFilter"),
        (logging.Logger, "addHandler"),
        (warnings, "simplefilter"),
        (warnings, "filterwarnings"),
        (torch_module(), "set_num_threads"),
        (torch_module(), "set_default_dtype"),
        (type(os.environ), "__setitem__"),
        (type(os.environ), "__delitem__"),
    ):
        monkeypatch.setattr(place, name, _told(name, getattr(place, name), changed))
    before = state_of_the_process()
    assert run_of("fused", tmp_path / "second") == 0
    after = state_of_the_process()
    after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}  # others came with imports
    for subject, found in before.items():
        assert after[subject] == found, subject
    assert changed == []


def torch_module() -> Any:
    import torch

    return torch


def _told(name: str, usual: Callable[..., Any], changed: list[tuple[str, str]]) -> Callable[..., Any]:
    """The same function, which keeps who of the harness calls it; a library's own changes have to be taken back."""

    def call(*arguments: Any, **named: Any) -> Any:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.partition(".")[0] in ("harness", "tasks"):
            changed.append((name, caller))
        return usual(*arguments, **named)

    return call


def test_runs_of_other_tasks_and_settings_in_two_threads_beside_a_loaded_model(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.models.loading import wrap

    children = [processes.forked(run_of, name, tmp_path / f"{name}-apart") for name in SETTINGS]
    assert [processes.ended(child) for child in children] == [0, 0]
    model = AutoModelForCausalLM.from_pretrained(f"{PAIR}/receiver")
    kinds, asked = [type(module) for module in model.modules()], torch.tensor([[5, 6, 7]])
    before = model(asked).logits
    signals = signal.getsignal(signal.SIGTERM)
    assert in_threads(*[functools.partial(run_of, name, tmp_path / name) for name in SETTINGS]) == [0, 0]
    for name in SETTINGS:
        assert (tmp_path / name / "samples.jsonl").read_bytes() == (
            tmp_path / f"{name}-apart" / "samples.jsonl"
        ).read_bytes()
        assert kept(tmp_path / name) == kept(tmp_path / f"{name}-apart")
    assert signal.getsignal(signal.SIGTERM) is signals
    wrap(model, AutoTokenizer.from_pretrained(f"{PAIR}/receiver"))
    assert [type(module) for module in model.modules()] == kinds
    assert torch.equal(model(asked).logits, before)


def test_a_run_in_a_thread_leaves_signals_alone(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = RunConfig(
        receiver=f"{PAIR}/receiver",
        channels=("receiver",),
        tasks=(TASK,),
        datasets_dir=str(home / "one"),
        device="cpu",
        limit=4,
        latency_samples=0,
        progress=False,
        output_path=str(tmp_path / "run"),
    )
    assert in_threads(lambda: int(run(config) == tmp_path / "run")) == [1]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_gives_the_environment_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.training import main as training

    seen: list[str | None] = []
    monkeypatch.setattr(training, "_trained", lambda _: seen.append(os.environ.get("TOKENIZERS_PARALLELISM")))
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    training.train(None)  # type: ignore[arg-type]
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    training.train(None)  # type: ignore[arg-type]
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert seen == ["false", "true"]


def test_one_run_at_a_time() -> None:
    inside: list[int] = []

    def enter() -> int:
        with process.one_run_at_a_time():
            inside.append(1)
            most.append(len(inside))
            for _ in range(50):
                threading.Event().wait(0.0005)
            inside.pop()
        return 0

    most: list[int] = []
    in_threads(*[enter] * 4)
    assert most == [1] * 4


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system keeps the peak of a process")
def test_peak_memory_is_that_of_the_run(home: Path, tmp_path: Path) -> None:
    def peak(name: str) -> int:
        assert cli.main(asked(home, "one", tmp_path / name)) == 0
        return int(processes.record(tmp_path / name)["peak_memory_bytes"]["process"])

    before, large = peak("before"), 1 << 29
    filled = bytearray(b"x") * large
    del filled
    assert peak("after") < before + large // 2


def test_runs_of_one_second_have_ids_of_their_own(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.run.time.strftime", lambda *_: "20260101-000000")
    boards = ["--leaderboards_dir", str(tmp_path / "boards")]
    names = ["my run", "my-run", "My-Run"]
    for name in names:
        assert cli.main([*asked(home, "one", tmp_path / "runs" / name), *boards]) == 0
    ids = {processes.record(tmp_path / "runs" / name)["run_id"] for name in names}
    assert len(ids) == len(names)
    assert {path.stem for path in (tmp_path / "boards" / "records").iterdir()} == ids


def test_a_file_that_was_replaced_by_one_of_equal_size_and_time_is_read_again(tmp_path: Path) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(b"one")
    before, stamp = sha256_file(path), path.stat()
    other.write_bytes(b"two")
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)
    assert sha256_file(path) != before
