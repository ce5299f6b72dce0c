"""Faults of rows, each kind once: how often, and where first."""

from e5ft.data.lines import BadLine, Location

_KINDS, _PLACES = 20, 5  # shown: a screen


class Faults:
    """Counts faults by kind; memory does not grow with their number, and the kinds that are kept are bounded."""

    def __init__(self):
        self._kinds: dict[str, list] = {}  # kind -> [count, the first fault, first places]
        self._others = 0

    def add(self, fault: BadLine) -> None:
        """Count one fault."""
        if fault.kind not in self._kinds:
            if len(self._kinds) == _KINDS:
                self._others += 1
                return
            self._kinds[fault.kind] = [0, fault, []]
        entry = self._kinds[fault.kind]
        entry[0] += 1
        if len(entry[2]) < _PLACES:
            entry[2].append(fault.location)

    def lines(self) -> list[str]:
        """A line for each kind, in the order in which they were met; that of a single fault is its message."""
        lines = [
            str(first) if count == 1 else f"{count:,} rows: {first.words}: {_joined(places)}{', ...' * (count > len(places))}"
            for count, first, places in self._kinds.values()
        ]
        return lines + ([f"... and {self._others:,} more"] if self._others else [])


def _joined(places: list[Location | str]) -> str:
    """Places in one line; a source that was just named is not named again: rows.csv:3, :7."""
    texts, last = [], None
    for place in places:
        source = place.source if isinstance(place, Location) else None
        text = str(place)
        texts.append(text.removeprefix(str(source)).strip() if source is not None and source == last else text)
        last = source
    return ", ".join(texts)
