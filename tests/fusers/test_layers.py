from __future__ import annotations

import pytest

from harness.fusers.layer_mapping import k_nearest, last_aligned


def test_last_aligned_pairs_from_the_end() -> None:
    assert last_aligned(4, 3) == ((0, 0), (1, 0), (2, 1), (3, 2))
    assert last_aligned(4, 6) == ((0, 2), (1, 3), (2, 4), (3, 5))
    assert last_aligned(2, 2) == ((0, 0), (1, 1))


def test_k_nearest_goes_by_relative_depth() -> None:
    assert k_nearest(3, 5) == ((0, 0), (1, 2), (2, 4))
    assert k_nearest(5, 3) == ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2))
    assert k_nearest(4, 4) == tuple((layer, layer) for layer in range(4))


@pytest.mark.parametrize("strategy", [last_aligned, k_nearest])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (4, 1), (28, 24), (28, 36)])
def test_every_receiver_layer_reads_an_existing_layer(strategy: object, sizes: tuple[int, int]) -> None:
    assert callable(strategy)
    pairs = strategy(*sizes)
    assert [receiver for receiver, _ in pairs] == list(range(sizes[0]))
    assert all(0 <= sharer < sizes[1] for _, sharer in pairs)
    assert [sharer for _, sharer in pairs] == sorted(sharer for _, sharer in pairs)
