"""Runs of several processes: the same bytes as one, however many there are and whichever is killed."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.distributed import Ranks, join
from harness.errors import RunError
from harness.records import files, journal, load_run
from harness.records.schema import Sample
from tests.support.processes import dying, ended, forked, lines, record, run
from tests.support.relay import LETTERS_FILE, WORDS

TASKS = f"{WORDS},{LETTERS_FILE}"
QUESTIONS = 10
BASE = [
    "--limit", str(QUESTIONS), "--batch_size", "4", "--tasks", TASKS,
    "--channels", "receiver,sharer,t2t:max_new_tokens=8,c2c,routed", "--controls", "mismatched,mean,closed",
]  # fmt: skip
TIMED = ["--latency_samples", "1", "--latency_warm_up", "0"]
Work = Callable[..., int]


def command(folder: Path, *more: str) -> list[str]:
    return ["run", *BASE, "--latency_samples", "0", "--output_path", str(folder), *more]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def as_rank(variables: dict[str, str], work: Work, *arguments: Any) -> int:
    """Works as one of several processes; 99 where it has not left the others at the end."""
    os.environ.update(variables)
    code = work(*arguments)
    gc.disable()  # the interpreter may end before what only a cycle holds is collected
    if "--tensor_parallel" in arguments[0]:  # torch keeps the device mesh to the end
        return code
    deadline = time.monotonic() + 5  # a thread that was joined may be listed a little longer
    while talking() and time.monotonic() < deadline:
        time.sleep(0.01)
    return 99 if talking() else code


def talking() -> bool:
    """Whether a thread of a process group is alive; False where the system does not tell."""
    return any("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm"))


def variables(rank: int, world: int, nodes: int, port: int) -> dict[str, str]:
    """What torch's launcher tells a process."""
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank % (world // nodes)), "WORLD_SIZE": str(world)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(world // nodes)}
    return {**own, **meeting}


def together(
    arguments: Sequence[str],
    world: int,
    said: Path,
    others: dict[int, tuple[Any, ...]] | None = None,
    nodes: int = 1,
) -> list[BaseProcess]:
    """Starts a command line in `world` processes; `others` has what single ones do instead."""
    port = free_port()
    children = []
    for rank in range(world):
        work = (others or {}).get(rank, (run, arguments))
        children.append(forked(as_rank, variables(rank, world, nodes, port), *work, said=said))
    return children


def codes(children: Sequence[BaseProcess]) -> list[int | None]:
    return [ended(child) for child in children]


def errors(said: Path) -> list[str]:
    return [line for line in said.read_text().splitlines() if line.startswith("Error:")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    said = folder.with_name("said")
    assert ended(forked(run, [*command(folder), *TIMED], said=said)) == 0, said.read_text()
    return folder


def check_equal(folder: Path, whole: Path) -> None:
    assert (folder / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert accuracies(folder) == accuracies(whole)
    assert record(folder)["status"] == "success"
    assert not list(folder.glob("samples-*"))


def accuracies(folder: Path) -> list[dict[str, Any]]:
    """The result rows without what was timed."""
    timed = ("ttft", "e2e", "tpot", "stages", "latency")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in record(folder)["results"]]


def arms(folder: Path) -> set[tuple[str, str]]:
    return {(s.channel, s.control) for s in load_run(folder).samples}


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_answer_the_same_bytes_as_one(whole: Path, tmp_path: Path, world: int) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    assert codes(together([*command(folder), *TIMED], world, said)) == [0] * world
    check_equal(folder, whole)
    alone, found = record(whole), record(folder)
    assert len(arms(folder)) == 5 + 1 + 3 + 1
    assert (found["identity"], found["counters"]) == (alone["identity"], alone["counters"])
    assert list(found["peak_memory_bytes"]) == ["process", *(f"rank {rank}" for rank in range(world))]
    told = {
        "ranks": world,
        "nodes": 1,
        "hardware": [found["hardware"]["fingerprint"]],
        "latency": "rank 0, others idle",
    }
    assert found["processes"] == told
    timed, routers = 2 * 4 * 2, 2 * 2 * 2  # questions x channels x rounds; the router and its floor are composed
    assert len((folder / "timings.jsonl").read_text().splitlines()) == timed + routers
    assert said.read_text().count("Records: ") == 1


@pytest.mark.parametrize(("victim", "world"), [(1, 1), (0, 3)])
def test_a_killed_process_ends_the_run_and_any_number_goes_on(
    whole: Path, tmp_path: Path, victim: int, world: int
) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    killed = {victim: (dying, command(folder), 3, 0.4)}
    found = codes(together(command(folder), 2, said, killed))
    assert (found[victim], found[1 - victim]) == (-signal.SIGKILL, 1)
    assert "Another process of this run is gone" in errors(said)[0]
    assert "--resume goes on" in errors(said)[0]
    left = load_run(folder)
    assert left.record.status == ("error" if victim else "started")
    (torn,) = left.warnings
    assert ("samples-1.jsonl" in torn) == (victim == 1)
    held = [len(load(folder / name)) for name in ("samples.jsonl", "samples-1.jsonl")]
    assert min(held) > 0
    assert len(left.samples) == sum(held) < len(lines(whole))
    goes_on = together(["resume", str(folder)], world, said) if world > 1 else [forked(run, ["resume", str(folder)])]
    assert codes(goes_on) == [0] * world
    check_equal(folder, whole)
    assert record(folder)["resumed"] == sum(held)
    assert record(folder)["processes"]["ranks"] == world


def load(path: Path) -> list[Sample]:
    return journal.read(path, Sample).records


def test_a_run_of_one_process_goes_on_with_two(whole: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    assert ended(forked(dying, command(folder), 5, 0.4)) == -signal.SIGKILL
    assert codes(together(["resume", str(folder)], 2, said)) == [0, 0]
    check_equal(folder, whole)


def launching(node: int, port: int, program: Sequence[str]) -> int:
    """Starts a Python program as one of two nodes, as `torchrun` does."""
    from torch.distributed.run import main

    start = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1", "--rdzv-backend", "static"]
    main([*start, "--master-addr", "127.0.0.1", "--master-port", str(port), *program])
    return 0


TELLING = """
import json, os, sys
from pathlib import Path

Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps(dict(os.environ)))
"""


def test_torchs_launcher_tells_processes_of_two_nodes_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    port, program = free_port(), [str(tmp_path / "telling.py"), str(tmp_path)]
    said = tmp_path / "said"
    assert codes([forked(launching, node, port, program, said=said) for node in (0, 1)]) == [0, 0], said.read_text()
    for rank in (0, 1):
        told = json.loads((tmp_path / str(rank)).read_text())
        assert variables(rank, world=2, nodes=2, port=port).items() <= told.items()


def test_two_nodes_answer_the_same_bytes_as_one(whole: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    assert codes(together(command(folder), 2, said, nodes=2)) == [0, 0], said.read_text()
    check_equal(folder, whole)
    found = record(folder)["processes"]
    assert (found["ranks"], found["nodes"]) == (2, 2)


def test_processes_that_split_a_model_answer_everything_together(whole: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    split = ["--tensor_parallel", "--channels", "receiver,t2t:max_new_tokens=8", "--controls", "mismatched", *TIMED]
    assert codes(together([*command(folder), *split], 2, said)) == [0, 0], said.read_text()
    expected = {key(s): s for s in load_run(whole).samples}
    found = load_run(folder)
    assert len(found.samples) == 2 * 3 * QUESTIONS
    for sample in found.samples:
        alone = expected[key(sample)]
        assert (sample.text, sample.predicted) == (alone.text, alone.predicted)
        assert sample.loglikelihoods == pytest.approx(alone.loglikelihoods, abs=1e-4)
    assert len(found.timings) == 2 * 2 * 2
    assert all(t.same_answer for t in found.timings)
    assert found.record.processes.latency == "rank 0, others in step"
    assert found.record.counters["receiver"] == record(whole)["counters"]["receiver"]


def key(sample: Sample) -> tuple[str, ...]:
    return (sample.task, sample.doc_id, sample.channel, sample.control)


def full(arguments: Sequence[str], told: Path) -> int:
    """Finds the disk full at its second batch; `told` appears when the others can know."""
    left, write, announce = [2], files.write_fully, Ranks._announce

    def failing(fd: int, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")
        write(fd, data)

    def announced(self: Ranks) -> None:
        announce(self)
        told.touch()

    journal.write_fully, Ranks._announce = failing, announced
    return cli.main(list(arguments))


def waiting(arguments: Sequence[str], told: Path) -> int:
    """Stands still after its first batch until `told` is there."""
    append = journal.Journal.append

    def slow(self: Any, records: Any) -> None:
        append(self, records)
        while not told.exists():
            time.sleep(0.02)

    journal.Journal.append = slow
    return cli.main(list(arguments))


def test_an_error_of_one_process_ends_the_others_at_their_next_batch(whole: Path, tmp_path: Path) -> None:
    folder, said, told = tmp_path / "run", tmp_path / "said", tmp_path / "told"
    single = {0: (waiting, command(folder), told), 1: (full, command(folder), told)}
    assert codes(together(command(folder), 2, said, single)) == [1, 1]
    (line,) = errors(said)
    assert "Rank 1 of 2: Writing" in line
    assert "No space left on device" in line
    assert record(folder)["status"] == "error"
    assert len(lines(folder)) <= 4
    assert codes(together(["resume", str(folder)], 2, said)) == [0, 0]
    check_equal(folder, whole)


def reworded(arguments: Sequence[str]) -> int:
    """Has other prompts than the others."""
    from harness.relay_build import rows as wording

    text = wording.doc_to_text
    wording.doc_to_text = lambda document: text(document) + " "
    return cli.main(list(arguments))


@pytest.mark.parametrize(
    ("more", "one_else", "sentence"),
    [
        (["--limit", "x"], None, "'x' is not a whole number"),
        (["--receiver", "/nowhere", "--sharer", "/nowhere", "--fuser", "/nowhere"], None, "'/nowhere': no such folder"),
        ([], reworded, "Rank 1 of 2 has another run than the first; differing: prompts."),
    ],
)
def test_what_is_refused_is_said_once_and_leaves_nothing(
    tmp_path: Path, more: list[str], one_else: Work | None, sentence: str
) -> None:
    folder, said = tmp_path / "run", tmp_path / "said"
    given = command(folder, *more)
    assert codes(together(given, 2, said, {1: (one_else, given)} if one_else else None)) == [2, 2]
    (line,) = errors(said)
    assert sentence in line
    assert not folder.exists()


def test_a_folder_that_holds_a_run_is_refused_by_all(whole: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in whole.glob("*.json*")}
    assert codes(together(command(whole), 2, tmp_path / "said")) == [2, 2]
    (line,) = errors(tmp_path / "said")
    assert "already holds a run" in line
    assert {path.name: path.read_bytes() for path in whole.glob("*.json*")} == before


def test_several_processes_that_cannot_meet_are_told_what_to_do(tmp_path: Path) -> None:
    child = forked(as_rank, {"WORLD_SIZE": "2", "RANK": "0"}, run, command(tmp_path / "run"), said=tmp_path / "said")
    assert ended(child) == 2
    (line,) = errors(tmp_path / "said")
    assert "start all of them with torchrun" in line


def test_turns_go_on_over_tasks_and_meet_every_piece_once() -> None:
    deals = [Ranks(rank, 3).turns() for rank in range(3)]
    for batches in ([1, 1, 1, 1], [5], [2, 3]):
        for _ in range(sum(batches)):
            assert sum(deal.take() for deal in deals) == 1
    first = Ranks(0, 3).turns()
    assert [first.take() for _ in range(6)] == [True, False, False, True, False, False]
    in_step = Ranks(1, 3).stepping(True).turns()
    assert all(in_step.take() for _ in range(4))


def test_one_process_meets_nobody_and_keeps_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join()
    assert alone == Ranks()
    assert (alone.gather(1), alone.everywhere(1), alone.dealt(["a"], str.upper)) == ([1], [1], {"a": "A"})
    assert alone.device("auto") == "auto"
    with pytest.raises(RunError, match="full"):
        alone.together(lambda: fail(RunError("full")))


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("gpus", "local_rank", "device"), [(8, 5, "cuda:5"), (1, 0, "cuda:0"), (1, 1, "cuda:0")])
def test_a_process_takes_the_gpu_of_its_number_on_the_node(
    monkeypatch: pytest.MonkeyPatch, gpus: int, local_rank: int, device: str
) -> None:
    import torch

    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    ranks = Ranks(11, 16, local_rank)
    assert (ranks.device("auto"), ranks.device("cuda")) == (device, device)
    assert (ranks.device("cpu"), ranks.device("cuda:2")) == ("cpu", "cuda:2")
    assert chosen == [int(device[-1])] * 2
