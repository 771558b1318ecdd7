"""Boards that are generated from small records, never edited: the same records give the same bytes.

Each record keeps what every interval and paired test needs, question by question, so a board can be recomputed
by anyone who holds the folder. Published figures stand beside ours as "reported, not re-run".
"""

from harness.leaderboard.record_format import export_record
from harness.leaderboard.writing import OWN_PAGE, add_record, check, write, write_own

__all__ = ["OWN_PAGE", "add_record", "check", "export_record", "write", "write_own"]
