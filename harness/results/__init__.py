"""From samples and timings to the numbers that are shown: rows, effects, claims, and the frame of all of them.

Everything here is computed from the journals alone and never reads a model, so the terminal, the leaderboards
and the page can only agree. It accepts the cost of computing again over storing what might go stale.
"""

from harness.results.claims import Claim, arms_of, claims, compare
from harness.results.effects import Effect, effects
from harness.results.frame import COLUMNS, frame
from harness.results.groups import Facts, facts_of, headline, top_level
from harness.results.latency import SpeedUp, lost_timings, speed_ups
from harness.results.rows import summarise
from harness.results.table import render_all, render_comparison, render_ranking
from harness.results.wording import bytes_text, points_text, seconds_text

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
    "top_level",
]
