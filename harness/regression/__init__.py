"""Is this run at least as good as its baseline? Records in, one verdict a line and an exit code out.

Guarantees that the code 0 means "shown to be no worse", 1 "something got worse", 2 "the two cannot be compared" and 3
"too few questions to tell". Where only rounding differs between the two, the last is said and fails nothing.
"""

from harness.regression.check import check, main
from harness.regression.verdicts import Options, Report, Verdict

__all__ = ["Options", "Report", "Verdict", "check", "main"]
