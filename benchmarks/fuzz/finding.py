"""What should not have happened."""

from collections import Counter
from dataclasses import dataclass, field


class Finding(Exception):
    """One thing that should not have happened; equal signatures are one finding."""

    def __init__(self, signature: str, case: str) -> None:
        """Keep what it is and how to repeat it."""
        super().__init__(f"{signature}: {case}")
        self.signature = signature
        self.case = case


class Late(Finding):
    """An answer that did not come in time: a finding only when it does not come again, for a busy machine answers late, too."""


@dataclass
class Tally:
    """What came of the cases of one target."""

    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)  # signature: cases
    late: int = 0  # answers that did not come in time,
    late_again: int = 0  # and of these, those that did not when the case was sent again alone

    def found(self, finding: Finding) -> None:
        """Keep a finding; of each kind the first three cases."""
        cases = self.findings.setdefault(finding.signature, [])
        if len(cases) < 3:
            cases.append(finding.case)
