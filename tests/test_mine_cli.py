"""mine.py as a user starts it, in one process and in two."""

from e5ft.files import read_json
from e5ft.modeling.loading import save_encoder
from tests.conftest import make_encoder, make_rows
from tests.test_cli import call


def test_two_processes_mine_as_one(tmp_path, write_rows):
    save_encoder(make_encoder(), tmp_path / "model")
    settings = (f"data.train_file={write_rows(make_rows(60))}", "model.path=model", "device=cpu", "filters.percent=null")
    settings += ("sources=[dense,bm25,random]", "choose=sample", "max_uses=5")
    one = call("mine.py", "name=one", "cache_dir=cache-one", *settings, cwd=tmp_path)
    two = call(
        "mine.py",
        "name=two",
        "output_file=outputs/mined/two/rows.jsonl",
        "cache_dir=cache-two",
        *settings,
        cwd=tmp_path,
        processes=2,
    )
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert (
        two.stderr.count("note: output_file is output_dir now") == two.stdout.count("60 rows: ") == 1
    )  # the main process speaks alone
    folder = tmp_path / "outputs/mined"
    assert (folder / "one/rows.jsonl").read_text() == (folder / "two/rows.jsonl").read_text()
    counts = [read_json(folder / name / "mining.json")["candidates"] for name in ("one", "two")]
    assert counts[0] == counts[1] and counts[0]["max_uses"] > 0
