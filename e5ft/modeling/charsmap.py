"""SentencePiece's table of characters (`precompiled_charsmap`), made of a model's own code point map.

XLM-R's table is of 2019. The `sentencepiece` library writes that of its own day: releases 0.2.0 to 0.2.3 keep the zero width joiner,
which XLM-R makes a blank (Hindi has it within words), and map 14 to 173 code points that XLM-R does not know.
"""

import itertools
import struct
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

_LONGEST = 5  # bytes; `tokenizers` looks up a longer cluster of letter and marks character by character


def precompiled_charsmap(code_points: Mapping[str, str]) -> bytes:
    """The table as `tokenizers.normalizers.Precompiled` reads it: NFKC of letters with their marks, and the map.

    Args:
        code_points: character -> what it becomes, perhaps nothing; what is absent stays as it is.

    Returns:
        u32 bytes of the trie, the trie, and the results, each ended by NUL (little endian).

    Source:
        BuildNFKCMap of google/sentencepiece, src/builder.cc; the trie is that of s-yata/darts-clone, a double array.
    """
    return _packed({**_with_marks(code_points), **code_points})


def recomposing(charsmap: bytes) -> bytes:
    """The table with every decomposed letter (NFD: Hangul, kana with marks) as one more entry, that of the composed letter.

    SentencePiece and llama.cpp take the longest entry at each place, so NFD becomes what NFC becomes; `tokenizers` looks
    up no cluster of more than five bytes and reads the table as before. No NFC text holds what is added.

    Args:
        charsmap: as `precompiled_charsmap` makes it.
    """
    rules = _unpacked(charsmap)
    for character in map(chr, range(sys.maxunicode + 1)):
        parts = unicodedata.normalize("NFD", character) if not "\ud800" <= character <= "\udfff" else character
        if parts != character == unicodedata.normalize("NFC", parts):
            rules.setdefault(parts, rules.get(character, character))
    return _packed(rules)


def _packed(rules: Mapping[str, str]) -> bytes:
    places, results = {}, bytearray()
    for result in rules.values():
        if result not in places:
            places[result] = len(results)
            results += result.encode() + b"\0"
    trie = _double_array({text.encode(): places[result] for text, result in rules.items()})
    return struct.pack("<I", trie.nbytes) + trie.tobytes() + bytes(results)


def _unpacked(charsmap: bytes) -> dict[str, str]:
    """The entries of a table, by walking its trie from the root."""
    size = struct.unpack_from("<I", charsmap)[0]
    units, results = np.frombuffer(charsmap, "<u4", size // 4, offset=4).tolist(), charsmap[4 + size :]
    rules, waiting = {}, [(b"", 0, units[0])]
    while waiting:
        key, place, unit = waiting.pop()
        base = place ^ (unit >> 10) << ((unit & 1 << 9) >> 6)  # bit 9: the offset counts in 256
        if unit >> 8 & 1:
            start = units[base] & (1 << 31) - 1
            rules[key.decode()] = results[start : results.index(b"\0", start)].decode()
        children = ((byte, base ^ byte) for byte in range(1, 256) if base ^ byte < len(units))
        waiting += [(key + bytes([byte]), at, units[at]) for byte, at in children if units[at] & (1 << 31 | 0xFF) == byte]
    return rules


def _with_marks(code_points: Mapping[str, str]) -> dict[str, str]:
    """Every short spelling of a composed letter, in whichever characters NFKD takes for its parts, -> the letter."""
    spellings = defaultdict(list)
    for character in code_points:
        spellings[unicodedata.normalize("NFKD", character)].append(character)
    composed = {}
    for number in range(sys.maxunicode + 1):
        parts = unicodedata.normalize("NFKD", chr(number)) if not 0xD800 <= number < 0xE000 else ""
        if not len(parts) >= 2 or len(parts.encode()) > _LONGEST:
            continue
        for spelling in map("".join, itertools.product(*([part, *spellings[part]] for part in parts))):
            whole = unicodedata.normalize("NFKC", spelling)
            if len(spelling.encode()) <= _LONGEST and whole != "".join(code_points.get(part, part) for part in spelling):
                composed[spelling] = whole
    return composed


def _double_array(values: Mapping[bytes, int]) -> np.ndarray:
    """A trie in which the child of a node with base b lies at b XOR byte, and the node's value at b.

    Args:
        values: key -> number below 2^31.

    Returns:
        (n,) little-endian uint32; a unit is base XOR place << 10, whether there is a value << 8, and the byte that leads to it.
    """
    root: dict = {}
    for key, value in values.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[0] = value
    units, bases, first = {0: 0}, set(), defaultdict(lambda: 1)
    waiting = [(0, root)]
    while waiting:
        place, node = waiting.pop()
        children, lead = bytes(node), next(iter(node))
        slot = next(
            slot
            for slot in itertools.count(first[children])
            if slot not in units and slot ^ lead not in bases and not any((slot ^ lead ^ byte) in units for byte in node)
        )
        first[children] = slot  # what was too narrow for these bytes stays so
        base = slot ^ lead
        bases.add(base)
        units[place] |= (base ^ place) << 10 | (0 in node) << 8
        for byte, child in node.items():
            units[base ^ byte] = byte if byte else child | 1 << 31
            if byte:
                waiting.append((base ^ byte, child))
    trie = np.zeros((max(units) | 255) + 1, dtype="<u4")
    trie[list(units)] = list(units.values())
    return trie
