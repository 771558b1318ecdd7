"""A checkpoint is loaded whole and nothing else: what is left over, missing, doubled or unscaled is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import UserError
from harness.evaluation.fingerprint import model_info
from harness.models.lm import LM
from harness.models.loading import load
from tests.support.tiny import GOLDEN, OURS, random_lm, tokenizer
from tests.support.work import SENTENCES, read

WEIGHTS = "model.safetensors"
State = dict[str, torch.Tensor]


def saved(folder: Path, lm: LM, **more: Any) -> Path:
    lm.model.save_pretrained(folder, **more)
    lm.tokenizer.save_pretrained(folder)
    return folder


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def restore(folder: Path, change: Callable[[State], object], name: str = WEIGHTS) -> None:
    state = load_file(folder / name)
    change(state)
    save_file(state, folder / name, metadata={"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def biased(folder: Path, kind: str = "llama") -> Path:
    return saved(folder, random_lm(kind, attention_bias=True))


@pytest.mark.parametrize("form", ["safetensors", "bin", "shards"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"attention_bias": False},
            r"12 tensors of the weights are left over.*'model\.layers\.0\.self_attn\.k_proj\.bias'",
        ),
        (
            {"num_hidden_layers": 2, "layer_types": None},
            r"13 tensors of the weights are left over.*'model\.layers\.2\.input_layernorm\.weight'",
        ),
        ({"mlp_bias": True}, r"9 tensors are missing.*'model\.layers\.0\.mlp\.down_proj\.bias'"),
    ],
)
def test_tensors_left_over_or_missing_are_refused(
    tmp_path: Path, form: str, changes: dict[str, Any], words: str
) -> None:
    lm = random_lm("llama", attention_bias=True)
    folder = saved(tmp_path / "m", lm, max_shard_size="20KB" if form == "shards" else "1GB")
    if form == "bin":
        pickled(folder)
    read_back = load(str(folder), device="cpu")
    assert torch.equal(read(read_back, SENTENCES[:2]).logits, read(lm, SENTENCES[:2]).logits)
    configure(folder, **changes)
    with pytest.raises(UserError, match=words):
        load(str(folder), device="cpu")


def test_norms_that_another_architecture_does_not_have_are_left_over(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_lm("qwen3"))
    configure(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(UserError, match=r"left over.*'model\.layers\.0\.self_attn\.k_norm\.weight'"):
        load(str(folder), device="cpu")


def test_what_a_model_computes_itself_may_lie_in_its_checkpoint(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_lm("llama"))
    restore(folder, lambda s: s.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load(str(folder), device="cpu")


def test_matrices_that_are_tied_have_one_set_of_values(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_lm("llama", tie_word_embeddings=False))
    configure(folder, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"ties 'lm_head\.weight'.*different values"):
        load(str(folder), device="cpu")
    restore(folder, lambda s: s.update({"lm_head.weight": s["model.embed_tokens.weight"].clone()}))
    lm = load(str(folder), device="cpu")
    assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight


def _stale_whole(folder: Path) -> None:
    shutil.copy(next(folder.glob("model-00001-*")), folder / WEIGHTS)


def _stale_shard(folder: Path) -> None:
    shutil.copy(next(folder.glob("model-00001-*")), folder / "model-00001-of-00099.safetensors")


def _twice(folder: Path) -> None:
    first, second = sorted(folder.glob("model-*"))[:2]
    name = next(iter(load_file(first)))
    restore(folder, lambda s: s.update({name: load_file(first)[name] / 2}), second.name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_stale_whole, r"two sets of weights, 'model\.safetensors' and 'model\.safetensors\.index\.json'"),
        (_stale_shard, r"two sets of weights.*'model-00001-of-00099\.safetensors'"),
        (_twice, r"the tensor '.*' stands in two weight files"),
        (lambda f: next(f.glob("model-00002-*")).unlink(), r"names 'model-00002-.*', which is missing"),
        (lambda f: (f / f"{WEIGHTS}.index.json").write_text("[]"), r"index\.json is no index of weights"),
    ],
)
def test_a_folder_holds_one_set_of_weights(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    folder = saved(tmp_path / "m", random_lm("llama"), max_shard_size="20KB")
    assert len(list(folder.glob("model-*"))) > 2
    change(folder)
    with pytest.raises(UserError, match=words):
        load(str(folder), device="cpu")


def test_the_record_says_which_of_two_formats_was_read_and_what_stops(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / OURS, tmp_path / "m"))
    torch.save({name: value / 2 for name, value in load_file(folder / WEIGHTS).items()}, folder / "pytorch_model.bin")
    lm = load(str(folder), device="cpu")
    assert torch.equal(read(lm, SENTENCES[:1]).logits, read(load(str(GOLDEN / OURS)), SENTENCES[:1]).logits)
    info = model_info("receiver", lm)
    assert info.loading == {"weights": repr(WEIGHTS)}
    assert sorted(info.stop_tokens.values()) == sorted(lm.stop_ids)


@pytest.mark.parametrize(("form", "dtype"), [("safetensors", torch.int32), ("bin", torch.int64)])
def test_weights_that_are_whole_numbers_are_refused(tmp_path: Path, form: str, dtype: torch.dtype) -> None:
    folder = saved(tmp_path / "m", random_lm("llama"))
    name = "model.layers.1.mlp.up_proj.weight"
    restore(folder, lambda s: s.update({name: (100 * s[name]).to(dtype)}))
    if form == "bin":
        pickled(folder)
    with pytest.raises(UserError, match=rf"1 tensors are stored as whole numbers.*'{name}'"):
        load(str(folder), device="cpu")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", random_lm("llama"))
    restore(folder, lambda s: s.update({"model.norm.weight": torch.ones(7)}))
    with pytest.raises(UserError, match=r"other shapes.*'model\.norm\.weight \[7\], not \[\d+\]'"):
        load(str(folder), device="cpu")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_narrow_weights_that_no_quantizer_reads_are_refused(tmp_path: Path, dtype: torch.dtype, form: str) -> None:
    folder = saved(tmp_path / "m", random_lm("llama"))
    name = "model.layers.1.mlp.up_proj.weight"
    restore(folder, lambda s: s.update({name: s[name].to(dtype)}))
    if form == "bin":
        pickled(folder)
    with pytest.raises(UserError, match=rf"1 tensors are stored in 8 bits or fewer.*'{name}'"):
        load(str(folder), device="cpu")
    configure(folder, quantization_config={"quant_method": "nobodys"})
    with pytest.raises(UserError, match="8 bits or fewer|cannot be loaded"):
        load(str(folder), device="cpu")


def test_a_padding_token_without_a_row_is_replaced_and_said(tmp_path: Path) -> None:
    lm = random_lm("llama")
    rows, end = lm.config.vocab_size, lm.tokenizer.eos_token_id
    words = tokenizer()
    words.add_special_tokens({"pad_token": "<|nowhere|>"})
    assert words.pad_token_id == rows
    folder = saved(tmp_path / "m", lm)
    words.save_pretrained(folder)
    configure(folder, pad_token_id=rows + 5)
    found = load(str(folder), device="cpu")
    assert (found.pad_id, found.tokenizer.pad_token_id) == (end, end)
    assert torch.equal(read(found, SENTENCES).logits, read(lm, SENTENCES).logits)
    assert str(rows) in found.notes["pad"]
    assert str(rows + 5) in found.notes["config_pad"]


def test_a_prompt_token_without_a_row_is_refused_at_load(tmp_path: Path) -> None:
    lm = random_lm("llama")
    folder = saved(tmp_path / "m", lm)
    words = tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    words.chat_template = "{% for m in messages %}<|turn|>{{ m['content'] }}{% endfor %}"
    words.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"'<\|turn\|>' with the id {lm.config.vocab_size}"):
        load(str(folder), device="cpu")
