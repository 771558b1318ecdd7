"""A channel and a control of another distribution: `examples/plugin_channel`, installed beside by its path."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.models.chat import encode
from harness.paths import ROOT
from tests.support.tiny import GOLDEN, shared_lm
from tests.support.work import SENTENCES, context_of, query

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings the same under another name
    import tomli as tomllib  # type: ignore[no-redef]

EXAMPLE = ROOT / "examples" / "plugin_channel"
RECEIVER = str(GOLDEN / "same_tokenizer" / "receiver")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's metadata, as an installer would write it, beside its module."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = configparser.ConfigParser()
    points.optionxform = str  # type: ignore[assignment,method-assign]
    points.read_dict(project["entry-points"])
    with (info / "entry_points.txt").open("w") as file:
        points.write(file)
    return site


def harness(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as where the example is installed."""
    paths = [str(site), str(EXAMPLE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *words]
    return subprocess.run(command, check=False, env=environment, cwd=site, capture_output=True, text=True)


def test_the_module_is_short() -> None:
    assert len((EXAMPLE / "kvcomm_channel.py").read_text().splitlines()) <= 60


def test_with_all_layers_it_is_transformers_reading_both_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    kvcomm = importlib.import_module("kvcomm_channel")
    lm, asked = shared_lm(), [query(text) for text in SENTENCES]
    context = context_of(kvcomm.KVComm(lm, lm, frozenset(range(lm.n_layers))), asked)
    for row, one in enumerate(asked):
        ids = encode(lm, one.sharer).ids + encode(lm, one.receiver).ids
        with torch.no_grad():
            expected = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(context.logits[row], expected, atol=1e-4, rtol=0)


def test_it_is_listed_with_its_control(installed: Path) -> None:
    assert "kvcomm" in harness(installed, str(ROOT / "run_eval.py"), "ls", "channels").stdout
    assert "last_token" in harness(installed, str(ROOT / "run_eval.py"), "ls", "controls").stdout


def test_it_runs_with_controls_and_stands_on_board_page_and_in_checks(installed: Path) -> None:
    run = str(ROOT / "run_eval.py")
    out, boards = installed / "out", installed / "boards"
    flags = ["--receiver", RECEIVER, "--sharer", RECEIVER, "--channels=receiver,kvcomm,kvcomm:layers=0-1"]
    flags += ["--controls=mismatched,mean,last_token", "--tasks=factworld_sharer_knows_letters", "--limit=4"]
    flags += ["--latency_samples=1", f"--output_path={out}", f"--leaderboards_dir={boards}", "--no-progress"]
    made = harness(installed, run, "run", *flags)
    assert made.returncode == 0, made.stderr
    assert "kvcomm" in made.stdout
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    arms = {(s["channel"], s["control"]) for s in samples if not s["error"]}
    controls = {"", "mismatched", "mean", "last_token"}
    assert arms >= {(name, control) for name in ("kvcomm", "kvcomm:layers=0-1") for control in controls}
    assert "kvcomm" in "".join(path.read_text() for path in boards.rglob("*.md"))
    page = installed / "page.html"
    written = harness(installed, run, "report", str(out), "--html", str(page))
    assert written.returncode == 0, written.stderr
    assert "kvcomm" in page.read_text(encoding="utf-8")
    checked = harness(installed, run, "check", str(out), str(out))
    assert "kvcomm" in checked.stdout + checked.stderr


CONFORMANCE = ["-m", "pytest", "--pyargs", "harness.conformance", "-q", "-p", "no:cacheprovider"]
CONFORMANCE += ["-p", "harness.conformance.options"]


def test_it_passes_the_conformance_tests(installed: Path) -> None:
    found = harness(installed, *CONFORMANCE, "--channel", "kvcomm")
    assert found.returncode == 0, found.stdout + found.stderr
    assert " passed" in found.stdout
    assert "skipped" not in found.stdout


@pytest.mark.parametrize("plugin", ["echo_channel", "./echo_channel.py"])
def test_a_channel_that_is_not_installed_conforms_by_its_module_or_file(tmp_path: Path, plugin: str) -> None:
    source = (EXAMPLE / "kvcomm_channel.py").read_text(encoding="utf-8").replace('"kvcomm"', '"echo"')
    (tmp_path / "echo_channel.py").write_text(source, encoding="utf-8")
    found = harness(tmp_path, *CONFORMANCE, "--channel", "echo", "--plugin", plugin, "-k", "test_bytes")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 passed" in found.stdout


def test_a_module_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    found = harness(tmp_path, *CONFORMANCE, "--channel", "echo", "--plugin", "no_such_module")
    assert found.returncode == 2
    said = found.stdout + found.stderr
    assert "Plug-in 'no_such_module' cannot be imported" in said
    assert "Traceback" not in said


def test_it_answers_under_lm_eval(installed: Path) -> None:
    words = [
        "-m",
        "harness.lm_eval_bridge.__main__",
        "run",
        "--model",
        "kvcomm",
        "--tasks",
        "factworld_sharer_knows_letters",
    ]
    words += ["--model_args", f"receiver={RECEIVER},sharer={RECEIVER},layers=0-1", "--limit", "2", "--device", "cpu"]
    found = harness(installed, *words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "factworld_sharer_knows_letters" in found.stdout


def test_an_unknown_channel_is_named_with_its_neighbour(installed: Path) -> None:
    found = harness(installed, *CONFORMANCE, "--channel", "kvcom")
    assert found.returncode == 2
    assert "kvcomm" in found.stdout + found.stderr
