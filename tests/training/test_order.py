from hypothesis import given
from hypothesis import strategies as st

from harness.training.dataloader import derived_seed, micro_batches, step_rows


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_every_epoch_sees_every_row_once(rows, batch, seed):
    steps = -(-3 * rows // batch)
    seen = [row for step in range(steps) for row in step_rows(step, rows, batch, seed)]
    for epoch in range(3):
        assert sorted(seen[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


def test_epochs_and_seeds_differ():
    first, second = step_rows(0, 50, 50, 0), step_rows(1, 50, 50, 0)
    assert first != second
    assert first != step_rows(0, 50, 50, 1)
    assert first == step_rows(0, 50, 50, 0)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_processes_share_a_step_without_gaps_and_agree_on_the_numbers(world, size, accumulation):
    rows = list(range(world * size * accumulation))
    alone = micro_batches(rows, size, lambda row: -row, 0, 1)
    together = [found for rank in range(world) for found in micro_batches(rows, size, lambda row: -row, rank, world)]
    assert sorted(together) == alone
    assert sorted(row for _, found in alone for row in found) == rows


def test_purposes_have_seeds_of_their_own():
    seeds = {derived_seed(0, "noise", step, micro) for step in range(20) for micro in range(20)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)
