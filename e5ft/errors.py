"""The errors a person can mend, and the exit code that each becomes (the scripts' wrapper reads `exit_code`).

This is the codes' one home; docs/configuration.md has them as a table.
"""


class E5ftError(Exception):
    """Base of every error whose message alone tells the user what to do; shown without a traceback."""

    exit_code = 1


class ConfigurationError(E5ftError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""

    exit_code = 2


class ResumeRefusedError(ConfigurationError):
    """A run cannot be resumed as asked, because what is there is of another training; it stays as it was."""


class DataError(E5ftError):
    """An input file or data set cannot be used; the message names the place, the value and the remedy."""

    exit_code = 3


class NonFiniteError(E5ftError):
    """Training became NaN or infinite; the weights were left as they were before the step."""

    exit_code = 4


class OutOfMemoryError(E5ftError):
    """Memory did not suffice; the message names settings that take less and leave the step's meaning as it is."""

    exit_code = 5


class TerminatedError(E5ftError):
    """SIGTERM arrived; a checkpoint was written at the end of the step."""

    exit_code = 143


class StorageError(E5ftError):
    """The disk did not take what had to be written; what was complete before is still there."""

    exit_code = 6


class ExportError(E5ftError):
    """The exported folder does not give the vectors it should; nothing is left at the target."""


class VerdictError(E5ftError):
    """The run is complete, but its verdict is not the one that `require` demands."""

    exit_code = 7


class ServedWrongError(E5ftError):
    """The check is complete, and what it looked at gives other vectors than the exported model."""

    exit_code = 8


class AuditError(E5ftError):
    """The audit is complete, and with strict=true rows have faults that are certain."""

    exit_code = 9
