"""Files opened for reading, compressed ones by their suffix."""

import bz2
import gzip
import io
import lzma
import os
from pathlib import Path
from typing import BinaryIO

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def open_binary(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading bytes; one whose name ends in .gz, .bz2, .xz or .zst is decompressed while it is read.

    Raises:
        OSError: it cannot be opened. Reading a damaged or cut one raises this or what the decompressor's library has for it.
    """
    openers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstandard}
    return openers.get(Path(path).suffix.lower(), open)(os.fspath(path), "rb")


def _open_zstandard(path: str, mode: str) -> BinaryIO:
    import pyarrow  # not the package zstandard, whose reader takes a cut file for a whole one

    return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
