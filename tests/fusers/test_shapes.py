from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoConfig, GPT2Config

from harness.errors import UserError
from harness.fusers.checkpoint import check_fits, load
from harness.models.lm import KVShape, kv_shape
from tests.support.fuser_reference import GOLDEN

RECEIVER, SHARER = KVShape(4, 2, 32), KVShape(3, 2, 16)


def test_shapes_of_real_configs() -> None:
    folder = GOLDEN / "same_tokenizer"
    assert kv_shape(AutoConfig.from_pretrained(folder / "receiver")) == RECEIVER
    assert kv_shape(AutoConfig.from_pretrained(folder / "sharer")) == SHARER
    assert kv_shape(GPT2Config(n_layer=2, n_head=4, n_embd=64)) == KVShape(2, 4, 16)


def test_the_text_part_of_a_multimodal_config_counts() -> None:
    text = SimpleNamespace(num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=None, hidden_size=64)
    assert kv_shape(SimpleNamespace(text_config=text, hidden_size=9)) == KVShape(3, 8, 8)


def test_a_config_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="num_hidden_layers = None"):
        kv_shape(SimpleNamespace(num_attention_heads=8, hidden_size=64))


def test_a_fitting_pair_passes() -> None:
    check_fits(load(GOLDEN / "same_tokenizer" / "fuser"), RECEIVER, SHARER)


@pytest.mark.parametrize(
    ("receiver", "sharer", "words"),
    [
        (KVShape(4, 8, 32), SHARER, ("receiver", "layer 0", "KV heads 2", "has 8")),
        (KVShape(4, 2, 64), SHARER, ("receiver", "layer 0", "head_dim 32", "has 64")),
        (RECEIVER, KVShape(3, 2, 64), ("sharer", "layer 0", "head_dim 16", "has 64")),
        (KVShape(3, 2, 32), SHARER, ("receiver", "layer 3", "at least 4", "has 3")),
        (RECEIVER, KVShape(2, 2, 16), ("sharer", "layer 2", "at least 3", "has 2")),
    ],
)
def test_a_misfit_is_named(receiver: KVShape, sharer: KVShape, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        check_fits(load(GOLDEN / "same_tokenizer" / "fuser"), receiver, sharer)
    assert all(word in str(caught.value) for word in words), str(caught.value)
