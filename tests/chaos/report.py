"""What came of hostile inputs: counts by kind, and the first offenders, kept so that each can be tried again."""

import collections
import contextlib
import json
import re
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.chaos.forking import Ended

KEPT = 60  # offenders of one kind
SECONDS = 20  # an input; none takes one
FIELDS = ("tried", "accepted", "refused", "rows_read", "rows_accepted", "rows_rejected", "lost_rows", "tracebacks", "hangs")


class Hang(BaseException):
    """An input took too long."""


class Report:
    """Counts by kind, and a line for each offender kept.

    Args:
        folder: takes the offenders.

    Attributes:
        kinds: kind -> Counter of `FIELDS`. `lost_rows` are records that were neither accepted nor rejected; `tracebacks` count
            every ending that is neither acceptance nor a refusal in words.
        offences: a line an offender; none where all is well.
    """

    def __init__(self, folder: Path):
        self.folder, self.offences = folder, []
        self.kinds: dict[str, Counter] = collections.defaultdict(Counter)

    def check(
        self, kind: str, function: Callable[[], str], what: str, files: Sequence[Path] = (), seconds: float = SECONDS
    ) -> None:
        """Call a function that returns "accepted" or "refused", and count how it ended; any exception is an offence.

        Args:
            kind: of input.
            function: what is tried.
            what: is tried, in words.
            files: of the input, kept if it is an offender.
            seconds: after which it counts as hanging.
        """
        try:
            with deadline(seconds):
                how, detail = function(), ""
        except KeyboardInterrupt:
            raise
        except Hang as error:
            how, detail = "hangs", str(error)
        except BaseException as error:
            how, detail, what = "tracebacks", traceback.format_exc(), f"{type(error).__name__}: {what}"
        self.count(kind, how, what, detail, files)

    def check_ending(
        self, kind: str, ended: Ended, what: str, files: Sequence[Path] = (), codes: Sequence[int] = (0, 2, 3)
    ) -> None:
        """Count a command's ending: 0 is acceptance, other codes of `codes` with a message of ours that says something a refusal."""
        message = re.search(r"^error: .{11,}", ended.output, re.MULTILINE)
        bad = "Traceback" in ended.output or ended.code not in codes or (ended.code and not message)
        how = "hangs" if ended.code is None else "tracebacks" if bad else "refused" if ended.code else "accepted"
        last = (ended.output.strip() or "silent").splitlines()[-1]
        self.count(kind, how, f"ended with {ended.code}: {what[:200]}: {last[:300]}", ended.output, files)

    def count(self, kind: str, how: str, what: str, detail: str, files: Sequence[Path] = ()) -> None:
        """Count one input, and keep it where it offends."""
        self.kinds[kind].update(["tried", how])
        if how not in ("accepted", "refused"):
            self.keep(kind, f"{how}: {what}", detail, files)

    def keep(self, kind: str, what: str, detail: str, files: Sequence[Path] = ()) -> None:
        """Save an offender: what went wrong, the message, and the files that did it."""
        number = sum(line.startswith(f"{kind}: ") for line in self.offences)
        if number >= KEPT:
            return
        folder = self.folder / f"{kind.replace('/', '-').replace(' ', '-')}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            if file.is_dir():
                shutil.copytree(file, folder / file.name, symlinks=True, dirs_exist_ok=True)
            elif file.exists():
                shutil.copy(file, folder / file.name)
        (folder / "what.txt").write_text(f"{what}\n{detail}\n", encoding="utf-8", errors="backslashreplace")
        self.offences.append(f"{kind}: {what} ({folder})")

    @property
    def total(self) -> Counter:
        """The counts over all kinds."""
        return sum(self.kinds.values(), Counter())

    def to_json(self) -> str:
        """For a pipe."""
        return json.dumps([self.kinds, self.offences])

    def add_json(self, text: str) -> None:
        """Take in what `to_json` of another report gave."""
        kinds, offences = json.loads(text)
        for name, counts in kinds.items():
            self.kinds[name].update(counts)
        self.offences += offences

    def table(self) -> list[str]:
        """Lines of Markdown: one a kind, and all together."""
        rows = (
            [name, *(f"{counts[field]:,}" for field in FIELDS)] for name, counts in [*self.kinds.items(), ("all", self.total)]
        )
        return table(["hostile input", *(field.replace("_", " ") for field in FIELDS)], rows)


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise `Hang` when the block takes longer."""

    def ring(number, frame):
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of Markdown; all columns but the first are numbers."""
    first, *rest = ("| " + " | ".join(map(str, row)) + " |" for row in (head, *rows))
    return [first, "|---|" + "---:|" * (len(head) - 1), *rest]
