"""Routing: each question goes to one model, by a score that the receiver itself yields.

The receiver's answer entropy decides; a fixed fraction with the highest goes to the sharer. The answers are those of
the two models alone, so nothing is asked again. Its floor is the random router: the same fraction by another
question's entropy, recorded as the control `mismatched`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.records.schema import Sample


def route(
    receiver: Sequence[Sample], sharer: Sequence[Sample], fraction: float, control: str, seed: int
) -> list[Sample]:
    """Composes the routed samples of one task from both models' samples of the same questions."""
    other = {s.doc_id: s for s in sharer}
    both = sorted((s for s in receiver if s.doc_id in other), key=lambda s: s.position)
    scores = [s.entropy if s.entropy is not None else float("inf") for s in both]
    if control == "mismatched":
        random.Random(seed).shuffle(scores)  # noqa: S311 - reproducible, not secret
    order = sorted(range(len(both)), key=lambda i: (-scores[i], both[i].doc_id))
    away = set(order[: round(fraction * len(both))])
    made = []
    for i, own in enumerate(both):
        chosen, name = (other[own.doc_id], "sharer") if i in away else (own, "receiver")
        made.append(chosen.model_copy(update={"channel": "routed", "control": control, "routed_to": name}))
    return made
