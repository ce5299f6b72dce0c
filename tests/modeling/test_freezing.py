"""Frozen parts stay to the last bit; all others get the gradients that they would get without."""

import pytest
import torch
from transformers import AutoConfig, AutoModel, TrainerCallback

from e5ft.errors import ConfigurationError
from e5ft.modeling.compact import compact
from e5ft.modeling.freezing import freeze
from tests.conftest import make_encoder, make_rows
from tests.training.conftest import losses_of, make_trainer


@pytest.fixture
def rows_file(write_rows):
    return write_rows(make_rows(100))


class Gradients(TrainerCallback):
    """The first step's, by name."""

    def __init__(self):
        self.first = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.first is None:
            self.first = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained(rows_file, folder, parts, *, accumulation=1, family="bert", steps=3, checkpoint=None, **arguments):
    encoder, gradients = make_encoder(family, dropout=0.1), Gradients()
    freeze(encoder.backbone, parts)
    trainer = make_trainer(
        rows_file, folder, batch=16 // accumulation, accumulation=accumulation, steps=steps, encoder=encoder,
        callbacks=[gradients], weight_decay=0.1, max_grad_norm=0.0, **arguments,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, gradients.first


def of_part(name: str, parts) -> bool:
    return any(name.startswith("embeddings." if part == "embeddings" else f"encoder.layer.{part}.") for part in parts)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(("family", "parts"), [("bert", ("embeddings", 0)), ("xlm-roberta", ("0-0",)), ("bert", ("embeddings",))])
def test_frozen_weights_stay_and_the_others_have_the_same_gradients(rows_file, tmp_path, family, parts, accumulation):
    """With dropout, exact accumulation and weight decay."""
    frozen = {"embeddings" if part == "embeddings" else 0 for part in parts}
    whole, gradients = trained(rows_file, tmp_path / "whole", (), accumulation=accumulation, family=family, steps=1)
    trainer, ours = trained(rows_file, tmp_path / "frozen", parts, accumulation=accumulation, family=family)
    assert losses_of(trainer)[0] == losses_of(whole)[0]
    wanted = {name for name in gradients if not of_part(name.removeprefix("backbone."), frozen)}
    assert ours.keys() == wanted and 0 < len(wanted) < len(gradients)
    for name in wanted:
        torch.testing.assert_close(ours[name], gradients[name], rtol=1e-5, atol=1e-8)
    before, after = make_encoder(family).backbone.state_dict(), trainer.model.backbone.state_dict()
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    assert {name for name in same if "position_ids" not in name} == {name for name in before if of_part(name, frozen)}
    held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert held == len(wanted)


def test_a_resumed_run_is_the_same_to_the_last_bit(rows_file, tmp_path):
    parts = ("embeddings", "0")
    whole, _ = trained(rows_file, tmp_path / "a", parts, accumulation=2, steps=4, save_strategy="steps", save_steps=2)
    again, _ = trained(rows_file, tmp_path / "b", parts, accumulation=2, steps=4, checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert losses_of(again) == losses_of(whole)
    ours, theirs = again.model.backbone.state_dict(), whole.model.backbone.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_frozen_embeddings_need_no_compact_table_and_frozen_layers_leave_it(rows_file):
    for parts, exchanged in ((("embeddings",), False), ((0,), True)):
        encoder = make_encoder()
        freeze(encoder.backbone, parts)
        assert compact(encoder, range(20)) is exchanged


@pytest.mark.parametrize("family", ["distilbert", "modernbert", "mpnet", "electra"])
def test_other_backbones_with_a_list_of_layers(family):
    names = {"distilbert": dict(dim=32, hidden_dim=64, n_layers=2, n_heads=4)}.get(
        family, dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    )
    own = {"electra": {"embedding_size": 32}, "modernbert": {"cls_token_id": 0, "sep_token_id": 2}}.get(family, {})
    pads = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    backbone = AutoModel.from_config(AutoConfig.for_model(family, vocab_size=50, **pads, **names, **own))
    freeze(backbone, ("embeddings", 0))
    still = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert any("embeddings." in name for name in still) and any(".0." in name for name in still)
    assert not any(".1." in name for name in still if "embedding" not in name)


@pytest.mark.parametrize(("parts", "words"), [
    (("0-2",), r"model.freeze=\[0-2\]: there is no layer 2; this model has the layers 0-1"),
    (("embeddings", "0-1"), r"model.freeze=\[embeddings,0-1\]: nothing would be left to train"),
])  # fmt: skip
def test_what_the_model_does_not_have_is_refused(parts, words):
    with pytest.raises(ConfigurationError, match=words):
        freeze(make_encoder().backbone, parts)


def test_a_model_of_shared_layers_has_none_to_name():
    shape = dict(
        vocab_size=50, embedding_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    backbone = AutoModel.from_config(AutoConfig.for_model("albert", **shape))
    with pytest.raises(ConfigurationError, match="model type 'albert' has no list of layers; only embeddings"):
        freeze(backbone, (0,))
    freeze(backbone, ("embeddings",))
    assert not backbone.embeddings.word_embeddings.weight.requires_grad
