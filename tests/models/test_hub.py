"""What is pinned is what is read, whatever the hub does; what is not pinned is resolved once and recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.fusers.checkpoint import read_header
from tests.support.hub_worker import HubWorker
from tests.support.local_hub import Drop, Fault, LocalHub, OtherCommit, Status, Truncate

GOLDEN = Path(__file__).parents[1] / "golden" / "same_tokenizer"
PIN, OTHER, LATER = "a" * 40, "b" * 40, "c" * 40
ROWS, MODEL, FUSER, ADAPTER = "org/questions", "org/receiver", "org/fusers", "org/adapter"
CHATS = "org/chats"
DOWN: list[tuple[Fault, ...]] = [
    (Status(status=503),),
    (Status(status=401),),
    (Status(status=401, code="GatedRepo"),),
    (Drop(),),
    (Status(method="GET", status=503), Drop(method="HEAD")),
]


def questions(key: str) -> dict[str, list[dict[str, Any]]]:
    row = {"choices": {"text": ["x"], "label": [key]}, "labels": ["A", "B"], "key": "A"}
    return {split: [{"id": f"{split}-{key}", **row}] for split in ("test", "train")}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    root = tmp_path_factory.mktemp("hub")
    with LocalHub(root) as running:
        repositories = running.repositories
        for commit, key in ((OTHER, "wrong"), (PIN, "right")):
            repositories.add_rows(ROWS, commit, {"first": questions(key), "main": questions(key)})
            turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": f"It is {key}."}]
            repositories.add_rows(CHATS, commit, {"default": {"train": [{"messages": turns}] * 8}})
            other = repositories.add("models", MODEL, commit, GOLDEN / "receiver")
            if commit == OTHER:
                changed = {name: value * 2 for name, value in load_file(other / "model.safetensors").items()}
                save_file(changed, other / "model.safetensors", {"format": "pt"})
            repositories.add("models", FUSER, commit, GOLDEN / "fuser", "pair/final")
        yield running


@pytest.fixture(scope="module")
def shared_worker(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubWorker, Path]]:
    home = tmp_path_factory.mktemp("home")
    with HubWorker(hub.environment(home)) as worker:
        yield worker, home


@pytest.fixture
def worker(hub: LocalHub, shared_worker: tuple[HubWorker, Path]) -> Iterator[HubWorker]:
    """A process with an empty cache, and a hub without faults whose `main` is the pinned commit."""
    asking, home = shared_worker
    shutil.rmtree(home, ignore_errors=True)
    hub.faults, hub.log[:] = (), []
    yield asking
    hub.faults = ()
    for kind, name in (("datasets", ROWS), ("datasets", CHATS), ("models", MODEL), ("models", FUSER)):
        hub.repositories.point(kind, name, PIN)


def rows(worker: HubWorker, revision: str, **options: bool) -> Any:
    return worker.call("rows", ROWS, revision, "main", "test", **options)


@pytest.mark.parametrize("faults", [None, *DOWN])
def test_another_revision_of_a_data_set_is_not_handed_out(
    hub: LocalHub, worker: HubWorker, faults: Sequence[Fault] | None
) -> None:
    worker.call("library_rows", ROWS, OTHER, "main", "test")
    hub.faults = tuple(faults or ())
    answer = rows(worker, PIN, offline=faults is None)
    assert answer.startswith("UserError"), answer
    assert PIN in answer
    assert OTHER in answer


@pytest.mark.parametrize("faults", [None, *DOWN])
@pytest.mark.parametrize("filled_by", ["rows", "library_rows"])
def test_the_right_revision_of_a_data_set_is_read_from_the_cache(
    hub: LocalHub, worker: HubWorker, faults: Sequence[Fault] | None, filled_by: str
) -> None:
    expected = worker.call(filled_by, ROWS, PIN, "main", "test")
    assert expected[0]["id"] == "test-right"
    worker.call("library_rows", ROWS, OTHER, "main", "test")
    hub.faults = tuple(faults or ())
    assert rows(worker, PIN, offline=faults is None) == expected


def test_a_split_is_read_without_the_others(hub: LocalHub, worker: HubWorker) -> None:
    rows(worker, PIN)
    read = [line.rpartition("/")[2] for line in hub.log if line.startswith("GET") and "resolve" in line]
    assert sorted(read) == ["README.md", "test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    ("config", "split", "said"), [("mian", "test", "Did you mean 'main'"), ("main", "tset", "'test'")]
)
def test_names_that_a_data_set_lacks(worker: HubWorker, config: str, split: str, said: str) -> None:
    answer = worker.call("rows", ROWS, PIN, config, split)
    assert answer.startswith("UserError")
    assert said in answer


@pytest.mark.parametrize("pattern", ["*", "datasets/*/resolve/*", "*.parquet"])
def test_a_hub_that_serves_another_commit_is_refused(hub: LocalHub, worker: HubWorker, pattern: str) -> None:
    hub.faults = (OtherCommit(pattern, commit=OTHER),)
    answer = rows(worker, PIN)
    assert answer.startswith("UserError"), answer
    assert PIN in answer
    assert OTHER in answer
    hub.faults = ()
    assert rows(worker, PIN)[0]["id"] == "test-right"


def test_a_file_that_was_cut_is_refused_and_then_fetched_whole(hub: LocalHub, worker: HubWorker) -> None:
    hub.faults = (Truncate("*.parquet", "GET", length=100),)
    assert rows(worker, PIN).startswith("UserError")
    hub.faults = ()
    assert rows(worker, PIN)[0]["id"] == "test-right"


@pytest.mark.parametrize("faults", [None, *DOWN])
def test_models_and_fusers_are_the_pinned_ones_or_refused(
    hub: LocalHub, worker: HubWorker, faults: Sequence[Fault] | None
) -> None:
    for name, reference in (("model", f"{MODEL}@%s"), ("fuser", f"{FUSER}@%s:pair/final")):
        other = worker.call(name, reference % OTHER)
        hub.faults = tuple(faults or ())
        refused = worker.call(name, reference % PIN, offline=faults is None)
        assert refused.startswith("UserError"), refused
        assert PIN in refused
        assert OTHER in refused
        hub.faults = ()
        right = worker.call(name, reference % PIN)
        assert (right[0], other[0]) == (PIN, OTHER)
        hub.faults = tuple(faults or ())
        assert worker.call(name, reference % PIN, offline=faults is None) == right != other
        hub.faults = ()


def test_a_model_that_the_hub_mixes_from_two_commits_is_refused(hub: LocalHub, worker: HubWorker) -> None:
    hub.faults = (OtherCommit("*.safetensors", commit=OTHER),)
    refused = worker.call("model", f"{MODEL}@{PIN}")
    assert "UserError" in refused
    assert PIN in refused
    assert OTHER in refused


def test_a_run_without_revisions_records_its_commits_and_resumes_with_them(
    hub: LocalHub, worker: HubWorker, tmp_path: Path
) -> None:
    out, boards = tmp_path / "out", tmp_path / "boards"
    asked = ["run", "--receiver", MODEL, "--channels", "receiver", "--tasks", "factworld_letters", "--limit", "2"]
    asked += ["--output_path", str(out), "--latency_samples", "0", "--device", "cpu", "--leaderboards_dir", str(boards)]
    code, said = worker.call("run", *asked)
    assert code == 0, said
    first = json.loads((out / "run.json").read_text())
    assert [model["revision"] for model in first["models"]] == [PIN]
    assert f"open pins: {MODEL} ({PIN[:12]})" in (boards / "factworld_letters.md").read_text()
    hub.repositories.point("models", MODEL, OTHER)
    code, said = worker.call("run", *asked, "--resume")
    assert code == 0, said
    assert json.loads((out / "run.json").read_text())["models"] == first["models"]
    assert worker.call("model", MODEL)[0] == OTHER


def own_task(folder: Path, **options: str) -> Path:
    """A task of somebody else's, whose rows lm-eval loads by itself."""
    lines = ["task: mine", f"dataset_path: {ROWS}", "dataset_name: main", f"dataset_kwargs: {json.dumps(options)}"]
    lines += ["test_split: test", "output_type: multiple_choice", 'doc_to_text: "{{id}}"', 'doc_to_choice: ["A", "B"]']
    path = folder / "mine.yaml"
    path.write_text("\n".join([*lines, "doc_to_target: 0", ""]))
    return path


def asking(task: Path, out: Path) -> list[str]:
    asked = ["run", "--receiver", str(GOLDEN / "receiver"), "--channels", "receiver", "--tasks", str(task)]
    return [*asked, "--output_path", str(out), "--latency_samples", "0", "--device", "cpu"]


def test_rows_of_anothers_task_are_of_the_commit_that_it_pins(hub: LocalHub, worker: HubWorker, tmp_path: Path) -> None:
    worker.call("library_rows", ROWS, OTHER, "main", "test")
    hub.faults = (Status(status=503),)
    code, said = worker.call("run", *asking(own_task(tmp_path, revision=PIN), tmp_path / "out"))
    assert code == 2, said
    assert PIN in said
    assert OTHER in said
    assert not (tmp_path / "out").exists()
    assert f"pins {ROWS} at {PIN}, but rows of {OTHER}" in worker.call("task_of_lm_eval", str(tmp_path), "mine")


def test_the_commit_of_anothers_task_is_on_record(worker: HubWorker, tmp_path: Path) -> None:
    boards = ["--leaderboards_dir", str(tmp_path / "boards")]
    code, said = worker.call("run", *asking(own_task(tmp_path), tmp_path / "out"), *boards)
    assert code == 0, said
    assert json.loads((tmp_path / "out" / "run.json").read_text())["dataset_revisions"] == {"mine": f"{ROWS}@{PIN}"}
    assert f"open pins: {ROWS} ({PIN[:12]})" in (tmp_path / "boards" / "mine.md").read_text()


def test_an_adapter_on_the_hub_is_merged_and_both_commits_are_recorded(
    hub: LocalHub, worker: HubWorker, tmp_path: Path
) -> None:
    hidden = json.loads((GOLDEN / "receiver" / "config.json").read_text())["hidden_size"]
    target = "base_model.model.model.layers.0.mlp.gate_proj"
    width = load_file(GOLDEN / "receiver" / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"].shape[0]
    torch.manual_seed(0)
    weights = {f"{target}.lora_A.weight": torch.randn(2, hidden), f"{target}.lora_B.weight": torch.randn(width, 2)}
    save_file(weights, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "base_model_name_or_path": MODEL, "r": 2, "lora_alpha": 2, "task_type": "CAUSAL_LM"}
    config |= {"target_modules": ["gate_proj"], "layers_to_transform": [0]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    hub.repositories.add("models", ADAPTER, LATER, tmp_path)
    base, merged = worker.call("model", MODEL), worker.call("model", ADAPTER)
    assert merged[:2] == [PIN, LATER], merged
    assert merged[3] != base[3]


def test_a_training_without_revisions_records_its_commits_and_resumes_with_them(
    hub: LocalHub, worker: HubWorker, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ["train", "--receiver", MODEL, "--sharer", str(GOLDEN / "sharer"), "--data", CHATS]
    asked += ["--data_revision", "main", "--output_path", str(out), "--global_batch", "2", "--micro_batch", "2"]
    asked += ["--hidden_dim", "8", "--intermediate_dim", "8", "--device", "cpu", "--no-progress", "--save_every", "1"]
    code, said = worker.call("run", *asked, "--steps", "2")
    assert code == 0, said
    commits = {MODEL: PIN, f"dataset {CHATS}": PIN}
    assert json.loads((out / "commits.json").read_text()) == commits
    assert read_header(out / "fuser").provenance["commits"] == commits
    for kind, name in (("models", MODEL), ("datasets", CHATS)):
        hub.repositories.point(kind, name, OTHER)
    code, said = worker.call("run", *asked, "--steps", "2", "--resume")
    assert code == 0, said  # with weights or rows of another commit it would be another training, and refused
