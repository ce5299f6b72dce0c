"""The encoder: unpadded against padded, against transformers by hand, and what it refuses."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.modeling import cpu
from e5ft.modeling.attention import UNPADDED, unpadded_attention
from e5ft.modeling.encoder import Encoder, EncoderSpec, pack
from e5ft.modeling.pooling import POOLINGS
from tests.conftest import WORDS, make_encoder, make_tokenizer

FAMILIES = ("bert", "xlm-roberta")


def random_texts(count: int = 9, seed: int = 0, longest: int = 30) -> list[str]:
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, size=generator.integers(1, longest))) for _ in range(count)]


def flat_row(token_ids: list[list[int]]) -> tuple[torch.Tensor, list[int]]:
    return torch.tensor([token for text in token_ids for token in text]), [len(text) for text in token_ids]


def twins(family: str, **options) -> tuple[Encoder, Encoder]:
    """The same weights, unpadded and padded. They are large, so that attention says much: at transformers' own random
    weights a vector hardly changes with the text's other words, and a wrong neighbour would not show."""
    pair = make_encoder(family, padded=False, **options), make_encoder(family, padded=True, **options)
    for encoder in pair:
        for name, parameter in encoder.named_parameters():
            if "layer." in name and parameter.dim() == 2:
                parameter.data *= 8
    return pair


def gradients(encoder: Encoder, input_ids, lengths) -> dict[str, torch.Tensor]:
    """Of a scalar that weighs every number of every vector differently."""
    encoder.zero_grad()
    vectors = encoder(input_ids, lengths)
    weights = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
    (vectors * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_unpadded_equals_padded(family, pooling):
    """Vectors and the gradient of every parameter, with texts out of order of length and some of equal length."""
    unpadded, padded = twins(family, pooling=pooling)
    row = flat_row(unpadded.tokenize([*random_texts(), "w1 w2 w3", "w4 w5 w6"], "passage"))
    assert len(set(row[1])) > 4
    vectors = unpadded(*row)
    torch.testing.assert_close(vectors, padded(*row), rtol=0, atol=1e-6)
    assert vectors.dtype == torch.float32 and not torch.allclose(vectors[0], vectors[1], atol=1e-2)
    wanted = gradients(padded, *row)
    for name, gradient in gradients(unpadded, *row).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_does_not_see_its_neighbours(family, padded):
    encoder = twins(family)[padded]
    texts = encoder.tokenize(random_texts(), "query")
    together = encoder(*flat_row(texts))
    for i in range(len(texts)):
        torch.testing.assert_close(encoder(*flat_row([texts[i]]))[0], together[i], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder(*flat_row(texts[::-1])).flip(0), together, rtol=0, atol=1e-6)


def by_hand(encoder: Encoder, backbone, texts: list[str], prefix: str, pooling: str = "mean") -> torch.Tensor:
    """Plain transformers: padded batch, AutoModel with an attention mask and its own position ids."""
    batch = make_tokenizer()([prefix + text for text in texts], padding=True, return_tensors="pt")
    mask = batch["attention_mask"]
    with torch.no_grad():
        hidden = backbone(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
    return normalize(POOLINGS[pooling].padded(hidden, mask), dim=-1)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_encoder_equals_plain_transformers(family, pooling, padded):
    encoder = twins(family, pooling=pooling)[padded]
    config = AutoConfig.for_model(**{**encoder.config.to_dict(), "model_type": family})
    backbone = AutoModel.from_config(config, attn_implementation="eager").eval()
    backbone.load_state_dict(encoder.backbone.state_dict(), strict=False)
    texts = random_texts()
    wanted = by_hand(encoder, backbone, texts, "passage: ", pooling)
    np.testing.assert_allclose(encoder.encode(texts, "passage"), wanted, rtol=0, atol=1e-6)
    assert not np.allclose(encoder.encode(texts, "query"), wanted, atol=1e-3)  # its prefix differs


def test_vectors_have_length_one():
    vectors = make_encoder().encode(random_texts(), "query")
    assert vectors.shape == (9, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_encode_keeps_the_order_whatever_the_batches():
    encoder = twins("bert")[0]
    texts = random_texts(40)
    wanted = encoder.encode(texts, "passage")
    singly = np.concatenate([encoder.encode([text], "passage") for text in texts])
    np.testing.assert_allclose(wanted, singly, rtol=0, atol=1e-6)
    for options in ({"batch_tokens": 1}, {"batch_tokens": 100}, {"window": 7}, {"window": 1, "batch_tokens": 50}):
        np.testing.assert_allclose(encoder.encode(iter(texts), "passage", **options), wanted, rtol=0, atol=1e-6)


def test_encode_gives_freed_memory_back_where_there_is_much(monkeypatch):
    calls, encoder, texts = [], make_encoder(), random_texts(40)
    monkeypatch.setattr(cpu, "release_freed_memory", lambda: calls.append(1))
    encoder.encode(texts, "query")
    assert not calls
    monkeypatch.setattr(cpu, "TOKENS", 64)
    encoder.encode(texts, "query")
    assert len(calls) == 1


def test_encode_bounds_the_tokens_of_a_forward_pass():
    encoder, seen = make_encoder(), []
    encoder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    texts = random_texts(40)
    encoder.encode(texts, "query", batch_tokens=64)
    assert max(seen) <= 64 and sum(seen) == sum(map(len, encoder.tokenize(texts, "query"))) and len(seen) < 40


@pytest.mark.parametrize("mode", [True, False])
def test_encode_drops_nothing_and_leaves_the_mode_as_it_was(mode):
    encoder = make_encoder(dropout=0.5).train(mode)
    texts = random_texts()
    np.testing.assert_array_equal(encoder.encode(texts, "query"), encoder.encode(texts, "query"))
    assert all(module.training == mode for module in encoder.modules())
    with pytest.raises(ValueError, match="role='document'"):
        encoder.encode(texts, "document")
    assert encoder.training == mode
    assert encoder.encode(texts, "query").shape == (9, 32) and not torch.is_inference_mode_enabled()


def test_encode_of_no_texts():
    assert make_encoder().encode([], "query").shape == (0, 32)
    assert make_encoder().tokenize([], "query") == []


def test_the_text_format_decides_the_tokens():
    encoder = make_encoder()
    vocabulary = encoder.tokenizer.get_vocab()
    query, passage = (encoder.tokenize(["  w1\tw2 "], role)[0] for role in ("query", "passage"))
    assert query == [0, vocabulary["query:"], vocabulary["w1"], vocabulary["w2"], 2]
    assert passage == [0, vocabulary["passage:"], vocabulary["w1"], vocabulary["w2"], 2]
    encoder.spec = EncoderSpec(text=TextSpec(query_max_length=5, passage_max_length=7))
    long = " ".join(["w3"] * 60)
    assert [len(encoder.tokenize([long], role)[0]) for role in ("query", "passage")] == [5, 7]


def test_pack():
    assert list(pack([2, 0, 1], [3, 4, 2], 6)) == [[2, 0], [1]]
    assert list(pack([0, 1, 2], [9, 1, 1], 4)) == [[0], [1, 2]]  # the larger one alone
    assert list(pack([], [], 4)) == []


@pytest.mark.parametrize("padded", [False, True])
def test_attention_dropout_drops_in_train_mode_only(padded):
    """Hidden dropout off: whatever changes between two passes comes from the attention weights."""
    encoder = make_encoder(padded=padded)
    encoder.backbone.config.attention_probs_dropout_prob = 0.5
    for layer in encoder.backbone.encoder.layer:
        layer.attention.self.dropout.p = 0.5
    row = flat_row(encoder.tokenize(random_texts(), "query"))
    torch.manual_seed(0)
    encoder.train()
    assert not torch.allclose(encoder(*row), encoder(*row), atol=1e-3)
    encoder.eval()
    assert torch.equal(encoder(*row), encoder(*row))


def attention_inputs(lengths=(2, 3)):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(lengths), 4, generator=generator) for _ in range(3))
    borders = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    module = torch.nn.Identity().eval()
    return (module, query, key, value), {"cu_seq_lens_q": borders, "max_length_q": max(lengths), "text_lengths": tuple(lengths)}


@pytest.mark.parametrize("absent", ["cu_seq_lens_q", "max_length_q", "text_lengths"])
def test_attention_without_borders_is_refused(absent):
    inputs, borders = attention_inputs()
    with pytest.raises(ValueError, match="call Encoder, not the bare model"):
        unpadded_attention(*inputs, None, **{**borders, absent: None})


def test_attention_with_a_mask_is_refused():
    inputs, borders = attention_inputs()
    with pytest.raises(ValueError, match="takes no attention_mask"):
        unpadded_attention(*inputs, torch.ones(1, 5), **borders)


def test_the_bare_backbone_is_refused():
    """transformers would drop the mask of a padded batch without a word."""
    encoder = make_encoder(padded=False)
    batch = encoder.tokenizer(["w1 w2", "w3"], padding=True, return_tensors="pt")
    with pytest.raises(ValueError, match=UNPADDED):
        encoder.backbone(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def test_a_change_of_attention_underneath_is_refused():
    encoder = make_encoder(padded=False)
    encoder.backbone.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="changed to 'sdpa'"):
        encoder.encode(["w1"], "query")


def test_the_padded_path_serves_families_that_have_no_other():
    config = AutoConfig.for_model("distilbert", vocab_size=210, dim=32, n_layers=1, n_heads=4, hidden_dim=64, pad_token_id=1)
    backbone, spec = AutoModel.from_config(config), EncoderSpec(text=TextSpec(query_max_length=48, passage_max_length=48))
    encoder = Encoder(backbone, make_tokenizer(), spec)
    assert encoder.padded and not make_encoder().padded
    texts = random_texts()
    vectors = encoder.encode(texts, "query")
    np.testing.assert_allclose(vectors, by_hand(encoder, backbone.eval(), texts, "query: "), rtol=0, atol=1e-6)
    with pytest.raises(ConfigurationError, match="model.attention=unpadded.*'distilbert'"):
        Encoder(backbone, make_tokenizer(), spec, padded=False)


@pytest.mark.parametrize(("family", "room"), [("bert", 64), ("xlm-roberta", 62)])
def test_lengths_beyond_the_positions_are_refused(family, room):
    encoder = make_encoder(family)
    for field in ("query_max_length", "passage_max_length"):
        lengths = {"query_max_length": 8, "passage_max_length": 8}
        Encoder(encoder.backbone, encoder.tokenizer, EncoderSpec(text=TextSpec(**{**lengths, field: room})))
        with pytest.raises(ConfigurationError, match=rf"model.text.{field}={room + 1}.*{room} positions"):
            Encoder(encoder.backbone, encoder.tokenizer, EncoderSpec(text=TextSpec(**{**lengths, field: room + 1})))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ConfigurationError, match="model.pooling='max'"):
        EncoderSpec("max")
