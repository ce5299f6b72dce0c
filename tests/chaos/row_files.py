"""Files of rows as users hand them over by mistake or malice: structured ones from hypothesis, and real ones damaged."""

import csv
import gzip
import io
import json
import random
import unicodedata
from functools import cache
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from hypothesis import strategies as st

from tests.chaos.forking import ROOT

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
NAMES = ("query", "document", "hard_negative", "scores")
SAMPLE = ROOT / "data" / "sample" / "train.jsonl"

NASTY = (
    *("", " ", "\u3000", "\x00", "a\x00b", "\ud800", "\udcff", "\ufeff", "\u202egpj", "\x1b[31m", "\x85", "\u2028", "q\rq"),
    *("q\nq", "[", '["a"', '["a", "b"]', '["a", null]', "NaN", "null", "None", '"', '""', ",", "\t", "[1, 2", "[1e999]"),
    *('{"doc_id": 1}', unicodedata.normalize("NFD", "한국어 임베딩"), "가" * 3000, "a\u0301" * 2000, "\u0315\u0300" * 300),
    "q" * 140_000,
)
RAW = (
    *("NaN", "-Infinity", "1e999", "-0.0", "1" * 400, "1" * 5000, "1e308", "true", "null", "{}", "[]", '"\\ud800"', '"\\u0000"'),
    *("[" * 300 + "]" * 300, "[" * 990 + "]" * 990, "[" * 20_000, '{"a":' * 900 + "1" + "}" * 900, '["d", ["e"]]', '"unclosed'),
    *("[0.5]", "[0.5, 1e39]", "[1" + "0" * 400 + "]", "[NaN, 1]", "[true]", '"[1, 2]"', "'single'", "undefined", "0x10", "01"),
)
TEXTS = (
    st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(["질의", "문서", "d"])
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, -(2**63), 10**400, 1e39, -1e308])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["doc_id", "text", "\ud800"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from([*NAMES, *NAMES, "hard_negatives", "mining", "", "Query", "\ud800", "q" * 1000])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=len(repr(value)) % 2 == 0)


_PAIRS = st.lists(st.tuples(KEYS.map(_json), st.sampled_from(RAW) | VALUES.map(_json)), max_size=5)
_PLAIN = st.sampled_from(["질의", "어떻게 하나요?", "which moth", "문서 1", "[a] b"])
_GOOD = st.fixed_dictionaries(
    {"query": _PLAIN, "document": st.sampled_from(["문서", "a document", ["d1", "d2"]])},
    optional={"hard_negative": st.sampled_from([None, "n", ["n1", "n2"], []]), "mining": VALUES},
).map(_json)
_LIKELY = st.fixed_dictionaries(
    {"query": TEXTS, "document": TEXTS | st.lists(TEXTS, max_size=3)},
    optional={"hard_negative": TEXTS | VALUES, "scores": st.lists(NUMBERS, max_size=4) | VALUES},
).map(_json)
_PAIRED = _PAIRS.map(lambda pairs: "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}")
_LINES = _GOOD | _GOOD | _LIKELY | _PAIRED | st.sampled_from(RAW)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\n\n", "\r", "\n \t\n", ""])
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32-le", "cp949", "latin-1", "gzip"])


def _encoded(text: str, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    return text.encode(encoding, errors)


JSON_FILES = st.builds(
    lambda lines, end, encoding: (_encoded(end.join(lines) + end, encoding), None),
    *(st.lists(_LINES, min_size=1, max_size=4), ENDS, ENCODINGS),
)
_HEADERS = "query document|query document hard_negative|query document hard_negative scores|document query hard_negative|query|\
query query|질의 문서|query document |\ufeffquery document|q\0 document"
HEADERS = st.sampled_from([header.split(" ") for header in _HEADERS.split("|")])
CELLS = _PLAIN | _PLAIN | TEXTS | NUMBERS.map(str) | st.lists(TEXTS | NUMBERS, max_size=3).map(_json)


@st.composite
def tables(draw, delimiter: str) -> tuple[bytes, int | None]:
    """A CSV or TSV file as a program would write it, and how many rows it holds (None where a cell is too long to be one)."""
    header = draw(HEADERS)
    width = st.sampled_from([len(header)] * 9 + [1, 2, 5])
    rows = draw(st.lists(width.flatmap(lambda n: st.lists(CELLS, min_size=n, max_size=n)), max_size=4))
    text, all_quoted = io.StringIO(), draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
    writer.writerows([header, *rows])
    encoding = draw(ENCODINGS)
    cells = [cell for row in rows for cell in row]
    # Python's own writer leaves a line end of another kind than its own unquoted.
    tame = all_quoted or not any("\r" in cell or "\n" in cell for cell in cells)
    countable = encoding == "utf-8" and tame and all(len(cell) < 100_000 for cell in cells)
    filled = sum(any(cell.strip() for cell in row) for row in rows)  # blank ones are nothing
    return _encoded(text.getvalue(), encoding), filled if countable else None


_CLEAN = _PLAIN | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
_TYPES = {
    pa.string(): st.none() | _CLEAN,
    pa.list_(pa.string()): st.none() | st.lists(st.none() | _CLEAN, max_size=3),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.list_(pa.float64()): st.none() | st.lists(st.none() | st.floats(), max_size=4),
    pa.binary(): st.none() | st.binary(max_size=4),
    pa.timestamp("ns"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.timestamp("s", "Nowhere/Land"): st.none() | st.integers(-(2**40), 2**40),
    pa.date64(): st.none() | st.integers(-(2**62), 2**62),
    pa.duration("us"): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.float16(): st.none() | st.just(0.5),
    pa.struct({"doc_id": pa.int64()}): st.none() | st.fixed_dictionaries({"doc_id": st.just(1)}),
    pa.list_(pa.list_(pa.string())): st.none() | st.lists(st.lists(_CLEAN, max_size=2), max_size=2),
    pa.dictionary(pa.int32(), pa.string()): st.none() | _CLEAN,
    pa.null(): st.none(),
}


@st.composite
def parquet_files(draw) -> tuple[bytes, int]:
    """A Parquet file of likely and unlikely types, and how many rows it holds."""
    names = draw(st.sampled_from([("query", "document"), ("query", "document", "hard_negative"), NAMES, ("query",), ("q", "q")]))
    count = draw(st.integers(0, 4))
    likely = {
        "query": [pa.string()] * 30,
        "document": [pa.string(), pa.list_(pa.string())] * 15,
        "scores": [pa.list_(pa.float64())],
    }
    arrays = []
    for name in names:
        kind = draw(st.sampled_from([*likely.get(name, []), *_TYPES]))
        values = draw(st.lists(_TYPES[kind], min_size=count, max_size=count))
        if pa.types.is_timestamp(kind) or pa.types.is_date64(kind) or pa.types.is_duration(kind):
            arrays.append(pa.array(values, pa.int64()).cast(kind))
        else:
            arrays.append(pa.array(values, kind))
    sink = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pa.Table.from_arrays(arrays, list(names)), sink)
    except (pa.ArrowException, ValueError, NotImplementedError):  # a type that Parquet has not
        return b"PAR1", 0
    return sink.getvalue(), count


def _listed(value: object) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _cell(value: object) -> str:
    return "" if value is None or value == [] else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@cache
def good_files() -> dict[str, bytes]:
    """Suffix -> a good file: the shipped sample's first rows, some with lists and a teacher's scores."""
    with open(SAMPLE, encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, 12)]
    rows = [{"query": row["query"], "document": row["document"], "hard_negative": row.get("hard_negative")} for row in rows]
    for number, row in enumerate(rows):
        row["document"] = [row["document"]] if number % 3 == 0 and isinstance(row["document"], str) else row["document"]
        count = (len(row["document"]) if isinstance(row["document"], list) else 1) + len(_listed(row["hard_negative"]))
        row["scores"] = [0.5 + i for i in range(count)] if number % 4 == 0 else None
    lines = "".join(json.dumps(row, ensure_ascii=number % 5 == 0) + "\n" for number, row in enumerate(rows)).encode()
    columns = {name: [_listed(row[name]) if name != "query" else row[name] for row in rows] for name in NAMES[:3]}
    columns["scores"] = [row["scores"] for row in rows]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), sink, row_group_size=5)
    files = {".jsonl": lines, ".json": lines, ".parquet": sink.getvalue()}
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerow(NAMES)
        writer.writerows([[_cell(row[name]) for name in NAMES] for row in rows])
        files[suffix] = text.getvalue().encode()
    return files


def damaged(generator: random.Random) -> tuple[str, bytes]:
    """A suffix and a good file of that kind, or of another, with one to four damages."""
    files = good_files()
    suffix = generator.choice(SUFFIXES)
    content = files[suffix if generator.random() < 0.95 else generator.choice(SUFFIXES)]
    for _ in range(generator.randint(1, 4)):
        content = damage(generator, content)
    return suffix, content


_PIECES = (
    *(b"\n", b"\r\n", b"\r", b'"', b",", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b"null", b"NaN"),
    *(b"\\u", b"\\ud800", b"\xed\xa0\x80", b'"query"', b"1" * 500, b"[" * 2000, b" " * 2000, b"x" * 140_000, b"PAR1"),
    b"\xcc\x95\xcc\x80" * 3000,
)
_DAMAGE = ("flip", "flip", "cut", "remove", "insert", "insert", "splice", "double", "encode", "ends", "zero", "shuffle")


def damage(generator: random.Random, content: bytes) -> bytes:
    """A file's content with one damage."""
    kind, start = generator.choice(_DAMAGE), generator.randint(0, len(content))
    stop = min(len(content), start + generator.choice([1, 2, 8, 60, 400]))
    before, taken, after = content[:start], content[start:stop], content[stop:]
    if kind == "encode":
        encoding = generator.choice(["cp949", "utf-16", "utf-16-le", "utf-8-sig", "euc-jp", "gzip"])
        return _encoded(content.decode("utf-8", "replace"), encoding)
    if kind == "ends":
        return content.replace(b"\n", generator.choice([b"\r\n", b"\r", b"\n\n", b"", b"\n\r"]))
    if kind == "shuffle":
        lines = content.splitlines(keepends=True)
        return b"".join(generator.sample(lines, len(lines)))
    if kind == "splice":
        other = generator.choice(list(good_files().values()))
        first = generator.randint(0, len(other))
        return before + other[first : first + 500] + taken + after
    return {
        "flip": before + bytes([taken[0] ^ (1 << generator.randrange(8))]) + content[start + 1 :] if taken else content,
        "cut": before,
        "remove": before + after,
        "insert": before + generator.choice(_PIECES) + taken + after,
        "double": before + taken + taken + after,
        "zero": before + bytes(len(taken)) + after,
    }[kind]


def write(folder: Path, suffix: str, content: bytes) -> Path:
    """The case's file."""
    path = folder / f"case{suffix}"
    path.write_bytes(content)
    return path
