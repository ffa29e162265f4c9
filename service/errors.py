"""One tree of errors: the class says what to do, the text says which value and which limit.

`code` is stable and machine-readable (it is stored with the job and shown to the administrator); `next_action` tells a
person what to change. No text holds a patient's value: name the attribute, not its content.
"""


def installing(extra: str) -> str:
    """Return what brings the packages of an extra; Carpus is on no package index, so a name alone would not."""
    return f"in the clone that Carpus was installed from: pip install --constraint constraints.txt '.[{extra}]'"


class CarpusError(Exception):
    """Everything this service raises on purpose."""

    code = "carpus-error"

    def __init__(self, text: str, *, code: str | None = None, next_action: str = "") -> None:
        """Keep the text, the stable code and what a person should do about it."""
        super().__init__(text)
        if code is not None:
            self.code = code
        self.next_action = next_action


class Retryable(CarpusError):
    """The same call may succeed later: a peer is away, the disk was full for a moment."""

    code = "retryable"


class Postponed(Retryable):
    """Not tried, because it is known that it would be in vain now; no attempt is counted."""

    code = "postponed"

    def __init__(self, text: str, *, seconds: float, code: str | None = None, next_action: str = "") -> None:
        """Keep besides the rest after how many seconds to look again."""
        super().__init__(text, code=code, next_action=next_action)
        self.seconds = seconds


class Permanent(CarpusError):
    """The same call will fail again until somebody changes something."""

    code = "permanent"


class InvalidConfiguration(Permanent):
    """A setting is missing, malformed or unsafe."""

    code = "invalid-configuration"


class InvalidInstance(Permanent):
    """A received instance cannot be used; it is kept in quarantine with this cause."""

    code = "invalid-instance"
