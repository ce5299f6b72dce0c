"""mine.py as a user starts it: errors and their codes, and two processes against one."""

import pytest

from e5ft.files import read_json
from e5ft.modeling.loading import save_encoder
from tests.conftest import make_encoder, make_rows
from tests.test_cli import call


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(("window=[9,3]",), 2, "window=[9, 3]"), (("sources=[bm25]", "data.train_file=nix.jsonl"), 3, "nix.jsonl")],
)
def test_errors_are_one_message_and_a_code(arguments, code, words, tmp_path):
    done = call("mine.py", *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ") and words in done.stderr and "Traceback" not in done.stderr


def test_two_processes_mine_as_one(tmp_path, write_rows):
    save_encoder(make_encoder(), tmp_path / "model")
    given = (f"data.train_file={write_rows(make_rows(60))}", "model.path=model", "device=cpu", "filters.percent=null")
    given += ("sources=[dense,bm25,random]", "choose=sample", "max_uses=5")
    one = call("mine.py", "name=one", "cache_dir=cache-one", *given, cwd=tmp_path)
    two = call("mine.py", "name=two", "cache_dir=cache-two", *given, cwd=tmp_path, processes=2)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert two.stdout.count("60 rows: ") == 1  # the main process speaks alone
    folder = tmp_path / "outputs/mined"
    assert (folder / "one/rows.jsonl").read_text() == (folder / "two/rows.jsonl").read_text()
    counts = [read_json(folder / name / "mining.json")["candidates"] for name in ("one", "two")]
    assert counts[0] == counts[1] and counts[0]["max_uses"] > 0
