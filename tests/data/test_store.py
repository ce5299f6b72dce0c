"""Rows and tokens on disk: counted, cached by content, written whole or not at all, by one process."""

import errno
import gzip
import json
import multiprocessing
from pathlib import Path

import datasets
import numpy as np
import pytest

from e5ft.data import store as store_module
from e5ft.data.lines import Location
from e5ft.data.rows import Row
from e5ft.data.settings import Columns
from e5ft.data.store import limited_rows, load_rows, tokenize_rows
from e5ft.data.text import TextSpec, text_id
from e5ft.errors import DataError, StorageError
from tests.conftest import damage, make_encoder, make_rows, make_tokenizer

GOOD = '{"query": "q", "document": "d"}'
BAD = '{"query": "q", "document": ""}'
SHORT = TextSpec(query_max_length=6, passage_max_length=8)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def write_lines(tmp_path):
    def write(*lines: str) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    return write


def folders(cache: Path) -> list[str]:
    """What a cache holds beside its locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def forbid(monkeypatch, name: str) -> None:
    """Make a function of the store fail the test when it is called: what it gives must come from the cache."""
    monkeypatch.setattr(store_module, name, lambda *args, **kwargs: pytest.fail(f"{name} was called"))


# -- rows --------------------------------------------------------------------------------------------------------------------


def test_rows_come_back_with_their_places_and_identities(write_lines, cache):
    second = {"query": " 질의 ", "document": ["d1", "d2"], "hard_negative": ["n"]}
    store = load_rows(write_lines(GOOD, "", json.dumps(second)), Columns(), cache)
    assert list(store) == [Row("q", ("d",)), Row(" 질의 ", ("d1", "d2"), ("n",))]
    assert store.rows["line"][:] == [1, 3]
    assert store.rows["query_id"][:] == [text_id("q"), text_id("질의")]
    assert store.rows["positive_ids"][:] == [[text_id("d")], [text_id("d1"), text_id("d2")]]
    assert store.rows["negative_ids"][:] == [[], [text_id("n")]]
    assert (store.read, store.rejected, store.faults) == (2, 0, ())


def test_bad_rows_fail_with_all_their_places(write_lines, cache):
    path = write_lines(GOOD, BAD, GOOD, "{")
    with pytest.raises(DataError) as caught:
        load_rows(path, Columns(), cache)
    assert str(caught.value).splitlines() == [
        "2 of 4 rows cannot be used:",
        f"  {path}:2: document is blank",
        f"  {path}:4: not JSON (Expecting property name enclosed in double quotes): '{{'",
        "Mend the rows, or leave them out with data.on_bad_row=skip.",
    ]


def test_bad_rows_are_left_out_and_counted(write_lines, cache, caplog):
    path = write_lines(GOOD, BAD, GOOD.replace('"q"', '"r"'), "{")
    store = load_rows(path, Columns(), cache, on_bad_row="skip")
    assert [row.query for row in store] == ["q", "r"]
    assert (store.read, store.rejected) == (4, 2)
    assert f"{path}:2: document is blank" in caplog.text
    assert store.rows["line"][:] == [1, 3]


@pytest.mark.parametrize("bad", [0, 6, 1500])
def test_accepted_and_rejected_are_what_was_read(bad, write_lines, cache):
    """Also across the batches of 1,000 in which rows are written; faults of one kind are one line with its first places."""
    store = load_rows(write_lines(*[GOOD] * 1200, *[BAD] * bad), Columns(), cache, on_bad_row="skip")
    assert (len(store.rows), store.rejected, store.read) == (1200, bad, 1200 + bad)
    if bad:
        with pytest.raises(
            DataError, match=rf"\n  {bad:,} rows: document is blank: {store.source}:1201, :1202, :1203, :1204, :1205, \.\.\.\n"
        ):
            load_rows(store.source, Columns(), cache)


@pytest.mark.parametrize("on_bad_row", ["fail", "skip"])
def test_no_good_row_at_all_is_refused(on_bad_row, write_lines, cache):
    path = write_lines(BAD)
    with pytest.raises(DataError, match=f"1 of 1 rows cannot be used:\n  {path}:1: document is blank\n"):
        load_rows(path, Columns(), cache, on_bad_row=on_bad_row)


def test_the_same_file_is_read_once(write_lines, cache, monkeypatch):
    path = write_lines(GOOD, BAD)
    first = load_rows(path, Columns(), cache, on_bad_row="skip")
    forbid(monkeypatch, "read_rows")
    again = load_rows(path, Columns(), cache, on_bad_row="skip")
    assert list(again) == list(first)
    assert (again.digest, again.read, again.rejected, again.faults) == (first.digest, 2, 1, first.faults)
    with pytest.raises(DataError, match="document is blank"):  # the cache does not forget that there were bad rows
        load_rows(path, Columns(), cache)


def test_an_edited_file_and_another_mapping_are_read_again(write_lines, cache):
    path = write_lines(GOOD)
    first = load_rows(path, Columns(), cache)
    Path(path).write_text(GOOD.replace('"d"', '"e"'), encoding="utf-8")  # as long as before, and perhaps as old
    edited = load_rows(path, Columns(), cache)
    assert [row.positives for row in (*first, *edited)] == [("d",), ("e",)]
    assert first.digest != edited.digest
    swapped = load_rows(path, Columns("document", "query"), cache)
    assert list(swapped) == [Row("e", ("q",))]


def test_a_file_that_changes_while_it_is_read_is_refused(write_lines, cache, monkeypatch):
    """Else its new rows would be found under the digest of the old ones for ever."""
    path, read_rows = write_lines(GOOD), store_module.read_rows

    def edited(*args):
        Path(path).write_text(GOOD.replace('"d"', '"e"'))
        return read_rows(*args)

    with monkeypatch.context() as patch, pytest.raises(DataError, match="rows.jsonl: changed while it was read; start again"):
        patch.setattr(store_module, "read_rows", edited)
        load_rows(path, Columns(), cache)
    assert folders(cache) == []


def test_rows_of_several_files_know_theirs(tmp_path, cache, monkeypatch):
    """Also read from the cache, and in a choice; what was understood is told again."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.jsonl").write_text(f"{GOOD}\n\n{GOOD}\n")
    (tmp_path / "s" / "b.csv.gz").write_bytes(gzip.compress('query;document\n"질\n의";d\n;\nr;e\n'.encode()))
    source = (str(tmp_path / "s" / "a.jsonl"), str(tmp_path / "s" / "b.csv.gz"))

    def check() -> str:
        store = load_rows(source, Columns(), cache)
        assert [store.place(row).rpartition("/")[2] for row in range(4)] == [
            *("a.jsonl:1", "a.jsonl:3", "b.csv.gz:2", "b.csv.gz:5 (row 4)"),
        ]  # fmt: skip
        assert store.select(np.array([3])).place(0).endswith("b.csv.gz:5 (row 4)")
        assert store.source == f"{source[0]} and 1 more"
        assert [text.removeprefix(f"{store.source}: ") for label, text in store.notes if label == "read"] == [
            *("2 files, a.jsonl to b.csv.gz", "separator ';'", "1 blank row left out"),
        ]  # fmt: skip
        return store.digest

    digest = check()
    with monkeypatch.context() as patch:
        forbid(patch, "read_rows")
        assert check() == digest
    (tmp_path / "s" / "a.jsonl").write_text(f"{GOOD}\n\n{GOOD.replace('d', 'x')}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:3: "):
        check()


def test_every_file_is_watched_while_it_is_read(tmp_path, cache, monkeypatch):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(GOOD)
    read_rows = store_module.read_rows

    def edited(*args):
        (tmp_path / "b.jsonl").write_text(GOOD.replace('"d"', '"e"'))
        return read_rows(*args)

    monkeypatch.setattr(store_module, "read_rows", edited)
    with pytest.raises(DataError, match=r"b\.jsonl: changed while it was read; start again"):
        load_rows(str(tmp_path / "*.jsonl"), Columns(), cache)


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, MemoryError])
def test_an_interrupted_store_leaves_nothing_behind(error, write_lines, cache, monkeypatch):
    path = write_lines(*[GOOD] * 1500)

    def interrupted(*args):
        yield from ((Location(path, number), Row("q", ("d",))) for number in range(1, 1200))
        raise error("stop")

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(store_module, "read_rows", interrupted)
        load_rows(path, Columns(), cache)
    assert folders(cache) == []
    assert len(load_rows(path, Columns(), cache).rows) == 1500


def test_a_hub_data_set_is_read_anew_and_its_tokens_follow_its_content(cache, monkeypatch):
    """A name says nothing about the content: rows that changed on the hub must not meet the tokens of the old ones."""
    rows = [{"query": "w1", "document": "w2"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: datasets.Dataset.from_list(rows))
    first = load_rows("someone/rows", Columns(), cache)
    old = tokenize_rows(first, make_tokenizer(), TextSpec(), cache)
    assert load_rows("someone/rows", Columns(), cache).digest == first.digest
    rows[0]["query"] = "w3"
    second = load_rows("someone/rows", Columns(), cache)
    new = tokenize_rows(second, make_tokenizer(), TextSpec(), cache)
    assert [row.query for row in second] == ["w3"]
    assert new.tokens["query"][:] != old.tokens["query"][:]


def test_a_selection_has_its_own_digest(make_store):
    """Its order too, and what stands beyond the first rows: tokens are cached under it."""
    store = make_store(make_rows(1200))
    order = np.arange(1200)
    late_swap = np.concatenate([order[:-2], [1199, 1198]])
    selections = [store, *(store.select(indices) for indices in (order, order[::-1], late_swap, order[:-1]))]
    assert len({selection.digest for selection in selections}) == len(selections)
    assert store.select(order).digest == store.select(order.astype(np.int32)).digest
    assert [row.query for row in store.select(late_swap)][-1] == list(store)[1198].query


def test_a_limit_is_a_seeded_choice_in_order_and_the_same_of_a_list(make_store):
    store = make_store(make_rows(50))
    chosen = store.limited(20, 3)
    expected = np.sort(np.random.default_rng(3).permutation(50)[:20])
    assert chosen.digest == store.select(expected).digest and limited_rows(list(store), 20, 3) == list(chosen)
    assert store.limited(None, 3) is store.limited(50, 3) is store


# -- tokens ------------------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_encoder_text_by_text(make_store, cache):
    encoder = make_encoder()
    store = make_store(make_rows(1100))
    tokens = tokenize_rows(store, encoder.tokenizer, encoder.spec.text, cache)
    assert len(tokens.tokens) == len(tokens.lengths) == 1100
    for i in (0, 1, 7, 999, 1000, 1099):  # both sides of the batch's border
        row, found = store.rows[i], tokens.tokens[i]
        assert found["query"] == encoder.tokenize([row["query"]], "query")[0]
        assert found["positives"] == [encoder.tokenize([text], "passage")[0] for text in row["positives"]]
        assert found["negatives"] == [encoder.tokenize([text], "passage")[0] for text in row["negatives"]]
        assert tokens.lengths[i] == sum(map(len, [found["query"], *found["positives"], *found["negatives"]]))
    assert tokens.total_tokens == int(tokens.lengths.sum())


def test_texts_and_truncated_texts_are_counted_exactly(make_store, cache):
    tokenizer = make_tokenizer()
    store = make_store(make_rows(60))
    tokens = tokenize_rows(store, tokenizer, SHORT, cache)
    queries = [row.query for row in store]
    passages = [text for row in store for text in (*row.positives, *row.negatives)]
    whole = [(len(tokenizer(SHORT.query(text))["input_ids"]), 6) for text in queries]
    whole += [(len(tokenizer(SHORT.passage(text))["input_ids"]), 8) for text in passages]
    assert tokens.texts == len(whole)
    assert tokens.truncated == sum(length > limit for length, limit in whole)
    assert any(length == limit for length, limit in whole)  # one that just fits is not truncated
    assert tokens.total_tokens == sum(min(length, limit) for length, limit in whole)


def test_one_text_over_the_limit_is_one_truncated_text(make_store, cache):
    """passage: w1 .. w5 with two special tokens is 8 long; however far beyond, a text counts once."""
    words = [" ".join(["w1"] * count) for count in (4, 5, 6, 40)]
    store = make_store([{"query": "w1", "document": words}])
    assert tokenize_rows(store, make_tokenizer(), SHORT, cache).truncated == 2


def test_tokens_are_made_once(make_store, cache, monkeypatch):
    store = make_store(make_rows(20))
    tokenizer = make_tokenizer()
    first = tokenize_rows(store, tokenizer, SHORT, cache)
    forbid(monkeypatch, "tokenize")
    again = tokenize_rows(store, make_tokenizer(), SHORT, cache)
    assert again.tokens[:] == first.tokens[:]
    assert (again.texts, again.truncated, again.total_tokens) == (first.texts, first.truncated, first.total_tokens)


def test_what_a_tokenizer_did_before_does_not_make_tokens_anew(make_store, cache, monkeypatch):
    """It keeps the truncation and padding of its last call. Processes differ in that, but must look in the same folder."""
    store = make_store(make_rows(20))
    tokenize_rows(store, make_tokenizer(), SHORT, cache)
    forbid(monkeypatch, "tokenize")
    used = make_tokenizer()
    used(["w1", "w1 w2 w3 w4"], truncation=True, max_length=5, padding=True)
    tokenize_rows(store, used, SHORT, cache)


def test_another_contract_another_tokenizer_and_other_rows_make_tokens_anew(make_store, cache):
    store = make_store(make_rows(20))
    larger = make_tokenizer()
    larger.add_tokens(["w1 w2"])
    left = make_tokenizer()
    left.truncation_side = "left"
    for number, (rows, tokenizer, text) in enumerate(
        [
            (store, make_tokenizer(), SHORT),
            (store, make_tokenizer(), TextSpec()),
            (store, make_tokenizer(), TextSpec(query_prefix="", query_max_length=6, passage_max_length=8)),
            (store, larger, SHORT),
            (store, left, SHORT),
            (store.select(np.arange(10)), make_tokenizer(), SHORT),
        ],
        start=1,
    ):
        tokenize_rows(rows, tokenizer, text, cache)
        assert sum(name.startswith("tokens-") for name in folders(cache)) == number


def test_interrupted_tokenising_leaves_nothing_behind(make_store, cache, monkeypatch):
    store = make_store(make_rows(20))
    before = folders(cache)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store_module, "tokenize", interrupted)
        tokenize_rows(store, make_tokenizer(), TextSpec(), cache)
    assert folders(cache) == before
    assert len(tokenize_rows(store, make_tokenizer(), TextSpec(), cache).tokens) == 20


# -- damage ------------------------------------------------------------------------------------------------------------------


def rows_of(path: str, cache: Path) -> list:
    return load_rows(path, Columns(), cache).rows[:]


def entry(cache: Path, kind: str) -> Path:
    (folder,) = (path for path in cache.glob(f"{kind}-*") if path.is_dir())
    return folder


@pytest.mark.parametrize("harm", ["flipped", "half", "empty", "missing"])
@pytest.mark.parametrize("name", ["rows.arrow", "report.json", "manifest.json"])
def test_damaged_rows_are_read_again_and_named_once(name, harm, write_rows, cache, caplog):
    path = write_rows(make_rows(20))
    first = rows_of(path, cache)
    folder = entry(cache, "rows")
    damage(folder / name, harm)
    assert rows_of(path, cache) == first
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: damaged (") and name in line and line.endswith("); building it again")
    assert rows_of(path, cache) == first and len(caplog.messages) == 1


@pytest.mark.parametrize("harm", ["flipped", "zeroed", "half", "empty", "missing"])
@pytest.mark.parametrize("name", ["tokens.arrow", "lengths.npy"])
def test_damaged_tokens_are_made_again_and_named_once(name, harm, make_store, cache, caplog):
    store, tokenizer = make_store(make_rows(20)), make_tokenizer()
    first = tokenize_rows(store, tokenizer, SHORT, cache)
    expected = first.tokens[:], first.lengths.tolist()
    folder = entry(cache, "tokens")
    damage(folder / name, harm)
    again = tokenize_rows(store, tokenizer, SHORT, cache)
    assert (again.tokens[:], again.lengths.tolist()) == expected
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: damaged ({name} ") and line.endswith("); building it again")


def test_token_ids_that_changed_are_not_trained_on(make_store, cache, caplog):
    """The Arrow file is well formed, every id is one of the vocabulary, and the sizes are right: only a digest can tell."""
    store, tokenizer = make_store(make_rows(20)), make_tokenizer()
    expected = tokenize_rows(store, tokenizer, SHORT, cache).tokens[:]
    file = entry(cache, "tokens") / "tokens.arrow"
    ids = np.array(expected["query"][0], dtype=np.int32)
    content = file.read_bytes()
    assert content.count(ids.tobytes()) == 1
    file.write_bytes(content.replace(ids.tobytes(), (ids ^ 1).tobytes()))
    assert datasets.Dataset.from_file(str(file))["query"][0] == (ids ^ 1).tolist()
    assert tokenize_rows(store, tokenizer, SHORT, cache).tokens[:] == expected
    assert [line.rpartition("/")[2].partition("-")[0] for line in caplog.messages] == ["tokens"]


def test_what_an_earlier_version_left_without_a_manifest_is_built_again(write_rows, cache, caplog):
    path = write_rows(make_rows(20))
    first = rows_of(path, cache)
    (entry(cache, "rows") / "manifest.json").unlink()
    assert rows_of(path, cache) == first
    assert "damaged (no manifest.json: it was never written to its end); building it again" in caplog.text


@pytest.mark.parametrize("kind", ["rows", "tokens"])
def test_a_full_disk_names_the_cache(kind, make_store, cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = make_store(make_rows(20))
    monkeypatch.setattr(store_module, "_write_arrow", full)
    with pytest.raises(StorageError, match=rf"^{cache}: cannot be written \(the disk is full\); make room .* cache_dir=DIR$"):
        if kind == "tokens":
            tokenize_rows(store, make_tokenizer(), SHORT, cache)
        else:
            load_rows(store.source, Columns("document", "query"), cache)


def test_the_way_special_tokens_are_split_makes_tokens_anew(make_store, cache):
    store, other = make_store(make_rows(20)), make_tokenizer()
    tokenize_rows(store, make_tokenizer(), SHORT, cache)
    other.split_special_tokens = True
    tokenize_rows(store, other, SHORT, cache)
    assert sum(name.startswith("tokens-") for name in folders(cache)) == 2


# -- several processes -------------------------------------------------------------------------------------------------------


def test_two_processes_on_a_cold_cache_agree_and_one_of_them_writes(write_rows, cache, monkeypatch):
    """Two runs that start together, outside any process group; forked, so that nothing is imported again."""
    path = write_rows(make_rows(2000))
    context = multiprocessing.get_context("fork")
    together, results, write_arrow = context.Barrier(2), context.SimpleQueue(), store_module._write_arrow

    def noted(target, schema, rows, *more):
        with open(cache.parent / "written", "a") as file:
            file.write(f"{target.name}\n")
        write_arrow(target, schema, rows, *more)

    def run():
        together.wait()
        store = load_rows(path, Columns(), cache)
        tokens = tokenize_rows(store, make_tokenizer(), TextSpec(), cache)
        results.put((store.digest, store.read, sum(store.rows["query_id"][:]), tokens.texts, tokens.total_tokens))

    monkeypatch.setattr(store_module, "_write_arrow", noted)
    processes = [context.Process(target=run) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert results.get() == results.get()
    assert sorted((cache.parent / "written").read_text().split()) == ["rows.arrow", "tokens.arrow"]


@pytest.mark.parametrize("negatives", [True, False])
def test_the_vocabulary_is_what_occurs(negatives, write_rows, cache, monkeypatch):
    """Over several batches of the file, special tokens and prefixes included."""
    monkeypatch.setattr(store_module, "_BATCH", 7)
    store = load_rows(write_rows(make_rows(30, negatives=negatives)), Columns(), cache)
    tokens = tokenize_rows(store, make_tokenizer(), TextSpec(), cache)
    expected = set()
    for row in tokens.tokens:
        expected.update(row["query"], *row["positives"], *row["negatives"])
    assert tokens.vocabulary().tolist() == sorted(expected)


def test_a_file_that_cannot_be_opened_is_refused(write_lines, cache, monkeypatch):
    def digest(path):
        raise PermissionError(13, "Permission denied", path)

    path = write_lines(GOOD)
    monkeypatch.setattr(store_module, "digest_of_file", digest)
    with pytest.raises(DataError, match="cannot be read .Permission denied"):
        load_rows(path, Columns(), cache)


@pytest.mark.parametrize("name", ["x" * 300 + ".jsonl", "a\0.jsonl"])
def test_a_name_that_can_be_no_files_is_refused(name, cache):
    with pytest.raises(DataError, match="cannot be read"):
        load_rows(name, Columns(), cache)
