"""Is this run at least as good as its baseline? Records in, one verdict a line and an exit code out.

Guarantees that the code 0 means "nothing got worse, as far as this many questions can show", 1 "something did"
and 2 "the two cannot be compared". It accepts missing a harm that is too small for the number of questions: such
a case is printed as a warning with the size of what could hide, and never fails a build by chance.
"""

from harness.regression.check import check, main
from harness.regression.verdicts import Options, Report, Verdict

__all__ = ["Options", "Report", "Verdict", "check", "main"]
