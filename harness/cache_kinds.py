"""Which kinds of cache layers transformers makes for a configuration, as far as they are not plain keys and values."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_PLAIN = (DynamicLayer, DynamicSlidingWindowLayer)


def unusual_cache(config: Any) -> str | None:
    """Says what the layers of a model keep besides plain keys and values; None where that is all.

    Args:
        config: of the text part.
    """
    try:
        kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    except Exception as error:
        return f"transformers makes no cache for it ({type(error).__name__})"
    other = sorted(kind.__name__ for kind in kinds if kind not in _PLAIN)
    return f"its cache is not plain keys and values but {' and '.join(other)}" if other else None
