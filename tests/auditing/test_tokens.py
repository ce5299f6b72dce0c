"""Lengths by source, in characters and tokens, and what is cut off."""

from e5ft.auditing.rows import AuditedRows
from e5ft.auditing.tokens import lengths_of
from e5ft.data.settings import Columns, Mix, Source
from e5ft.data.sources import join_rows
from e5ft.data.store import load_rows
from e5ft.data.text import TextSpec
from tests.auditing.conftest import row
from tests.conftest import make_tokenizer


def test_tokens_and_what_is_cut_off(make_audited):
    rows = make_audited([row("w1 w2", " ".join(["w3"] * 30), ["w4 w5 w6"]), row("w1", "w3 w4")])
    reads = make_tokenizer(), TextSpec(passage_max_length=16)
    found, too_long = lengths_of(rows, ("",), reads)
    query, document = found[""]["query"], found[""]["document"]
    assert query.tokens == (4, 4, 4, 5, 5, 5) and query.cut == 0  # "query: w1" and two special tokens
    assert document.texts == 2 and document.cut == 0.5 and document.characters[-1] == 89
    assert [(f.kind, f.row, f.field) for f in too_long] == [("too_long", 0, "document")]
    assert found[""]["hard_negative"].total_tokens == 6
    plain, none = lengths_of(rows, ("",), None)
    assert plain[""]["query"].tokens is None and none == []


def test_sources_of_a_mix_are_measured_apart(write_rows, tmp_path):
    texts = {"short": ["가나", "다라"], "long": ["마바사아자차"]}
    files = {name: write_rows([row("물음", text) for text in some], f"{name}.jsonl") for name, some in texts.items()}
    mix = Mix(tuple(Source(name=name, train_file=file, columns=Columns()) for name, file in files.items()), 1.0, False)
    stores = [load_rows(file, Columns(), tmp_path / "cache") for file in files.values()]
    found, _ = lengths_of(AuditedRows(join_rows(mix, stores, 0)), tuple(files), None)
    assert {name: (of["document"].texts, of["document"].characters[-1]) for name, of in found.items()} == {
        "short": (2, 2),
        "long": (1, 6),
    }
