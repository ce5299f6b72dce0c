"""What a check of `doctor=true` found: fine, worth knowing, or in the way; and what to do about it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        state: ok, note (a run can start) or fault (it cannot).
        text: what was found.
        remedy: what to do; empty where nothing is.
    """

    state: str
    text: str
    remedy: str = ""

    def line(self, name: str) -> str:
        """As it is printed: state, the check's name and what was found, aligned."""
        told = f"{self.text}; {self.remedy}" if self.remedy else self.text
        return f"{self.state:<6} {name:<12} {' '.join(told.split())}"


def ok(text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", text)


def note(text: str, remedy: str) -> Finding:
    """A run can start, but a person would want to know."""
    return Finding("note", text, remedy)


def fault(text: str, remedy: str = "") -> Finding:
    """A run would not start."""
    return Finding("fault", text, remedy)
