"""Many strings held compactly: one Arrow array, a few bytes of overhead a string instead of the fifty of a Python object."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from e5ft.data.text import text_id

BLOCK = 8192  # strings that are Python objects at the same time


class StringColumn(Sequence):
    """An immutable sequence of strings.

    Args:
        values: the strings; read once, may be a generator, or an Arrow string array.
    """

    def __init__(self, values: Iterable[str] | pa.Array = ()):
        self._array = values.cast(pa.large_string()) if isinstance(values, pa.Array) else _build(values)

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, position):
        """The string at a position, or the column of a slice."""
        if isinstance(position, slice):
            start, stop, step = position.indices(len(self))
            if step == 1:
                return StringColumn(self._array.slice(start, max(0, stop - start)))
            return self.take(range(start, stop, step))
        position = range(len(self))[position]  # negative positions and IndexError, as of a list
        return self._array[position].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            yield from self._array.slice(start, BLOCK).to_pylist()

    def __eq__(self, other) -> bool:
        return isinstance(other, StringColumn) and self._array.equals(other._array)

    __hash__ = None

    def take(self, positions: Iterable[int]) -> "StringColumn":
        """The column of the strings at these positions, in their order."""
        return StringColumn(self._array.take(pa.array(np.fromiter(positions, dtype=np.int64))))

    def ascending(self) -> np.ndarray:
        """Positions (n,), int64, that sort the strings by code point; equal ones keep their order."""
        # Arrow compares UTF-8 bytes, whose order is that of the code points and so of Python's strings.
        return pc.sort_indices(self._array).to_numpy().astype(np.int64)

    def positions_of(self, values: Iterable[str]) -> dict[str, int]:
        """The position of each of these strings, the last of several; absent strings are left out."""
        present = pc.is_in(self._array, value_set=_build(dict.fromkeys(values))).to_numpy(zero_copy_only=False)
        return {self[position]: position for position in np.flatnonzero(present).tolist()}


class ColumnBuilder:
    """Collects strings one at a time; at most `BLOCK` of them are Python objects."""

    def __init__(self):
        self._blocks, self._block = [], []

    def append(self, value: str) -> None:
        """Add one string behind the others."""
        self._block.append(value)
        if len(self._block) == BLOCK:
            self._flush()

    def finish(self) -> StringColumn:
        """The column of all strings added."""
        self._flush()
        return StringColumn(pa.concat_arrays(self._blocks))

    def _flush(self) -> None:
        self._blocks.append(pa.array(self._block, type=pa.large_string()))
        self._block = []


class DistinctTexts:
    """Texts, each once by identity, numbered as they come.

    Attributes:
        ids: identity -> number, in that order.
    """

    def __init__(self):
        self.ids: dict[int, int] = {}
        self._texts = ColumnBuilder()

    def add(self, text: str) -> int:
        """The number of a text, a new one if its identity was not there."""
        number = text_id(text)
        if number not in self.ids:
            self.ids[number] = len(self.ids)
            self._texts.append(text)
        return self.ids[number]

    def finish(self) -> StringColumn:
        """The texts in the order of their numbers."""
        return self._texts.finish()


def _build(values: Iterable[str]) -> pa.Array:
    builder = ColumnBuilder()
    for value in values:
        builder.append(value)
    return builder.finish()._array
