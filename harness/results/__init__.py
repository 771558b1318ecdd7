"""From samples and timings to the numbers that are shown: rows, effects, claims, and the frame of all of them.

Everything here is computed from the journals alone and never reads a model, so the terminal, the leaderboards
and the page can only agree. It accepts the cost of computing again over storing what might go stale.
"""

from harness.results.comparisons import Claim, Effect, arms_of, claims, compare, effects
from harness.results.formatting import bytes_text, points_text, seconds_text
from harness.results.frame import COLUMNS, frame
from harness.results.grouping import Facts, facts_of, headline, top_level
from harness.results.summary import SpeedUp, lost_timings, speed_ups, summarise, summarise_run
from harness.results.terminal_table import render_all, render_comparison, render_ranking

__all__ = [
    "COLUMNS",
    "Claim",
    "Effect",
    "Facts",
    "SpeedUp",
    "arms_of",
    "bytes_text",
    "claims",
    "compare",
    "effects",
    "facts_of",
    "frame",
    "headline",
    "lost_timings",
    "points_text",
    "render_all",
    "render_comparison",
    "render_ranking",
    "seconds_text",
    "speed_ups",
    "summarise",
    "summarise_run",
    "top_level",
]
