"""Opening what lies on disk: compressed files by their suffix, and text in any encoding as UTF-8."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import PurePath
from typing import BinaryIO

from e5ft.errors import ConfigurationError, DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_CHUNK = 1 << 16
_OTHERS = {  # how files begin that are no text, whatever their names
    b"\x1f\x8b": "gzip: add .gz to its name",
    b"BZh": "bzip2: add .bz2 to its name",
    b"\xfd7zXZ\0": "xz: add .xz to its name",
    b"\x28\xb5\x2f\xfd": "Zstandard: add .zst to its name",
    b"PK\x03\x04": "a zip archive, as Excel writes: name a workbook .xlsx, unpack another",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save the sheet as .xlsx or CSV UTF-8",
    b"PAR1": "Parquet: name it .parquet",
    b"ARROW1": "Arrow: name it .arrow",
    b"version https://git-lfs": "a pointer of Git LFS: git lfs pull",
    b"<!DOCTYPE": "a web page: fetch the file itself",
    b"<html": "a web page: fetch the file itself",
}
_CONTROLS, _CONTROLS_SHARE = re.compile(rb"[\0-\x08]"), 0.001  # bytes that no text has, and a damaged one seldom
_SAMPLE = 1 << 20  # bytes by which an encoding is recognised
_MARKS = (  # the longer first: UTF-32's begins as UTF-16's
    *((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
    *((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
)


def kind_of(path: str | os.PathLike) -> str:
    """The suffix that says what a file is, in small letters and without that of a compression: .csv of faq.CSV.gz."""
    suffixes = PurePath(path).suffixes
    if suffixes and suffixes[-1].lower() in COMPRESSED:
        suffixes = suffixes[:-1]
    return suffixes[-1].lower() if suffixes else ""


def open_binary(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading its bytes, decompressed as its suffix says; memory does not grow with what it holds.

    Raises:
        DataError: it cannot be opened; while it is read: it is cut off, damaged, or not compressed at all.
    """
    suffix = PurePath(path).suffix.lower()
    try:
        if suffix not in COMPRESSED:
            return open(path, "rb")
        file = _zst(path) if suffix == ".zst" else {".gz": gzip, ".bz2": bz2, ".xz": lzma}[suffix].open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return io.BufferedReader(_Stream(_decompressed(path, file), file))


def _zst(path: str | os.PathLike) -> BinaryIO:
    import pyarrow

    if not pyarrow.Codec.is_available("zstd"):
        raise DataError(f"{path}: this pyarrow reads no .zst; pip install pyarrow, or decompress it: zstd -d FILE")
    return pyarrow.CompressedInputStream(pyarrow.OSFile(os.fspath(path)), "zstd")


def _decompressed(path: str | os.PathLike, file: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be decompressed ({reason}); the file is damaged or cut off: fetch it again") from error


class OtherEncoding(DataError):
    """A file of rows that is in another encoding than UTF-8; `encoding` is the likely one."""

    def __init__(self, message: str, encoding: str):
        super().__init__(message)
        self.encoding = encoding


class _Stream(io.RawIOBase):
    """Chunks of bytes as a file; closing it closes the file they come from."""

    def __init__(self, chunks: Iterator[bytes], file: BinaryIO):
        self._chunks, self._left, self._file = chunks, memoryview(b""), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def open_utf8(path: str | os.PathLike, encoding: str | None = None) -> tuple[BinaryIO, str]:
    """Open a text file as UTF-8 without byte order mark, whatever its encoding.

    Args:
        path: the file, perhaps compressed.
        encoding: `data.encoding`. A byte order mark, and bytes beyond ASCII that are UTF-8 throughout, know better.

    Returns:
        The file, and the encoding that was found where it is not UTF-8, else "".

    Raises:
        ConfigurationError: Python knows no such encoding.
        DataError: it cannot be read; without an encoding: it is all in another than UTF-8; while it is read: a byte that
            does not fit the encoding.
    """
    name = "utf-8" if encoding is None else _known(encoding)
    file = open_binary(path)
    try:
        sample = _read(file, _SAMPLE)
        kind = next((kind for start, kind in _OTHERS.items() if sample.startswith(start)), None)
        if kind is not None:
            raise DataError(f"{path}: no text but {kind}")
        mark, marked = next(((mark, kind) for mark, kind in _MARKS if sample.startswith(mark)), (b"", None))
        if marked is None and name == "utf-8":
            _check_utf8(path, sample)
        if marked is None and _is_utf8(sample) and not sample.isascii():
            name = "utf-8"
    except BaseException:
        file.close()
        raise
    name = marked or name
    if name == "utf-8" and file.seekable():
        file.seek(len(mark))
        return file, ""
    chunks = chain([sample[len(mark) :]], iter(lambda: file.read(_CHUNK), b""))
    if name != "utf-8":
        chunks = _recoded(path, name, chunks)
    found = "" if name == "utf-8" else re.sub("-[BL]E$", "", name.upper())
    return io.BufferedReader(_Stream(chunks, file)), found


def _read(file: BinaryIO, count: int) -> bytes:
    """At most so many bytes; a decompressor gives fewer at a time."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _known(encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
        b"a".decode(codec.name, "replace")  # refuses those that are no text encodings
        codec.incrementaldecoder()
    except (LookupError, TypeError, UnicodeError, ValueError):
        raise ConfigurationError(
            f"data.encoding={encoding}: Python knows no such text encoding; must be a name such as cp949, utf-16, gb18030, cp932"
        ) from None
    return "utf-8" if codec.name == "utf-8-sig" else codec.name


def _recoded(path: str | os.PathLike, encoding: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    decoder, line, started = codecs.getincrementaldecoder(encoding)(), 1, False
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, not chunk)
        except UnicodeError as error:
            bad = getattr(error, "object", b"")[: getattr(error, "start", 0)]
            line += bad.decode(encoding, "replace").count("\n")
            raise DataError(
                f"{path}:{line}: bytes that are not {encoding.upper()}; data.encoding must be the encoding of the whole file; "
                f"if it is, leave out what is broken: iconv -c -f {encoding} -t utf-8 FILE > NEW"
            ) from None
        line += text.count("\n")
        text, started = text if started else text.removeprefix("\ufeff"), started or bool(text)
        yield text.encode("utf-8", "surrogatepass")


def _is_utf8(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # a character cut off at the end is none that does not fit
    except UnicodeDecodeError:
        return False
    return True


def _check_utf8(path: str | os.PathLike, sample: bytes) -> None:
    """Refuse a file none of whose lines beyond ASCII is UTF-8: it is in another encoding, not damaged somewhere.

    Raises:
        DataError: with the likely encoding to type.
    """
    pairs = sample[: len(sample) // 2 * 2]
    for name, nul in (("utf-16-le", pairs[1::2]), ("utf-16-be", pairs[::2])):
        if nul.startswith(b"\0\0") and nul.count(0) > 0.9 * pairs.count(0) > 0.1 * len(pairs):
            raise DataError(f"{path}: UTF-16 without a byte order mark, as it seems; data.encoding={name}")
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    if lines and not _is_utf8(sample) and not any(map(_is_utf8, lines)):
        if len(_CONTROLS.findall(sample)) > _CONTROLS_SHARE * len(sample):
            raise DataError(f"{path}: no text but a binary file, as it seems: it holds control bytes")
        names = Counter(map(likely_encoding, [b"\n".join(lines[at : at + 20]) for at in range(0, len(lines), 20)]))
        name = names.most_common(1)[0][0]  # a few bytes may be broken
        if name is not None:
            raise OtherEncoding(
                f"{path}: not UTF-8 but {name.upper()}, as it seems; data.encoding={name} (of rows), "
                f"or convert it: iconv -f {name} -t utf-8",
                name,
            )


def likely_encoding(sample: bytes) -> str | None:
    """The encoding in which bytes that are not UTF-8 make sense; None where none does.

    Each script's own test: the letters that fill its texts, and that others' bytes seldom give.
    """
    for name, is_plausible in _PLAUSIBLE.items():
        try:
            text = codecs.getincrementaldecoder(name)().decode(sample)
        except UnicodeDecodeError:
            continue
        letters = [c for c in text if c > "\x7f"]
        if (
            letters
            and not any("\x80" <= c <= "\x9f" or "\ue000" <= c <= "\uf8ff" for c in letters)
            and is_plausible(text, letters)
        ):
            return name
    return None


def _share(letters: list[str], first: str, last: str) -> float:
    return sum(first <= c <= last for c in letters) / len(letters)


def _frequent(letters: list[str], encoding: str, first: int, last: int) -> float:
    """The share of a standard's first level: the characters that are common, by their leading byte."""
    return sum(first <= (c.encode(encoding, "replace")[0]) <= last for c in letters) / len(letters)


_PLAUSIBLE = {
    "cp949": lambda text, letters: _share(letters, "가", "힣") > 0.85,
    "cp932": lambda text, letters: _share(letters, "ぁ", "ヿ") > 0.2 and _share(letters, "｡", "ﾟ") < 0.2,
    "euc_jp": lambda text, letters: _share(letters, "ぁ", "ヿ") > 0.2,
    "gb18030": lambda text, letters: _frequent(letters, "gb2312", 0xB0, 0xD7) > 0.75,
    "big5": lambda text, letters: _frequent(letters, "big5", 0xA4, 0xC6) > 0.75,
    "cp1252": lambda text, letters: 4 * len(letters) < len(text) and _share(letters, "À", "ÿ") > 0.5,
    "cp1251": lambda text, letters: 4 * len(letters) > len(text) and _share(letters, "а", "я") > 0.7,
}
