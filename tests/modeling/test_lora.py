"""Adapters: the base stays, only they learn, what is saved is a plain model with the adapted vectors, and resuming is exact."""

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModel

from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.modeling.loading import load_encoder, load_weights, save_encoder
from e5ft.modeling.lora import adapter_state, add_adapters, added_parameters, load_adapters, save_adapters, save_for_peft
from e5ft.modeling.settings import LoraSettings, ModelSource
from tests.conftest import make_encoder, make_rows
from tests.modeling.test_encoder import FAMILIES, flat_row, random_texts
from tests.training.conftest import losses_of, make_trainer

pytest.importorskip("peft")
SETTINGS = LoraSettings(rank=4, alpha=8)


@pytest.fixture
def rows_file(write_rows):
    return write_rows(make_rows(100))


def adapted(family: str = "bert", *, settings: LoraSettings = SETTINGS, large: bool = True, seed: int = 7, **options):
    """With adapters that change the vectors much, as after a long training (B is 0 at first)."""
    encoder = make_encoder(family, **options)
    add_adapters(encoder, settings, seed)
    if large:
        generator = torch.Generator().manual_seed(1)
        for name, tensor in encoder.named_parameters():
            if "lora_B" in name:
                tensor.data = torch.randn(tensor.shape, generator=generator) * 0.3
    return encoder


@pytest.mark.parametrize("names", ["all-linear", ("query", "value"), ("dense",)])
def test_what_adapters_will_add_is_what_they_add(names):
    settings = LoraSettings(rank=4, alpha=8, target_modules=names)
    expected = added_parameters(make_encoder().backbone, settings)
    assert expected == sum(tensor.numel() for tensor in adapter_state(adapted(settings=settings)).values()) > 0


def test_untrained_adapters_change_no_vector():
    texts = random_texts()
    np.testing.assert_array_equal(adapted(large=False).encode(texts, "query"), make_encoder().encode(texts, "query"))
    changed = np.abs(adapted().encode(texts, "query") - make_encoder().encode(texts, "query")).max()
    assert changed > 0.1  # the other tests' adapters say something


def test_the_seed_decides_the_adapters():
    first, same, other = (
        torch.cat([tensor.flatten() for tensor in adapter_state(adapted(large=False, seed=seed)).values()]) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("names", ["all-linear", ("query", "key", "value", "dense"), ("query",)])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_get_gradients(family, names):
    encoder = adapted(family, settings=LoraSettings(rank=4, target_modules=names))
    encoder(*flat_row(encoder.tokenize(random_texts(), "query")))[:, 0].sum().backward()
    given = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert (
        given
        == {name for name, p in encoder.named_parameters() if p.requires_grad}
        == {f"backbone.{n}" for n in adapter_state(encoder)}
    )
    layers = 2 * {"all-linear": 6, ("query",): 1}.get(names, 6)  # query, key, value, attention output, two of the feed-forward
    assert len(given) == 2 * layers


@pytest.mark.parametrize("family", FAMILIES)
def test_unpadded_attention_is_used_and_equals_padded(family):
    unpadded, padded = adapted(family, padded=False), adapted(family, padded=True)
    assert unpadded.config._attn_implementation == "e5ft_unpadded" and padded.config._attn_implementation == "sdpa"
    row = flat_row(unpadded.tokenize(random_texts(), "passage"))
    torch.testing.assert_close(unpadded(*row), padded(*row), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_model_has_the_adapted_vectors(tmp_path, family):
    """`export_model` itself compares with AutoModel and sentence-transformers, and refuses beyond 1e-5."""
    encoder = adapted(family).eval()
    texts = random_texts()
    before = encoder.encode(texts, "query")
    assert export_model(encoder, tmp_path / "model", "card") <= 1e-5
    found = load_encoder(ModelSource(path=str(tmp_path / "model")))
    assert found.backbone.state_dict().keys() == make_encoder(family).backbone.state_dict().keys()
    np.testing.assert_allclose(found.encode(texts, "query"), before, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(encoder.encode(texts, "query"), before)  # saving leaves the encoder as it was
    _, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_resumed_run_equals_the_uninterrupted_one(rows_file, tmp_path, accumulation):
    """Dropout of model and adapters on; losses and adapters to the last bit, and the base as it was."""

    def run(folder, checkpoint=None, save="no"):
        encoder = adapted(settings=LoraSettings(rank=4, dropout=0.1), large=False, dropout=0.1)
        trainer = make_trainer(
            rows_file, folder, batch=16 // accumulation, accumulation=accumulation, steps=4, encoder=encoder, save_strategy=save,
            save_steps=2,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer

    whole = run(tmp_path / "whole", save="steps")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert losses_of(resumed) == losses_of(whole) and len(set(losses_of(whole))) == 4
    state, other = whole.model.backbone.state_dict(), resumed.model.backbone.state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    base = make_encoder().backbone.state_dict()
    frozen = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in base.items())
    texts = random_texts()
    merged = load_encoder(ModelSource(path=str(tmp_path / "whole" / "checkpoint-4")))
    np.testing.assert_allclose(merged.encode(texts, "query"), whole.model.encode(texts, "query"), rtol=0, atol=1e-5)


def test_a_checkpoint_of_other_adapters_is_refused(tmp_path):
    encoder = adapted()
    save_encoder(encoder, tmp_path)
    with pytest.raises(ConfigurationError, match="adapter.safetensors: cannot be read"):
        load_weights(adapted(), tmp_path)
    save_adapters(encoder, tmp_path)
    with pytest.raises(ConfigurationError, match="another rank"):
        load_adapters(adapted(settings=LoraSettings(rank=2)), tmp_path)
    again = adapted(large=False)
    load_weights(again, tmp_path)
    assert all(torch.equal(tensor, adapter_state(encoder)[name]) for name, tensor in adapter_state(again).items())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 0}, "model.lora.rank=0"),
        ({"rank": 1.5}, "model.lora.rank=1.5"),
        ({"rank": 4, "alpha": 0}, "model.lora.alpha=0"),
        ({"rank": 4, "dropout": 1}, "model.lora.dropout=1"),
        ({"rank": 4, "target_modules": ()}, r"model.lora.target_modules=\(\)"),
    ],
)
def test_values_out_of_range_are_refused(values, words):
    with pytest.raises(ConfigurationError, match=words):
        LoraSettings(**values)


@pytest.mark.parametrize("names", [("q_proj",), ("query", "q_proj"), ("uery", "q_proj")])
def test_layers_that_the_model_lacks_are_refused(names):
    with pytest.raises(
        ConfigurationError, match="model.lora.target_modules=.*no .*q_proj in .*layers are dense, key, query, value"
    ):
        add_adapters(make_encoder(), LoraSettings(rank=4, target_modules=names), seed=0)


@pytest.mark.parametrize("names", ["all-linear", ("query", "dense")])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_the_adapters_over_the_base_and_gives_equal_vectors(tmp_path, family, names):
    """As its users do: PeftModel over AutoModel, with the pooler that e5ft takes off."""
    from peft import AutoPeftModelForFeatureExtraction, PeftModel

    settings = LoraSettings(rank=4, alpha=8, target_modules=names)
    save_encoder(make_encoder(family), tmp_path / "base")
    encoder = adapted(family, settings=settings).eval()
    save_for_peft(encoder, tmp_path / "adapter", settings, str(tmp_path / "base"), None)
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    texts = random_texts()
    wanted = encoder.encode(texts, "query")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns of adapters that it does not find, and leaves them at random
        over_base = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), str(tmp_path / "adapter"))
    for model in (over_base, AutoPeftModelForFeatureExtraction.from_pretrained(str(tmp_path / "adapter"))):
        assert model.peft_config["default"].r == 4 and not any(p.requires_grad for p in model.parameters())
        plain = make_encoder(family, padded=True)
        plain.backbone = model.merge_and_unload().eval()
        plain.backbone.pooler = None
        np.testing.assert_allclose(plain.encode(texts, "query"), wanted, rtol=0, atol=1e-6)
