"""The short answer: at most eight rows, best first, and one sentence on what the best channel is worth."""

from __future__ import annotations

import pandas as pd

from harness.results.claims import has_message
from harness.results.groups import RECEIVER
from harness.results.wording import arm_text

MOST_ROWS = 8
# Upper bound of both models: nobody can choose it, so it is no baseline to beat.
_NO_BASELINES = ("oracle",)


def ranking(rows: pd.DataFrame, most: int = MOST_ROWS) -> pd.DataFrame:
    """Selects the receiver, the best baseline and the channels with a message, best first.

    Args:
        rows: of one task and pair, as `harness.results.frame` gives them.
        most: rows to keep; the receiver and the best baseline stay, the weakest channels go.
    """
    own = rows[rows["control"] == ""].sort_values("accuracy", ascending=False, kind="stable")
    message = own["channel"].map(has_message).astype(bool)
    receiver = own[own["arm"] == arm_text(*RECEIVER)]
    baselines = own[~message & ~own["arm"].isin([arm_text(*RECEIVER), *_NO_BASELINES])]
    held = pd.concat([receiver.head(1), baselines.head(1)])
    chosen = pd.concat([held, own[message].head(most - len(held))])
    best_first: pd.DataFrame = chosen.sort_values("accuracy", ascending=False, kind="stable")
    return best_first


def verdict_sentence(rows: pd.DataFrame) -> str:
    """Returns the sentence of the best channel with a message; empty without such a channel.

    Args:
        rows: of one task and pair.
    """
    judged = rows[rows["verdict"] != ""].sort_values("accuracy", ascending=False, kind="stable")
    return "" if judged.empty else str(judged.iloc[0]["verdict_text"])
