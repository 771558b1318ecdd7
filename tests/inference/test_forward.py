"""The cache and the masks: what a row sees does not depend on padding, room or the rows beside it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from harness.inference.forward import Columns, extend, left_padded, new_buffer, visible_columns
from harness.inference.kv_cache import KVBuffer
from harness.inference.types import Counters
from harness.models.lm import LM
from tests.support.tiny import KINDS, WINDOW, shared_lm

ROWS = [list(range(3, 30)), [5, 6], list(range(40, 51))]


@torch.inference_mode()
def plain(lm: LM, ids: list[int]) -> Tensor:
    logits: Tensor = lm.model(torch.tensor([ids])).logits
    return logits[0]


def whole(lm: LM, rows: list[list[int]], capacity: int = 64, keep: int = 1) -> tuple[KVBuffer, Tensor, Counters]:
    buffer, counters = new_buffer(lm, len(rows), capacity), Counters()
    with torch.inference_mode():
        logits = extend(lm, buffer, left_padded(rows, [0] * len(rows), lm), counters, keep=keep)
    assert logits is not None
    return buffer, logits, counters


@pytest.mark.parametrize("kind", KINDS)
def test_padded_rows_equal_transformers_own_forward(kind: str) -> None:
    lm = shared_lm(kind)
    assert len(ROWS[0]) > 2 * WINDOW
    _, logits, _ = whole(lm, ROWS)
    for row, found in zip(ROWS, logits[:, -1], strict=True):
        torch.testing.assert_close(found, plain(lm, row)[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [1, 64])
def test_reading_piece_by_piece_equals_reading_at_once(kind: str, capacity: int) -> None:
    lm = shared_lm(kind)
    pieces = [
        [row[:1] for row in ROWS],
        [row[1 : len(row) // 2] for row in ROWS],
        [row[len(row) // 2 :] for row in ROWS],
    ]
    pieces[1][1], pieces[2][1] = [], ROWS[1][1:]
    buffer, read = new_buffer(lm, 3, capacity), [0, 0, 0]
    with torch.inference_mode():
        for piece in pieces:
            logits = extend(lm, buffer, left_padded(piece, read, lm), Counters(), keep=1)
            read = [n + len(p) for n, p in zip(read, piece, strict=True)]
    assert read == [len(row) for row in ROWS]
    torch.testing.assert_close(logits, whole(lm, ROWS)[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_stay_are_untouched_when_others_leave(kind: str) -> None:
    lm = shared_lm(kind)
    buffer, _, _ = whole(lm, ROWS)
    buffer.keep_rows(torch.tensor([2, 0]))
    step = left_padded([[7], [8]], [len(ROWS[2]), len(ROWS[0])], lm)
    with torch.inference_mode():
        logits = extend(lm, buffer, step, Counters(), keep=1)
    assert logits is not None
    for row, token, found in zip((ROWS[2], ROWS[0]), (7, 8), logits[:, -1], strict=True):
        torch.testing.assert_close(found, plain(lm, [*row, token])[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_projection_runs_on_what_is_asked_for_and_on_nothing_else(kind: str) -> None:
    lm, seen = shared_lm(kind), []
    head = lm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    try:
        buffer, logits, counters = whole(lm, ROWS, keep=2)
        with torch.inference_mode():
            nothing = extend(lm, buffer, left_padded([[7]] * 3, [50] * 3, lm), counters)
    finally:
        hook.remove()
    assert nothing is None
    assert logits.shape == (3, 2, lm.config.vocab_size)
    assert seen == [2]
    assert counters.forwards == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
def test_a_forward_gives_no_warning(kind: str, rows: list[list[int]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole(shared_lm(kind), rows)


def test_no_mask_is_made_where_plain_causal_attention_is_right() -> None:
    lm = shared_lm("qwen3")
    for rows, needed in (([ROWS[0]], False), ([ROWS[1], ROWS[1]], False), (ROWS, True)):
        columns = left_padded(rows, [0] * len(rows), lm)
        buffer = new_buffer(lm, len(rows), 64)
        buffer.open(columns.positions, columns.real, None, columns.dense)
        assert (visible_columns(lm, buffer, columns) is not None) is needed


def test_pads_are_seen_by_nobody_but_themselves_even_where_a_run_of_them_outlasts_the_window() -> None:
    lm = shared_lm("gemma3")
    ids = list(range(3, 3 + 3 * WINDOW))
    real = [[True, True, *[False] * (3 * WINDOW - 4), True, True]]
    columns = left_padded([ids], [0], lm, real)
    buffer = new_buffer(lm, 1, 64)
    buffer.open(columns.positions, columns.real, None, columns.dense)
    visible = visible_columns(lm, buffer, columns)
    assert visible is not None
    for rule in (causal_mask_function, sliding_window_causal_mask_function(WINDOW)):
        mask = visible.under(rule)
        assert mask.any(-1).all()
        pads = ~columns.real[0]
        others = mask[0, 0].clone().fill_diagonal_(False)
        assert not others[:, pads].any()


def test_the_cache_knows_its_size() -> None:
    lm = shared_lm("qwen3")
    buffer, _, _ = whole(lm, ROWS, capacity=4)
    width = max(map(len, ROWS))
    assert (buffer.length, buffer.capacity >= width) == (width, True)
    assert buffer.nbytes == 2 * lm.n_layers * 3 * lm.config.num_key_value_heads * width * lm.config.head_dim * 4
    assert KVBuffer(1, 2, lm.device, 8).nbytes == 0


def test_counters_add_up_by_name() -> None:
    one, two = Counters(forwards=1, host_syncs=2), Counters(forwards=3, bytes_moved=5)
    one.add(two)
    assert one == Counters(forwards=4, host_syncs=2, bytes_moved=5)
    assert one.as_dict()["forwards"] == 4


def test_columns_of_unequal_rows_end_together() -> None:
    columns = left_padded([[1, 2, 3], [4]], [5, 9], shared_lm("qwen3"))
    assert isinstance(columns, Columns)
    assert columns.positions.tolist() == [[5, 6, 7], [0, 0, 9]]
    assert columns.real.tolist() == [[True] * 3, [False, False, True]]
    assert (columns.tokens, columns.dense) == (4, False)
