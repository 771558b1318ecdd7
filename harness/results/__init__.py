"""From samples and timings to the numbers that are shown: rows, effects and the terminal's table.

Everything here is computed from the journals alone and never reads a model, so the terminal, the leaderboards
and the page can only agree. It accepts the cost of computing again over storing what might go stale.
"""

from harness.results.effects import Effect, effects
from harness.results.groups import Facts, facts_of, headline, top_level
from harness.results.latency import SpeedUp, speed_ups
from harness.results.rows import summarise
from harness.results.table import render_table
from harness.results.wording import bytes_text, points_text, seconds_text

__all__ = [
    "Effect",
    "Facts",
    "SpeedUp",
    "bytes_text",
    "effects",
    "facts_of",
    "headline",
    "points_text",
    "render_table",
    "seconds_text",
    "speed_ups",
    "summarise",
    "top_level",
]
