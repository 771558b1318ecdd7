"""The fast fuser against the plain one that stands beside it."""

from __future__ import annotations

import pytest
import torch

from harness.fusers import checkpoint
from harness.fusers.c2c import Fuser
from harness.fusers.reference import entry_weights, fuse
from tests.support.fuser_reference import FUSERS, GOLDEN, random_fuser, random_input


def assert_equal(fuser: Fuser) -> None:
    torch.manual_seed(3)
    sharer, receiver = random_input(fuser, 5)
    with torch.no_grad():
        found = receiver + fuser(sharer, receiver)
        expected = [
            fuse(entry_weights(fuser.state_dict(), entry), sharer[entry], receiver[entry])
            for entry in range(2 * fuser.layers)
        ]
    torch.testing.assert_close(found, torch.stack(expected), atol=2e-5, rtol=2e-5)
    assert (found - receiver).abs().max() > 0.1


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_random_fusers_of_any_depth(depth: int) -> None:
    assert_equal(random_fuser(num_layers=depth))


@pytest.mark.parametrize("name", FUSERS)
def test_golden_fusers(name: str) -> None:
    fuser = checkpoint.load(GOLDEN / name / "fuser")
    assert isinstance(fuser, Fuser)
    assert_equal(fuser)
