from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.records import provenance
from harness.records import provenance as machines
from harness.records.schema import Git, Hardware
from tests.support.record_examples import ROOT, child


def test_describes_this_machine() -> None:
    found = machines.hardware()
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_bytes > 0
    assert found.fingerprint == machines.fingerprint(found) != ""


def test_fingerprint_follows_what_moves_timings_and_nothing_else() -> None:
    base = Hardware(cpu="c", cores=2, threads=2, memory_bytes=10, platform="Linux 6.1 x86_64")
    for change in ({"threads": 1}, {"cpu": "d"}, {"driver": "1"}, {"gpu": "g"}, {"clocks": "max"}):
        assert machines.fingerprint(base.model_copy(update=change)) != machines.fingerprint(base)
    for change in ({"memory_bytes": 11}, {"platform": "Linux 6.2 x86_64"}):
        assert machines.fingerprint(base.model_copy(update=change)) == machines.fingerprint(base)


def test_gpu_is_described_where_torch_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Some GPU", total_memory=80, uuid="1-2")
    cuda = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 0,
        device_count=lambda: 2,
        get_device_properties=lambda _: properties,
    )
    fake = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="13.0"), get_num_threads=lambda: 5)
    answer = SimpleNamespace(stdout="580.1, 1980 MHz, 2619 MHz, 700.00 W\n")
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setattr(machines.subprocess, "run", lambda *_, **__: answer)
    found = machines.hardware()
    assert (found.gpu, found.gpu_count, found.gpu_memory_bytes, found.cuda) == ("Some GPU", 2, 80, "13.0")
    assert (found.driver, found.threads) == ("580.1", 5)
    assert found.clocks == "max SM 1980 MHz, max memory 2619 MHz, power limit 700.00 W"


def test_missing_vendor_tool_leaves_driver_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(machines.subprocess, "run", missing)
    assert machines._driver(SimpleNamespace()) == ("", "")


def test_torch_is_not_imported_for_it() -> None:
    code = "import sys\nfrom harness.records.provenance import hardware\nimport harness.config\n"
    out, errors = child(code + "hardware(); print('torch' in sys.modules, 'transformers' in sys.modules)").communicate()
    assert out == "False False\n", errors


def test_only_switches_are_recorded_and_never_a_token() -> None:
    given = {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HF_TOKEN": "hf_" + "x" * 30,
        "TORCH_API_KEY": "value",
        "TORCH_HOME": "/cache/hf_" + "y" * 30,
        "HOME": "/home/someone",
        "TORCHINDUCTOR_CACHE_DIR": "/cache/inductor",
        "HARNESS_DATASETS_DIR": "/data",
        "HARNESS_JOB": "nightly",
    }
    assert provenance.environment(given) == {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCH_HOME": "/cache/[removed]",
    }


def test_what_libraries_set_by_themselves_is_no_switch() -> None:
    by_scikit_learn = {"KMP_DUPLICATE_LIB_OK": "True", "KMP_INIT_AT_FORK": "FALSE"}
    assert provenance.environment({**by_scikit_learn, "KMP_AFFINITY": "compact"}) == {"KMP_AFFINITY": "compact"}


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, ""),
        ({"CI_JOB_ID": "7"}, "7"),
        ({"SLURM_JOB_ID": "8", "HARNESS_JOB": "nightly"}, "nightly"),
        (
            {"GITHUB_RUN_ID": "1", "GITHUB_RUN_ATTEMPT": "2", "GITHUB_JOB": "check", "RUNNER_NAME": "runner 3"},
            "1/2/check/runner 3",
        ),
        ({"GITHUB_JOB": "check"}, ""),
    ],
)
def test_a_job_is_named_as_its_engine_does(variables: dict[str, str], name: str) -> None:
    assert provenance.job(variables) == name


def test_packages_have_versions() -> None:
    found = provenance.packages()
    assert {"python", "c2c-harness", "pydantic"} <= found.keys()
    assert all(found.values())


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_commit_and_dirty_flag_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harness").mkdir()
    code = tmp_path / "harness" / "__init__.py"
    code.write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "m")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "run.json").write_text("{}")
    clean = provenance.git(tmp_path)
    assert (len(clean.commit), clean.dirty) == (40, False)
    (tmp_path / "harness" / "new.py").write_text("")
    assert provenance.git(tmp_path) == Git(commit=clean.commit, dirty=True)


def test_a_copy_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "own.py").write_text("")
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-q", "-m", "m")
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("")
    assert provenance.git(tmp_path) == Git()
    assert provenance.git(tmp_path / "missing") == Git()
    assert isinstance(provenance.git(ROOT), Git)
