"""The compact embedding table: everything outside sees the whole table, trained as AdamW would have trained it."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from e5ft.errors import ConfigurationError
from e5ft.modeling.compact import CompactEmbedding, apply_weight_decay_to_frozen_rows, compact, compacted, save_scale
from e5ft.modeling.loading import load_weights, save_encoder
from tests.conftest import WORDS, make_encoder, make_rows
from tests.training.conftest import losses_of, make_trainer, norms_of

FAMILIES = ("bert", "xlm-roberta")
NAME = "embeddings.word_embeddings.weight"


@pytest.fixture
def rows_file(write_rows):
    """Rows of 60 of the 200 words."""
    few = {word: WORDS[i % 60] for i, word in enumerate(WORDS)}
    rows = [{k: " ".join(few[word] for word in text.split()) + f" {WORDS[i % 60]}" for k, text in row.items()}
            for i, row in enumerate(make_rows(100, negatives=False))]  # fmt: skip
    return write_rows(rows)


def trained(
    rows_file, folder, *, small: bool, family: str = "xlm-roberta", steps: int = 6, padded=None, checkpoint=None, **options
):
    encoder = make_encoder(family, dropout=0.1, padded=padded)
    trainer = make_trainer(
        rows_file, folder, batch=8, accumulation=2, steps=steps, encoder=encoder, weight_decay=0.5, lr_scheduler_type="linear", **options
    )  # fmt: skip
    if small:
        assert compact(encoder, vocabulary(trainer))
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def vocabulary(trainer) -> set[int]:
    rows = [trainer.train_dataset.tokens[i] for i in range(len(trainer.train_dataset))]
    return {token for row in rows for text in (row["query"], *row["positives"], *row["negatives"]) for token in text}


@pytest.mark.parametrize("padded", [None, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_gives_the_whole_tables_result(rows_file, tmp_path, family, padded):
    """Losses, norms, every tensor, and the vectors of texts with tokens that training never saw."""
    large, small = (trained(rows_file, tmp_path / str(s), small=s, family=family, padded=padded) for s in (False, True))
    assert 50 < len(compacted(small.model).weight) < 80 and compacted(large.model) is None
    np.testing.assert_allclose(losses_of(small), losses_of(large), rtol=0, atol=1e-6)
    np.testing.assert_allclose(norms_of(small), norms_of(large), rtol=1e-5)
    ours, theirs = (t.model.backbone.state_dict() for t in (small, large))
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)
    base = make_encoder(family).backbone.state_dict()[NAME]
    unseen = compacted(small.model).place < 0
    assert 0.99 < (theirs[NAME][unseen] / base[unseen]).nanmedian() < 0.9999  # decayed, and visibly so
    texts = ["w3 w150 w199", "w180", "w1 w2"]
    np.testing.assert_allclose(small.model.encode(texts, "query"), large.model.encode(texts, "query"), rtol=0, atol=1e-6)


def test_the_optimizer_holds_the_trained_rows_alone(rows_file, tmp_path):
    trainer = trained(rows_file, tmp_path, small=True, steps=1)
    sizes = [state["exp_avg"].shape[0] for state in trainer.optimizer.state_dict()["state"].values()]
    assert 210 not in sizes and len(compacted(trainer.model).weight) in sizes


def test_a_resumed_run_is_the_same_to_the_last_bit(rows_file, tmp_path):
    whole = trained(rows_file, tmp_path / "whole", small=True, save_strategy="steps", save_steps=2)
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    resumed = trained(rows_file, tmp_path / "resumed", small=True, checkpoint=str(checkpoint))
    assert losses_of(resumed) == losses_of(whole) and compacted(resumed.model).scale == compacted(whole.model).scale < 1
    for name, tensor in whole.model.backbone.state_dict().items():
        assert torch.equal(resumed.model.backbone.state_dict()[name], tensor), name
    (checkpoint / "embedding.json").unlink()  # a folder written elsewhere: the rest is taken from it
    load_weights(resumed.model, checkpoint)
    assert compacted(resumed.model).scale == 1.0
    torch.testing.assert_close(
        resumed.model.backbone.state_dict()[NAME], AutoModel.from_pretrained(checkpoint).state_dict()[NAME]
    )


def test_a_saved_folder_is_a_plain_model(tmp_path):
    encoder = make_encoder()
    texts = ["w1 w2 w150", "w199"]
    before = encoder.encode(texts, "query")
    assert compact(encoder, range(20))
    np.testing.assert_array_equal(encoder.encode(texts, "query"), before)
    save_encoder(encoder, tmp_path)
    save_scale(encoder, tmp_path)
    plain = AutoModel.from_pretrained(tmp_path).state_dict()
    assert torch.equal(plain[NAME], make_encoder().backbone.state_dict()[NAME])
    load_weights(make_encoder(), tmp_path)


def test_an_untrained_row_is_an_error_while_training():
    encoder = make_encoder()
    compact(encoder, range(20))
    with pytest.raises(IndexError):
        encoder.train()(torch.tensor([0, 150, 2]), [3])


@pytest.mark.parametrize("padding", [None, 3, 7])
def test_the_padding_rows_gradient_stays_zero(padding):
    """mE5-small's configuration names <s> as padding: its row has no gradient there, and must not have one here."""
    whole = nn.Embedding(10, 4, padding_idx=padding)
    small, ids = CompactEmbedding(whole, torch.tensor([5, 3, 8])), torch.tensor([3, 5, 8, 3])
    whole(ids).square().sum().backward()
    small(ids).square().sum().backward()
    torch.testing.assert_close(small.weight.grad, whole.weight.grad[[3, 5, 8]], rtol=0, atol=0)


def test_a_skipped_step_decays_nothing():
    encoder = make_encoder()
    compact(encoder, range(20))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=0.5)
    apply_weight_decay_to_frozen_rows(encoder, optimizer)
    optimizer.step()
    assert compacted(encoder).scale == pytest.approx(0.95)
    optimizer.found_inf = torch.tensor(1.0)  # as torch's gradient scaler leaves it for a fused optimizer
    optimizer.step()
    assert compacted(encoder).scale == pytest.approx(0.95)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert compacted(encoder).scale == pytest.approx(0.9025)


def test_where_it_saves_nothing_or_would_be_wrong():
    encoder = make_encoder()
    assert not compact(encoder, range(110)) and compacted(encoder) is None  # more than half
    with pytest.raises(ValueError, match="token id 210: the table has 210 rows"):
        compact(encoder, [1, 210])
    frozen = make_encoder()
    frozen.backbone.get_input_embeddings().weight.requires_grad_(False)
    assert not compact(frozen, range(20))
    compact(encoder, range(20))
    with pytest.raises(ConfigurationError, match="compact_embedding=true.*not with SGD"):
        apply_weight_decay_to_frozen_rows(encoder, torch.optim.SGD(encoder.parameters(), lr=0.1))
    apply_weight_decay_to_frozen_rows(make_encoder(), torch.optim.SGD(encoder.parameters(), lr=0.1))


def test_a_table_of_another_size_is_refused(tmp_path):
    encoder = make_encoder()
    compact(encoder, range(20))
    state = encoder.backbone.state_dict()
    with pytest.raises(RuntimeError, match=r"shape \(209, 32\), must be \(210, 32\)"):
        encoder.backbone.load_state_dict({**state, NAME: state[NAME][:-1]})
    with pytest.raises(RuntimeError, match="Missing key"):
        encoder.backbone.load_state_dict({name: tensor for name, tensor in state.items() if name != NAME})
