"""A pooling is one row of a table: from training's vectors to an exported folder and back."""

import subprocess
import sys

import pytest
import torch

from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import ModelSource, load_encoder
from e5ft.modeling.pooling import POOLINGS, Pooling
from tests.conftest import make_encoder


@pytest.mark.parametrize("name", POOLINGS)
def test_both_ways_to_pool_worked_by_hand(name):
    """Texts of 2 and 1 tokens: the mean of (1, 2) and (3, 6), the first of them, the last; what is padding counts nowhere."""
    flat, padded = torch.tensor([[1.0, 2], [3, 6], [5, 7]]), torch.tensor([[[1.0, 2], [3, 6]], [[5, 7], [99, 99]]])
    expected = torch.tensor([{"mean": [2.0, 4], "cls": [1.0, 2], "last": [3.0, 6]}[name], [5, 7]])
    assert torch.equal(POOLINGS[name].flat(flat, torch.tensor([2, 1])), expected)
    assert torch.equal(POOLINGS[name].padded(padded, torch.tensor([[1, 1], [1, 0]])), expected)


def test_one_added_from_outside_is_exported_and_read_again(tmp_path, monkeypatch):
    """The export itself compares with plain transformers and with sentence-transformers' own maximum."""

    def flat(hidden, sizes):
        return torch.stack([text.amax(dim=0) for text in hidden.split(sizes.tolist())])

    def padded(hidden, mask):
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(dim=1)

    monkeypatch.setitem(POOLINGS, "max", Pooling(flat, padded, "max", "max_tokens"))
    encoder = make_encoder(pooling="max")
    assert export_model(encoder, tmp_path / "model", "card") <= 1e-5
    assert load_encoder(ModelSource(path=str(tmp_path / "model"))).spec == encoder.spec
    config = (tmp_path / "model/config.json").read_text()
    (tmp_path / "model/config.json").write_text(config.replace('"e5ft"', '"another"'))  # as if another tool had written it
    text = encoder.spec.text.to_dict()
    assert load_encoder(ModelSource(path=str(tmp_path / "model"), text=text)).spec == encoder.spec


def test_the_names_are_read_without_torch():
    code = "import sys; from e5ft.modeling.pooling import POOLINGS; assert list(POOLINGS) and 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
