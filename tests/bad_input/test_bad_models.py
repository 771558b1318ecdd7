from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.paths import PAIR
from tests.support.refusals import edit, refused
from tests.support.tiny import GOLDEN

TINY = ["run", "--limit", "2", "--latency_samples", "0", "--no-progress", "--tasks", "relay_one"]
Change = Callable[[Path], object]


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def apply(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def setting(name: str, value: object) -> Change:
    return lambda folder: edit(folder / "config.json", lambda c: c.update({name: value}))


FOLDERS: dict[str, tuple[Change, str]] = {
    "empty": (lambda f: [p.unlink() for p in f.iterdir()], "has no config.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config is no JSON": (write("config.json", b"{"), "not valid JSON"),
    "config is not UTF-8": (write("config.json", b"\xff\xfe{}"), "config.json"),
    "config is a list": (write("config.json", b"[]"), "cannot be loaded"),
    "config is empty": (write("config.json", b"{}"), "cannot be loaded"),
    "unknown architecture": (setting("model_type", "quen3"), "cannot be loaded"),
    "architecture is a number": (setting("model_type", 3), "cannot be loaded"),
    "unknown activation": (
        setting("hidden_act", "silo"),
        "sets hidden_act to 'silo', which transformers does not know",
    ),
    "unknown positions": (
        setting("rope_parameters", {"rope_type": "yearn", "rope_theta": 1e4}),
        "sets rope_parameters.rope_type to 'yearn', which transformers does not know",
    ),
    "no layers": (setting("num_hidden_layers", 40), "cannot be loaded"),
    "layers are text": (setting("num_hidden_layers", "many"), "cannot be loaded"),
    "other width": (setting("hidden_size", 48), "cannot be loaded"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    "empty weights": (write("model.safetensors", b""), "cannot be loaded"),
    "weights are noise": (write("model.safetensors", b"\x00" * 64), "cannot be loaded"),
    "weights cut short": (lambda f: (f / "model.safetensors").open("r+b").truncate(3000), "cannot be loaded"),
    "a tensor is missing": (weights(lambda s: s.pop(next(n for n in s if "layers.1" in n))), "is missing|are missing"),
    "a tensor has another shape": (
        weights(lambda s: s.update({"model.norm.weight": torch.ones(3)})),
        "cannot be loaded",
    ),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "cannot be loaded: it has no tokenizer"),
    "tokenizer is no JSON": (write("tokenizer.json", b"{"), "cannot be loaded"),
    "tokenizer is empty": (write("tokenizer.json", b"{}"), "cannot be loaded"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "--receiver_chat_template FILE"),
    "chat template is broken": (write("chat_template.jinja", b"{% for %}"), "chat template"),
    "chat template refuses": (write("chat_template.jinja", b"{{ raise_exception('no') }}"), "refuses"),
    "chat template adds text to a number": (write("chat_template.jinja", b"{{ 1 + 'a' }}"), "chat template"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_folder_is_refused_in_a_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = FOLDERS[name]
    shutil.copytree(PAIR / "receiver", tmp_path / "model")
    change(tmp_path / "model")
    said = refused(capsys, [*TINY, "--channels", "receiver", "--receiver", str(tmp_path / "model")])
    assert any(word in said for word in words.split("|")), said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("./nowhere", "no such folder"),
        ("/nowhere", "no such folder"),
        ("~/nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("../..", "has no config.json"),
        ("nowhere.gguf", "no such GGUF file"),
        ("@revision", "no such folder"),
        ("org/na me", "cannot be loaded"),
        ("org/name@", "cannot be loaded"),
    ],
)
def test_a_model_reference_is_refused_in_a_sentence(
    reference: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, [*TINY, "--channels", "receiver", "--receiver", reference])


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"id,answer\n", "it is no GGUF file"), (b"GGUF" + b"\x03\0\0\0" + b"\x09", "it is cut short or damaged; fetch")],
)
def test_a_file_that_is_no_whole_gguf_file_is_called_so(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    said = refused(capsys, [*TINY, "--channels", "receiver", "--receiver", str(tmp_path / "model.gguf")])
    assert f"cannot be loaded: {words}" in said


def test_the_folder_of_a_training_names_the_adapter_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter").mkdir()
    said = refused(capsys, [*TINY, "--channels", "receiver", "--receiver", str(tmp_path)])
    assert f"it has no config.json; the adapter that was trained is in {tmp_path / 'adapter'}, give that." in said


def test_a_gguf_file_of_noise_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\x00" * 40)
    assert "cannot be loaded" in refused(
        capsys, [*TINY, "--channels", "receiver", "--receiver", str(tmp_path / "model.gguf")]
    )


def test_a_sharer_without_a_template_is_refused_before_anything_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PAIR / "sharer", tmp_path / "sharer")
    (tmp_path / "sharer" / "chat_template.jinja").unlink()
    pair = ["--receiver", str(PAIR / "receiver"), "--sharer", str(tmp_path / "sharer")]
    run = [*TINY, *pair, "--channels", "receiver,sharer", "--controls", "", "--output_path", str(tmp_path / "run")]
    said = refused(capsys, run)
    assert "--sharer_chat_template FILE" in said
    assert said.rstrip().endswith("--no-chat.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("receiver", "sharer", "fuser", "words"),
    [
        (
            PAIR / "receiver",
            PAIR / "sharer",
            GOLDEN / "same_tokenizer/fuser",
            ["layer 3", "expects at least 4", "has 3"],
        ),
        (GOLDEN / "same_tokenizer/receiver", GOLDEN / "same_tokenizer/sharer", PAIR / "fuser", ["layer", "expects"]),
        (PAIR / "sharer", PAIR / "receiver", PAIR / "fuser", ["layer", "expects"]),
        (PAIR / "receiver", PAIR / "sharer", Path("nowhere"), ["no such folder"]),
        (PAIR / "receiver", PAIR / "sharer", PAIR, ["holds no fuser", "Did you mean"]),
        (PAIR / "receiver", PAIR / "sharer", PAIR / "receiver", ["holds no fuser"]),
    ],
)
def test_a_fuser_that_does_not_fit_says_where(
    receiver: Path, sharer: Path, fuser: Path, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cast = ["--receiver", str(receiver), "--sharer", str(sharer), "--fuser", str(fuser)]
    said = refused(
        capsys, [*TINY, *cast, "--channels", "c2c", "--controls", "", "--output_path", str(tmp_path / "run")]
    )
    assert all(word in said for word in words), said
    assert not (tmp_path / "run").exists()


def test_a_config_of_one_layer_less_is_no_other_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers ignores what a config does not name; a truncated model would still answer."""
    shutil.copytree(PAIR / "receiver", tmp_path / "model")
    layers = json.loads((tmp_path / "model" / "config.json").read_text())["num_hidden_layers"]
    setting("num_hidden_layers", layers - 1)(tmp_path / "model")
    setting("layer_types", None)(tmp_path / "model")  # its length alone would be refused already
    said = refused(capsys, [*TINY, "--channels", "receiver", "--controls", "", "--receiver", str(tmp_path / "model")])
    assert "tensors of the weights are left over" in said
    assert f"'model.layers.{layers - 1}." in said
