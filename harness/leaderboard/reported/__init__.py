"""Results that others reported: their records, their rows on boards, and the paired tests that their fields allow.

A record keeps letters and keys question by question, never texts, or figures alone where nothing else was published.
Nothing of it was run here, and no row of it is compared with a run of ours.
"""

from harness.leaderboard.reported.adding import add_reported
from harness.leaderboard.reported.board import ReportedBoard
from harness.leaderboard.reported.format import Figure, ReportedArm, ReportedRecord, SourceFile
from harness.leaderboard.reported.reading import Reported, read_reported

__all__ = [
    "Figure",
    "Reported",
    "ReportedArm",
    "ReportedBoard",
    "ReportedRecord",
    "SourceFile",
    "add_reported",
    "read_reported",
]
