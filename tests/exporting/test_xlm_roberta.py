"""A model written as XLM-R's class gives the same vectors, and SentencePiece's file the same token ids."""

import random
import unicodedata

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

from e5ft.app.settings.build import shipped
from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.exporting.xlm_roberta import as_xlm_roberta, sentencepiece_model, xlm_roberta_pieces
from e5ft.files import read_json
from e5ft.modeling.charsmap import precompiled_charsmap
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource
from tests.conftest import make_encoder

SYLLABLES = "가각갂나다라마바사아자차카타파하한국어서울"
LATIN = "abcdefghijklmnopqrstuvwxyzéñ.,?!:0123456789"
MAP = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFF5F)} | {
    "\t": " ",
    "\n": " ",
    "\u3000": " ",
}


def make_xlmr_tokenizer(nfc: bool = False) -> XLMRobertaTokenizer:
    """XLM-R's kind of tokenizer over a few hundred pieces, perhaps with NFC in front."""
    draw = random.Random(0)
    words = dict.fromkeys(["▁", *SYLLABLES, *LATIN, "▁query", "▁passage", *("".join(draw.choices(SYLLABLES, k=2)) for _ in range(80)),
                           *("▁" + "".join(draw.choices(SYLLABLES + LATIN, k=3)) for _ in range(80))])  # fmt: skip
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, -2.0 - i / 64) for i, word in enumerate(words)] + [("<mask>", 0.0)]
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    tokenizer = XLMRobertaTokenizer(vocab=pieces, mask_token=mask)
    table = normalizers.Precompiled(precompiled_charsmap(MAP))
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), table]) if nfc else table
    return tokenizer


def make_xlmr_encoder(family: str = "bert", nfc: bool = False, pooling: str = "mean") -> Encoder:
    """A random encoder with such a tokenizer."""
    tokenizer = make_xlmr_tokenizer(nfc)
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer) + 3, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0 if family == "bert" else 1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config)
    return Encoder(backbone, tokenizer, EncoderSpec(pooling, TextSpec(query_max_length=48, passage_max_length=60))).eval()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Korean, Latin, full-width and unknown letters, blanks of all kinds; one cut at the limit."""
    draw = random.Random(1)
    alphabet = SYLLABLES * 2 + LATIN + "ＡＢ１２？" + "龘한글    \t\u3000"
    return ["".join(draw.choices(alphabet, k=draw.randrange(1, 40))) for _ in range(200)] + ["  앞뒤  ", "가" * 200]


@pytest.mark.parametrize("pooled", [True, False])
def test_a_bert_as_xlm_roberta_gives_the_same_hidden_states_to_the_last_bit(texts, pooled):
    encoder = make_xlmr_encoder()
    if not pooled:
        encoder.pooler = [None]
    written = as_xlm_roberta(encoder)
    assert written.backbone.config.model_type == "xlm-roberta" and written.backbone.config.max_position_embeddings == 66
    for role in ("query", "passage"):
        assert np.array_equal(written.encode(texts, role), encoder.encode(texts, role))
    assert (written.pooler[0] is not None) is pooled
    if pooled:
        assert torch.equal(written.pooler[0].dense.weight, encoder.pooler[0].dense.weight)
    with torch.no_grad():  # its own count of positions, from the padding index, says the same
        ids = torch.tensor([[0, 9, 10, 11, 2, 1, 1]])
        theirs = written.backbone.train(False)
        theirs.set_attn_implementation("eager"), encoder.backbone.set_attn_implementation("eager")
        mask = (ids != 1).long()
        hidden = [model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :5] for model in (theirs, encoder.backbone)]
    assert torch.equal(*hidden)


@pytest.mark.parametrize("nfc", [False, True])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_the_folder_loads_as_xlm_r_and_gives_the_model_s_vectors(tmp_path, texts, family, nfc):
    encoder = make_xlmr_encoder(family, nfc)
    assert export_model(encoder, tmp_path / "model", "card", architecture="xlm_roberta") <= 1e-5
    config, tokenizer = (read_json(tmp_path / "model" / name) for name in ("config.json", "tokenizer_config.json"))
    assert config["architectures"] == ["XLMRobertaModel"] and tokenizer["tokenizer_class"] == "XLMRobertaTokenizer"
    assert type(AutoTokenizer.from_pretrained(tmp_path / "model")) is XLMRobertaTokenizer
    again = load_encoder(ModelSource(path=str(tmp_path / "model")))
    assert again.spec == encoder.spec
    assert np.abs(again.encode(texts, "query") - encoder.encode(texts, "query")).max() <= 1e-6


def test_without_an_architecture_the_folder_is_as_it_was(tmp_path):
    export_model(make_xlmr_encoder(), tmp_path / "model", "card")
    assert read_json(tmp_path / "model/config.json")["architectures"] == ["BertModel"]
    assert not (tmp_path / "model/sentencepiece.bpe.model").exists()


def test_the_file_holds_what_xlm_r_s_class_expects():
    """Read by the generated reader of sentencepiece_model.proto that transformers ships."""
    pytest.importorskip("google.protobuf")
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto

    pieces, charsmap = xlm_roberta_pieces(make_xlmr_tokenizer())
    proto = ModelProto.FromString(sentencepiece_model(pieces, charsmap))
    kind = proto.SentencePiece
    assert [(each.piece, each.score, each.type) for each in proto.pieces[:3]] == [
        ("<unk>", 0, kind.UNKNOWN), ("<s>", 0, kind.CONTROL), ("</s>", 0, kind.CONTROL),
    ]  # fmt: skip
    assert [each.piece for each in proto.pieces[3:]] == [piece for piece, _ in pieces[4:-1]]
    assert [each.score for each in proto.pieces[3:]] == pytest.approx([score for _, score in pieces[4:-1]], rel=1e-7)
    assert {each.type for each in proto.pieces[3:]} == {kind.NORMAL}
    trainer, normaliser = proto.trainer_spec, proto.normalizer_spec
    assert trainer.model_type == trainer.UNIGRAM and trainer.vocab_size == len(proto.pieces)
    assert (trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.byte_fallback) == (0, 1, 2, False)
    assert normaliser.add_dummy_prefix and normaliser.remove_extra_whitespaces and normaliser.escape_whitespaces


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_sentencepiece_finds_the_same_ids_and_in_nfd_those_of_nfc(texts, form):
    library = pytest.importorskip("sentencepiece")
    tokenizer = make_xlmr_tokenizer()
    reader = library.SentencePieceProcessor(model_proto=sentencepiece_model(*xlm_roberta_pieces(tokenizer)))
    found = [[i + 1 if i else 3 for i in reader.encode(unicodedata.normalize(form, text))] for text in texts]
    assert found == tokenizer(texts, add_special_tokens=False)["input_ids"]


def shipped_tokenizer():
    return PreTrainedTokenizerFast(tokenizer_file=str(shipped("data/tokenizer/tokenizer.json")))


def with_byte_pairs():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))


def lower_casing():
    tokenizer = make_xlmr_tokenizer()
    own = tokenizer.backend_tokenizer.normalizer
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), own])
    return tokenizer


def in_another_order():
    tokenizer = make_xlmr_tokenizer()
    pieces, _ = xlm_roberta_pieces(tokenizer)
    tokenizer.backend_tokenizer.model = models.Unigram([*pieces[:4], pieces[-1], *pieces[4:-1]], 3, False)
    return tokenizer


def with_added_tokens():
    tokenizer = make_xlmr_tokenizer()
    tokenizer.add_tokens(["[제목]"])
    return tokenizer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (shipped_tokenizer, r"the tokenizer \(Unigram\) is not XLM-R's"),
        (with_byte_pairs, r"the tokenizer \(BPE\) is not XLM-R's"),
        (lower_casing, r"the tokenizer \(Unigram\) is not XLM-R's"),
        (in_another_order, "begin with <s> <pad> </s> <unk> and end with <mask>"),
        (with_added_tokens, r"added tokens \('\[제목\]'\)"),
    ],
)
def test_other_tokenizers_are_refused_in_one_line(make, reason):
    with pytest.raises(ConfigurationError, match=rf"^architecture=xlm_roberta: [^\n]*{reason}[^\n]*$"):
        xlm_roberta_pieces(make())


def test_other_models_are_refused_and_leave_nothing(tmp_path):
    encoder = make_encoder()
    with pytest.raises(ConfigurationError, match=r"^architecture=xlm_roberta: the tokenizer \(WordLevel\)[^\n]*$"):
        export_model(encoder, tmp_path / "model", "card", architecture="xlm_roberta")
    encoder = make_xlmr_encoder()
    encoder.backbone.config.model_type = "electra"
    with pytest.raises(ConfigurationError, match="^architecture=xlm_roberta: the model is of type 'electra'"):
        export_model(encoder, tmp_path / "model", "card", architecture="xlm_roberta")
    assert not list(tmp_path.iterdir())
