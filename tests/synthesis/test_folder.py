"""A folder is written whole or not at all, and nothing of somebody else's is replaced."""

import pytest

from e5ft.data.rows import Row
from e5ft.errors import ConfigurationError
from e5ft.synthesis.folder import check_output, write_folder


def write(folder, rows, qrels):
    corpus, queries = [{"_id": "c1", "text": "글"}], [("q1", "물음")]
    write_folder(folder, rows, corpus, queries, qrels, ("rows.json", {"rows": 1}))


def test_a_failure_leaves_what_was_there(tmp_path):
    def failing():
        yield Row("가", ("나",))
        raise RuntimeError

    write(tmp_path / "out", {"train": [Row("가", ("나",))]}, {"test": [("q1", "c1", 1)]})
    with pytest.raises(RuntimeError):
        write(tmp_path / "out", {"train": failing()}, {})
    assert (tmp_path / "out/eval/qrels/test.tsv").read_text() == "query-id\tcorpus-id\tscore\nq1\tc1\t1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write(tmp_path / "out", {"train": [Row("가", ("나",))]}, {})  # without a set: the old one must not stay
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rows.json", "train.jsonl"]


def test_only_an_own_folder_is_replaced(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/novel.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    for name, message in (
        ("theirs", "holds other files"),
        ("file", "this is a file or a link"),
        ("link", "this is a file or a link"),
    ):
        with pytest.raises(ConfigurationError, match=f"^output_dir=.*{name}: .*{message}"):
            check_output(tmp_path / name, "rows.json")
    (tmp_path / "theirs/rows.json").write_text("{}")
    for name in ("theirs", "new"):
        assert check_output(tmp_path / name, "rows.json") == tmp_path / name
