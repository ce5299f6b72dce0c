"""Merging two or several: ends bit for bit, the middle against plain arithmetic, and models that do not belong together."""

import copy
import gc
import json
import weakref

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.exporting.trimming import trim
from e5ft.modeling.compact import compact
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.modeling.lora import add_adapters
from e5ft.modeling.merging import check_mergeable, merge, plain, soup
from e5ft.modeling.settings import LoraSettings, ModelSource
from tests.conftest import make_encoder, make_tokenizer

FAMILIES = ("bert", "xlm-roberta")
TEXTS = ["w1 w2 w3", "w5 " * 30]


def tensors(encoder: Encoder) -> dict[str, torch.Tensor]:
    pooler = {f"pooler.{name}": tensor for name, tensor in encoder.pooler[0].state_dict().items()}
    return {name: tensor.clone() for name, tensor in {**encoder.backbone.state_dict(), **pooler}.items()}


def pair(family: str = "bert") -> tuple[Encoder, Encoder]:
    return make_encoder(family, seed=0).eval(), make_encoder(family, seed=1).eval()


def equal_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("how", ["compact", "adapters"])
def test_the_plain_model_of_another_structure_gives_its_vectors(how):
    base, tuned = make_encoder().eval(), make_encoder().eval()
    if how == "compact":
        assert compact(tuned, range(60))
    else:
        add_adapters(tuned, LoraSettings(rank=2, alpha=4, dropout=0.0, target_modules=("value", "dense")), seed=0)
    with torch.no_grad():
        for name, parameter in tuned.backbone.named_parameters():
            if how == "compact" or "lora_B" in name:
                parameter.add_(0.1)
    before = base.encode(TEXTS, "query")
    made = plain(tuned, base)
    np.testing.assert_allclose(made.encode(TEXTS, "query"), tuned.encode(TEXTS, "query"), atol=1e-6)
    assert not np.allclose(made.encode(TEXTS, "query"), before, atol=1e-3)
    np.testing.assert_array_equal(base.encode(TEXTS, "query"), before)
    half = merge(base, made, 0.5)  # and can be merged
    for name, tensor in tensors(half).items():
        torch.testing.assert_close(tensor, (tensors(base)[name] + tensors(made)[name]) / 2)


@pytest.mark.parametrize("alpha", [0, 1, 0.0, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_are_the_two_models_bit_for_bit(family, alpha):
    """Also where arithmetic would not give them back: a negative zero, and an infinity times 0."""
    base, tuned = pair(family)
    with torch.no_grad():
        for encoder in (base, tuned):
            bias = encoder.backbone.encoder.layer[0].output.dense.bias
            bias[0], bias[1] = -0.0, float("inf") if encoder is base else 1.0
    merged, end = tensors(merge(base, tuned, alpha)), tensors(tuned if alpha else base)
    assert merged.keys() == end.keys() and any(name.startswith("pooler.") for name in merged)
    assert all(equal_bits(merged[name], end[name]) for name in end)


@pytest.mark.parametrize("alpha", [0.25, 0.3, 0.9])
def test_the_middle_is_rounded_once(alpha):
    """Against numpy in float64."""
    base, tuned = pair()
    merged, ours, theirs = tensors(merge(base, tuned, alpha)), tensors(base), tensors(tuned)
    for name, tensor in merged.items():
        exact = (1 - alpha) * ours[name].numpy().astype(np.float64) + alpha * theirs[name].numpy().astype(np.float64)
        np.testing.assert_array_equal(tensor.numpy(), exact.astype(np.float32), err_msg=name)
    name = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(merged[name], ours[name]) and not torch.equal(merged[name], theirs[name])


def test_the_middle_worked_by_hand():
    """A quarter of the way from 1 to 3 is 1.5, in the body and in the pooler."""
    base, tuned = pair()
    with torch.no_grad():
        for encoder, value in ((base, 1.0), (tuned, 3.0)):
            encoder.backbone.encoder.layer[1].output.dense.weight.fill_(value)
            encoder.pooler[0].dense.weight.fill_(value)
    merged = merge(base, tuned, 0.25)
    assert torch.all(merged.backbone.encoder.layer[1].output.dense.weight == 1.5)
    assert torch.all(merged.pooler[0].dense.weight == 1.5)


@pytest.mark.parametrize("alpha", [0.1, 1 / 3, 0.7])
def test_what_training_did_not_change_stays_bit_for_bit(alpha):
    base = make_encoder()
    merged, before = tensors(merge(base, copy.deepcopy(base), alpha)), tensors(base)
    assert all(equal_bits(merged[name], before[name]) for name in before)


def test_the_two_models_are_left_alone():
    base, tuned = pair()
    before = tensors(base), tensors(tuned)
    vectors = [encoder.encode(TEXTS, "query") for encoder in (base, tuned)]
    merged = merge(base, tuned, 0.5)
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.zero_()
        merged.pooler[0].dense.weight.zero_()
    merged.backbone.set_attn_implementation("sdpa")  # a configuration of its own, too
    for encoder, kept, found in zip((base, tuned), before, vectors, strict=True):
        assert all(equal_bits(tensor, kept[name]) for name, tensor in tensors(encoder).items())
        np.testing.assert_array_equal(encoder.encode(TEXTS, "query"), found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_is_saved_and_read_like_any_other(family, tmp_path):
    merged = merge(*pair(family), 0.5)
    assert not merged.training
    save_encoder(merged, tmp_path)
    again = load_encoder(ModelSource(path=str(tmp_path)))
    assert all(equal_bits(tensor, tensors(merged)[name]) for name, tensor in tensors(again).items())
    np.testing.assert_array_equal(again.encode(TEXTS, "passage"), merged.encode(TEXTS, "passage"))


def test_a_model_saved_and_read_again_belongs_to_itself(tmp_path):
    """Also after calls that leave their truncation in the tokenizer."""
    base = make_encoder()
    save_encoder(base, tmp_path)
    base.tokenize(["w1 " * 90], "query")
    check_mergeable(base, load_encoder(ModelSource(path=str(tmp_path))))


def other(change) -> tuple[Encoder, Encoder]:
    base, tuned = pair()
    return base, change(tuned) or tuned


def with_spec(**values):
    spec = {"pooling": "mean", "text": TextSpec(query_max_length=48, passage_max_length=48), **values}
    return lambda tuned: Encoder(tuned.backbone, tuned.tokenizer, EncoderSpec(**spec))


def with_other_ids(tuned):
    from tests import conftest

    words, conftest.WORDS[:] = list(conftest.WORDS), conftest.WORDS[::-1]
    try:
        tuned.tokenizer = make_tokenizer()
    finally:
        conftest.WORDS[:] = words


def with_lower_case(tuned):
    from tokenizers import normalizers

    tuned.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def with_fewer_layers(tuned):
    del tuned.backbone.encoder.layer[1]


def with_other_shape(tuned):
    tuned.backbone.encoder.layer[0].output.dense = torch.nn.Linear(60, 32)


def with_other_heads(tuned):
    tuned.config.num_attention_heads = 8


def without_pooler(tuned):
    tuned.pooler[0] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_spec(pooling="cls"), r"pooling is 'mean' in the base, 'cls'"),
        (with_spec(text=TextSpec("", "", 48, 48)), r"text.query_prefix is 'query: ' in the base, ''"),
        (with_other_ids, r"tokenizer's piece 'w0' is 4 in the base, 203"),
        (with_lower_case, r"tokenizer's normalizer is None in the base, \{'type': 'Lowercase'\}"),
        (with_fewer_layers, r"encoder.layer.1.attention.self.query.weight is in the base only"),
        (with_other_shape, r"layer.0.output.dense.weight is \(32, 64\) in the base, \(32, 60\)"),
        (with_other_heads, r"num_attention_heads is 4 in the base, 8"),
        (without_pooler, r"pooler.dense.weight is in the base only"),
    ],
)
def test_models_that_do_not_belong_together(change, message):
    with pytest.raises(ConfigurationError, match=message):
        merge(*other(change), 0.5)


@pytest.mark.parametrize("which", [0, 1])
def test_a_trimmed_model_and_a_whole_one(which):
    two = list(pair())
    trim(two[which], ["w1 w2"], [])
    of, whole = ("the base", "the fine-tuned model")[:: -1 if which else 1]
    told = rf"cannot be merged: {of} is trimmed to \d+ of the 206 pieces of {whole}; merge whole models, and trim what comes out"
    with pytest.raises(ConfigurationError, match=told):
        merge(*two, 0.5)
    trim(two[1 - which], ["w1 w2"], [])  # alike, they can be merged
    assert merge(*two, 0.5).config.vocab_size < 206


def named(*encoders: Encoder):
    return [(f"model {index}", encoder) for index, encoder in enumerate(encoders)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_soup_is_the_mean(count):
    """Against numpy in float64; it is rounded once a model, so by at most half a unit in the last place each time."""
    members = [make_encoder(seed=seed).eval() for seed in range(count)]
    mean, parts = tensors(soup(named(*members))), [tensors(member) for member in members]
    for name, tensor in mean.items():
        values = np.stack([part[name].numpy().astype(np.float64) for part in parts])
        bound = count / 2 * np.spacing(np.abs(values).max(axis=0).astype(np.float32))
        assert (np.abs(tensor.numpy() - values.mean(axis=0)) <= bound).all(), name


def test_three_models_with_pieces_that_have_scores_are_one_soup():
    """As multilingual-E5's: copying such a tokenizer changes scores in their last digit (-7.4715776443481445)."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("k", -7.4715776443481445), ("w", -7.7206902503967285)]
    members = [make_encoder(seed=seed) for seed in range(3)]
    for member in members:
        unigram = Tokenizer(models.Unigram(pieces, unk_id=3))
        member.tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", pad_token="<pad>")
        member.tokenizer.backend_tokenizer.model = models.Unigram(pieces, unk_id=3)  # exact again, as a loaded one's are
    made = soup(named(*members))
    assert json.loads(made.tokenizer.backend_tokenizer.to_str())["model"]["vocab"][4] == ["k", -7.4715776443481445]


def test_what_all_members_share_stays_bit_for_bit():
    """A hundred times the same, and a tensor that only some of them changed."""
    base = make_encoder()
    mean, before = tensors(soup(named(*[base] * 100))), tensors(base)
    assert all(equal_bits(mean[name], before[name]) for name in before)


@pytest.mark.parametrize("spherical", [False, True])
def test_of_a_soup_s_members_two_are_held_at_a_time(spherical):
    """Beside the mean, the one that was asked for last and the one before it."""
    alive, most = [], []

    def members():
        for seed in range(6):
            gc.collect()
            most.append(sum(reference() is not None for reference in alive))
            encoder = make_encoder(seed=seed).eval()
            alive.append(weakref.ref(encoder))
            yield f"model {seed}", encoder
            del encoder

    soup(members(), spherical=spherical)
    assert len(most) == 6 and max(most) <= 1


def test_an_arc_worked_by_hand():
    """Half way between (1, 0) and (0, 1) lies (r, r), r = sin 45 / sin 90; a third of the way sin 60 and sin 30; lengths stay raw."""
    base, tuned = pair()
    bias = [encoder.backbone.encoder.layer[0].output.dense.bias for encoder in (base, tuned)]
    with torch.no_grad():
        for tensor, place, value in zip(bias, (0, 1), (1.0, 2.0), strict=True):
            tensor.zero_()
            tensor[place] = value
    for share, expected in ((0.5, (0.5**0.5, 2 * 0.5**0.5)), (1 / 3, (0.75**0.5, 2 * 0.5))):
        merged = merge(base, tuned, share, spherical=True).backbone.encoder.layer[0].output.dense.bias
        np.testing.assert_allclose(merged[:2].tolist(), expected, rtol=1e-6)
        assert not merged[2:].any()


def test_an_arc_keeps_the_length_where_a_line_loses_it():
    """Every tensor of two unrelated models of equal length; the straight line is the negative control."""
    base, tuned = pair()
    with torch.no_grad():
        for encoder in (base, tuned):
            for tensor in encoder.backbone.parameters():
                tensor.normal_().div_(tensor.norm())
    for spherical in (True, False):
        lengths = [float(tensor.detach().norm()) for tensor in merge(base, tuned, 0.3, spherical=spherical).backbone.parameters()]
        assert (np.abs(np.array(lengths) - 1) < 1e-5).all() == spherical


@pytest.mark.parametrize("name", ["equal", "zero", "opposite", "longer"])
def test_without_an_arc_it_is_the_straight_line(name):
    base, tuned = pair()
    with torch.no_grad():
        for ours, theirs in zip(base.backbone.parameters(), tuned.backbone.parameters(), strict=True):
            theirs.copy_(ours * {"equal": 1, "zero": 0, "opposite": -1, "longer": 3}[name])
    arc, line = (tensors(merge(base, tuned, 0.3, spherical=spherical)) for spherical in (True, False))
    for key in line:  # the poolers are of two models
        assert key.startswith("pooler.") or equal_bits(arc[key], line[key]), key


def test_a_soup_along_arcs_takes_one_after_another():
    """Two alike: half way, from either side. Three: the third joins the first two's at a third."""
    first, second, third = (make_encoder(seed=seed).eval() for seed in range(3))
    there, back = (tensors(soup(named(*both), spherical=True)) for both in ((first, second), (second, first)))
    for name, tensor in there.items():
        torch.testing.assert_close(tensor, back[name], rtol=1e-6, atol=1e-7)
    three = tensors(soup(named(first, second, third), spherical=True))
    steps = tensors(merge(third, merge(first, second, 1 / 2, spherical=True), 2 / 3, spherical=True))
    for name, tensor in three.items():
        torch.testing.assert_close(tensor, steps[name], rtol=1e-6, atol=1e-7)


def test_members_that_do_not_belong_together_are_named():
    members = named(make_encoder(), make_encoder(seed=1), other(with_spec(pooling="cls"))[1])
    told = r"pooling is 'cls' in model 2, 'mean' in model 0; all must be made from one model, with the same tokenizer"
    with pytest.raises(ConfigurationError, match=told):
        soup(members)
