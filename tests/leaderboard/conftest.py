from __future__ import annotations

import pytest

from tests.support.published import few_published, publish_everything

__all__ = ["few_published"]


@pytest.fixture
def everything_published(monkeypatch: pytest.MonkeyPatch) -> None:
    publish_everything(monkeypatch)
