"""The example that needs no Hydra: rows in, a model out that loads like any other."""

import runpy
from pathlib import Path

from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import make_encoder, make_rows

EXAMPLE = Path(__file__).parents[1] / "examples/train_without_hydra.py"


def test_from_rows_to_an_exported_model(write_rows, tmp_path, capsys):
    assert len(EXAMPLE.read_text().splitlines()) < 72
    export_model(make_encoder(), tmp_path / "start", "card")
    main = runpy.run_path(str(EXAMPLE))["main"]
    arguments = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 1, "use_cpu": True}
    main(write_rows(make_rows(40)), str(tmp_path / "start"), str(tmp_path / "out"), **arguments)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("before", "BM25 (auto)", "after"))
    assert load_encoder(ModelSource(path=str(tmp_path / "out/model"))).encode(["w1"], "query").shape == (1, 32)
