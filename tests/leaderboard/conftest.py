from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.published import publish_everything, publish_few


@pytest.fixture(scope="package", autouse=True)
def few_published() -> Iterator[None]:
    """Boards of this folder are small, but for tests that ask for everything."""
    with pytest.MonkeyPatch.context() as patch:
        publish_few(patch)
        yield


@pytest.fixture
def everything_published(monkeypatch: pytest.MonkeyPatch) -> None:
    publish_everything(monkeypatch)
