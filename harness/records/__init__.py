"""What a run leaves behind, written so that nothing is lost and read so that nothing is trusted."""

from harness.records.journal import LoadedRun, load_run

__all__ = ["LoadedRun", "load_run"]
