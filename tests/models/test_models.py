"""Loading: what a reference may be, what of a checkpoint takes part, and that bad input is told in one sentence."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.models.lm import LM, cache_argument
from harness.models.loading import load, pick_device, pick_dtype, read_template, wrap
from harness.models.reference import parse_reference
from tests.support.gguf_files import write_gguf
from tests.support.tiny import FOREIGN, GOLDEN, OURS, golden_lm, random_lm, shared_lm, tokenizer
from tests.support.work import SENTENCES, read, written

Damage = Callable[[Path], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a golden model that a test may damage."""
    return Path(shutil.copytree(GOLDEN / OURS, tmp_path / "model"))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _load(where: Path | str, **more: Any) -> LM:
    return load(str(where), device="cpu", **more)


@pytest.mark.parametrize(
    ("text", "source", "revision"),
    [
        ("org/name", "org/name", None),
        ("org/name@abc123", "org/name", "abc123"),
        ("gpt2", "gpt2", None),
        ("org/name-0.6B@main", "org/name-0.6B", "main"),
    ],
)
def test_a_hub_id_may_name_a_revision(text: str, source: str, revision: str | None) -> None:
    found = parse_reference(text)
    assert (found.text, found.source, found.revision, found.gguf_file) == (text, source, revision, None)
    assert not found.local


def test_folders_and_gguf_files_are_local(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert parse_reference(str(tmp_path)).local
    found = parse_reference(str(tmp_path / "m.gguf"))
    assert (found.source, found.gguf_file, found.local) == (str(tmp_path), "m.gguf", True)


@pytest.mark.parametrize("text", ["", "@main", "./absent", "/absent/model", "~/absent", "a/b/c", "../up", "a/../b"])
def test_what_is_no_reference_is_told_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="no such folder; give a folder"):
        parse_reference(text)


def test_a_gguf_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such GGUF file"):
        parse_reference(str(tmp_path / "absent.gguf"))


def test_sampling_settings_of_the_checkpoint_take_no_part(folder: Path) -> None:
    _edit(folder / "generation_config.json", do_sample=True, temperature=5.0, top_k=3, repetition_penalty=1.5)
    lm, texts = _load(folder), SENTENCES[:3]
    expected = written(golden_lm(OURS), texts, [()] * 3)
    assert written(lm, texts, [()] * 3) == expected
    ids = torch.tensor([lm.tokenizer("Why is the sky blue?")["input_ids"]])
    plain, touched = (m.model.generate(ids, max_new_tokens=8) for m in (golden_lm(OURS), lm))
    assert torch.equal(plain, touched)


def test_every_stop_token_of_the_checkpoint_stops(folder: Path) -> None:
    _edit(folder / "generation_config.json", eos_token_id=[5, 7])
    assert _load(folder).stop_ids == {5, 7, tokenizer().eos_token_id}


def test_a_missing_pad_token_is_replaced_by_a_stop_token() -> None:
    lm = golden_lm(FOREIGN)
    assert lm.tokenizer.pad_token_id is None
    assert lm.pad_id in lm.stop_ids


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_come_in_the_dtype_that_is_asked_for(dtype: str, expected: torch.dtype) -> None:
    lm = _load(GOLDEN / OURS, dtype=dtype)
    assert lm.dtype == expected
    assert {p.dtype for p in lm.model.parameters()} == {expected}


def test_a_loaded_model_only_infers() -> None:
    lm = _load(GOLDEN / OURS)
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "broken config": (lambda f: _cut(f / "config.json"), "config.json is not valid JSON"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json is not valid JSON"),
    "a list as config": (lambda f: (f / "config.json").write_text("[]"), "cannot be loaded"),
    "unknown architecture": (lambda f: _edit(f / "config.json", model_type="brain"), "cannot be loaded"),
    "other shape": (lambda f: _edit(f / "config.json", hidden_size=64), "cannot be loaded"),
    "missing tensor": (_drop_tensor, "1 tensors are missing.*layers.1.mlp.up_proj"),
    "truncated weights": (lambda f: _cut(f / "model.safetensors"), "cannot be loaded"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be loaded"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
    "broken tokenizer": (lambda f: _cut(f / "tokenizer.json"), "cannot be loaded"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_folder_is_told_in_one_sentence(folder: Path, what: str) -> None:
    damage, said = DAMAGES[what]
    damage(folder)
    with pytest.raises(UserError, match=said) as caught:
        _load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_are_read_as_data_even_from_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": _Trap(folder / "sprung")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        _load(folder)
    assert not (folder / "sprung").exists()


def test_code_of_a_checkpoint_runs_only_if_the_user_writes_so(folder: Path) -> None:
    (folder / "own.py").write_text(f"open({str(folder / 'sprung')!r}, 'w')\n")
    _edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    with pytest.raises(UserError, match="cannot be loaded"):
        _load(folder)
    assert not (folder / "sprung").exists()


def test_flags_that_cannot_be_are_refused_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"Device 'gpu' is unknown; allowed: auto, cpu, cuda, cuda:N"):
        pick_device("gpu")
    with pytest.raises(UserError, match="no CUDA device is here"):
        pick_device("cuda:0")
    with pytest.raises(UserError, match=r"Unknown dtype 'bfloat'.*Did you mean 'bfloat16'"):
        pick_dtype("bfloat", torch.device("cpu"))
    with pytest.raises(UserError, match=r"Unknown attention implementation 'sdp'.*Did you mean 'sdpa'"):
        load(str(GOLDEN / OURS), attention="sdp")


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "cuda:", "cuda:-1", "cuda:x", "cuda:12345", "", "cpu:0"])
def test_devices_of_other_kinds_are_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(UserError, match=f"Device {device!r} is unknown; allowed: auto, cpu, cuda, cuda:N"):
            pick_device(device)


@pytest.mark.parametrize(("count", "here"), [(1, "only cuda:0 is here"), (4, "cuda:0 to cuda:3 are here")])
def test_a_card_that_is_not_here_is_refused(count: int, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert pick_device(f"cuda:{count - 1}") == torch.device("cuda", count - 1)
    assert pick_device("cuda") == torch.device("cuda")
    for number in (count, 9, 300):
        with pytest.raises(UserError, match=f"Device 'cuda:{number}' was asked for but {here}"):
            pick_device(f"cuda:{number}")


def test_automatic_choices_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device("auto").type == kind


def test_the_cache_argument_is_the_one_of_the_architecture() -> None:
    class Old:
        def forward(self, input_ids: Any, past_key_values: Any = None) -> None: ...

    class New:
        def forward(self, input_ids: Any, cache: Any = None) -> None: ...

    assert cache_argument(Old) == "past_key_values"
    assert cache_argument(New) == "cache"


def test_a_model_with_the_old_cache_argument_gives_the_same_numbers_without_a_warning() -> None:
    lm = random_lm()
    forward = type(lm.model).forward

    class Old(type(lm.model)):
        def forward(self, *args: Any, past_key_values: Any = None, **more: Any) -> Any:
            return forward(self, *args, **{lm.cache_argument: past_key_values}, **more)

    old = Old(lm.config)
    old.load_state_dict(lm.model.state_dict())
    wrapped = wrap(old, lm.tokenizer)
    assert wrapped.cache_argument == "past_key_values"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read(wrapped, SENTENCES).logits, read(lm, SENTENCES).logits)


def test_chat_templates_come_from_files_or_by_name(tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[0].content }}")
    assert read_template(None) is None
    (tmp_path / "other.jinja").write_bytes(b"\xff")
    with pytest.raises(UserError, match="other.jinja' cannot be read"):
        read_template(str(tmp_path / "other.jinja"))
    assert read_template(str(own)) == own.read_text()
    assert "messages" in str(read_template("simple"))
    with pytest.raises(UserError, match=r"no such file; give a Jinja file or one of: .*simple"):
        read_template("smiple")
    lm = _load(GOLDEN / OURS, chat_template=str(own))
    assert lm.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


@pytest.fixture
def tied() -> LM:
    return shared_lm("qwen2")


def test_a_gguf_file_gives_the_models_own_numbers(tmp_path: Path, tied: LM) -> None:
    write_gguf(tmp_path / "m.gguf", tied)
    lm = _load(tmp_path / "m.gguf")
    assert lm.tokenizer.chat_template == tied.tokenizer.chat_template
    assert (lm.stop_ids, lm.pad_id, lm.max_length) == (tied.stop_ids, tied.pad_id, tied.max_length)
    torch.testing.assert_close(read(lm, SENTENCES).logits, read(tied, SENTENCES).logits, atol=1e-5, rtol=1e-5)


def test_a_gguf_file_may_carry_an_output_matrix_of_its_own(tmp_path: Path, tied: LM) -> None:
    own = torch.randn_like(tied.model.get_input_embeddings().weight)
    write_gguf(tmp_path / "m.gguf", tied, separate_output=own)
    lm = _load(tmp_path / "m.gguf")
    assert torch.equal(lm.model.get_output_embeddings().weight, own)
    assert torch.equal(lm.model.get_input_embeddings().weight, tied.model.get_input_embeddings().weight)


@pytest.mark.parametrize("kept", [0, 10, 200, 100_000])
def test_a_truncated_gguf_file_is_told_in_one_sentence(tmp_path: Path, tied: LM, kept: int) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tied)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be loaded"):
        _load(path)


def test_a_gguf_file_without_a_tensor_is_refused(tmp_path: Path, tied: LM) -> None:
    write_gguf(tmp_path / "m.gguf", tied, without=("model.layers.1.mlp.up_proj.weight",))
    with pytest.raises(UserError, match=r"1 tensors are missing.*layers.1.mlp.up_proj"):
        _load(tmp_path / "m.gguf")


def test_the_same_checkpoint_loaded_twice_is_two_models() -> None:
    one, other = (wrap(golden_lm(OURS).model, tokenizer()) for _ in range(2))
    assert one != other
