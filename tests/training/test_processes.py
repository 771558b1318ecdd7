import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.training.main import train
from tests.support.training_runs import chats_on_disk, logged, pair_on_disk, recipe, values, weights

ROOT = Path(__file__).parents[2]


def launched(folder, out, processes, **changes):
    """Trains in several processes on this machine."""
    settings = folder / f"{out.name}.json"
    settings.write_text(json.dumps(values(folder, out, **changes)))  # JSON is YAML
    start = ["--nnodes", "1", "--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
    command = [*start, "--rdzv-endpoint", "localhost:0", "-m", "harness.training", "--config", str(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_accumulation(tmp_path):
    pair_on_disk(tmp_path)
    chats_on_disk(tmp_path, rows=61)
    # Held-out rows and a task are shared out between the processes as well.
    longer = {"steps": 50, "held_out_rows": 5, "validate_tasks": ["factworld_letters"], "validate_limit": 7}
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe(tmp_path, one, **longer))
    run = launched(tmp_path, two, 2, **longer)
    assert run.returncode == 0, run.stderr[-2000:]
    assert len(logged(one)) == 50
    assert logged(two) == pytest.approx(logged(one), rel=1e-5)
    assert logged(two, "held_out_loss") == pytest.approx(logged(one, "held_out_loss"), rel=1e-5)
    name = "accuracy/factworld_sharer_knows_letters"
    assert logged(two, name) == logged(one, name)
    ours, theirs = weights(one), weights(two)
    assert all(value.sub(theirs[key]).abs().max() < 1e-4 for key, value in ours.items())


@pytest.mark.slow
def test_a_batch_that_cannot_be_dealt_out_is_refused_by_every_process(tmp_path):
    pair_on_disk(tmp_path)
    chats_on_disk(tmp_path)
    run = launched(tmp_path, tmp_path / "out", 2, global_batch=6, micro_batch=2)
    assert run.returncode != 0
    assert "cannot be dealt out to 2 processes" in run.stderr
    assert "UserError" not in run.stderr  # the launcher's own traceback is all there is
