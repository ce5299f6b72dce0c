"""Broken characters: text that was written in one encoding and read in another.

The rules are our own, since ftfy knows no Korean encoding: UTF-8 read as CP949 (臾댁뒯) and CP949 read as Latin-1 (¾È³ç) are what
Korean exports break into. Each rule turns the mistake back and asks whether text comes out, which sound text does not pass.
"""

import re

_BYTES = {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0xA0) if byte not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_REST = rf"[\u0080-\u00bf{''.join(map(re.escape, _BYTES))}]"
_UTF8_AS_LATIN = re.compile(rf"(?:[\u00c2-\u00df]{_REST}|[\u00e0-\u00ef]{_REST}{{2}}|[\u00f0-\u00f4]{_REST}{{3}})")
_PUNCTUATION = frozenset("…‘’“”–—•™«»·°„‚†‡‰‹›€")  # after an accented letter they are punctuation: "CAFÉ…"
_CP949_AS_LATIN = re.compile(r"[\u00a1-\u00fe]{4,}")
_LOST = re.compile(r"\ufffd|[\u0080-\u009f]|(?:(?<!\?)\?{2,}[ ,.]+){3,}")
_HANGUL = re.compile("[가-힣]")
_FOREIGN_TO_HANGUL = re.compile("[\u4e00-\u9fff\uf900-\ufaff?]")
_MOSTLY = 0.3  # share of Hangul among the letters of a text that was turned back as a whole
_FEWEST = 2  # broken characters of a text
_RECOVERED = 0.4  # share of a text's bytes beyond ASCII that become Hangul when UTF-8 read as CP949 is turned back


def repaired(text: str) -> str | None:
    """The text as it was before it was read in a wrong encoding.

    Args:
        text: any string.

    Returns:
        None where it is sound; the text itself where what was lost cannot be brought back.
    """
    if text.isascii():
        return text if _LOST.search(text) else None
    for encoding in ("utf-8", "cp949"):  # a text that is broken as a whole
        whole = _decoded(text, encoding)
        if whole is not None and len(_HANGUL.findall(whole)) >= max(_FEWEST, _MOSTLY * sum(map(str.isalpha, whole))):
            return whole
    found = _UTF8_AS_LATIN.findall(text)
    if len(found) >= _FEWEST and any(not _PUNCTUATION.issuperset(each[1:]) for each in found):
        return _UTF8_AS_LATIN.sub(lambda match: _bytes(match[0]).decode("utf-8", "replace"), text)
    runs = _CP949_AS_LATIN.findall(text)
    if runs:
        changed = _CP949_AS_LATIN.sub(lambda match: _decoded(match[0], "cp949") or match[0], text)
        if len(_HANGUL.findall(changed)) >= _FEWEST + len(_HANGUL.findall(text)):
            return changed
    if _HANGUL.search(text) and _FOREIGN_TO_HANGUL.search(text):
        data = text.encode("cp949", "replace")
        back = data.decode("utf-8", "ignore")
        high = sum(byte > 0x7F for byte in data)
        if 3 * len(_HANGUL.findall(back)) >= max(_RECOVERED * high, 3 * _FEWEST):
            return back
    return text if _LOST.search(text) else None


def _bytes(text: str) -> bytes:
    """The bytes that Latin-1 or CP1252 read as this text."""
    return bytes(_BYTES.get(character, ord(character)) for character in text)


def _decoded(text: str, encoding: str) -> str | None:
    try:
        return _bytes(text).decode(encoding)
    except ValueError:  # also of a character that is no byte
        return None
