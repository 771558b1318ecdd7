"""Settings for every test: one thread, so that sums are formed in one order; no network; the same examples each time.

Imports nothing heavy, because most tests need no torch.
"""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """Leaves what is here for good, such as imported libraries, out of garbage collections.

    Every failed attempt at a batch collects, and would go through some million objects each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["masks", "no-masks"])
def both_attentions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as usual and once as with flash attention, which takes no masks of ours."""
    if request.param == "no-masks":
        for module in ("generate", "forward"):
            monkeypatch.setattr(f"harness.inference.{module}.takes_masks", lambda lm: False)
