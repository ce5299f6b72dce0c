"""Trimmed vocabularies: covered texts are cut into the same pieces, whatever the kind of tokenizer; ids, files, and what is lost."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, XLMRobertaTokenizer

from e5ft.data.text import TextSpec
from e5ft.errors import ConfigurationError
from e5ft.exporting.folder import export_model
from e5ft.exporting.trimming import card_section, trim
from e5ft.modeling.compact import compact
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.loading import load_encoder
from e5ft.modeling.settings import ModelSource

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
KOREAN = [
    "서울특별시는 대한민국의 수도이다.",
    "수도권의 인구는 서울특별시의 인구보다 많다.",
    "전입신고는 주민센터에서 한다, 2024년부터.",
]
ENGLISH = ["the capital of the country is the largest city", "a query and a passage of the largest corpus"]
OTHERS = ["die größte Stadt des Landes", "столица страны и города", "国家的首都是最大的城市"]
CORPUS = [f"{prefix}: {text}" for prefix in ("query", "passage") for text in (*KOREAN, *ENGLISH, *OTHERS)] * 3
WORDS = sorted({word for text in (*KOREAN, *ENGLISH, *OTHERS) for word in text.split()})
SYLLABLES = [chr(code) for code in range(ord("가"), ord("가") + 200)]  # single, so that trimming keeps them
KINDS = ("unigram", "xlmr", "bpe", "byte_bpe", "wordpiece")


def trained(kind: str) -> Tokenizer:
    made, trainer = {
        "unigram": (models.Unigram(), trainers.UnigramTrainer(vocab_size=240, special_tokens=SPECIAL, unk_token="<unk>")),
        "bpe": (
            models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"),
            trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, end_of_word_suffix="</w>"),
        ),
        "byte_bpe": (
            models.BPE(),
            trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
        ),
        "wordpiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL)),
    }[kind]
    tokenizer = Tokenizer(made)
    tokenizer.pre_tokenizer = {
        "unigram": pre_tokenizers.Metaspace(),
        "byte_bpe": pre_tokenizers.ByteLevel(add_prefix_space=True),
    }.get(kind, pre_tokenizers.Whitespace())
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = ("</s>", 2), ("<s>", 0)
    tokenizer.post_processor = {
        "bpe": processors.BertProcessing(*ends),
        "byte_bpe": processors.Sequence([processors.ByteLevel(), processors.RobertaProcessing(*ends)]),
    }.get(kind, processors.TemplateProcessing("<s> $A </s>", special_tokens=[ends[1], ends[0]]))
    if kind == "byte_bpe":
        tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    names = dict(bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>")
    if kind != "xlmr":
        return PreTrainedTokenizerFast(tokenizer_object=trained(kind), mask_token="<mask>", **names)  # a token beyond the model's
    vocabulary = json.loads(trained("unigram").to_str())["model"]["vocab"]
    return XLMRobertaTokenizer(vocab=[*map(tuple, vocabulary), ("<mask>", 0.0)])


def encoder_of(tokenizer, family: str = "bert") -> Encoder:
    """More rows than pieces, as mE5-small has."""
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer) + 7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=130, pad_token_id={"bert": 0, "xlm-roberta": 1}[family],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config)
    return Encoder(backbone, tokenizer, EncoderSpec("mean", TextSpec(query_max_length=128, passage_max_length=128))).eval()


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: tokenizer_of(kind) for kind in KINDS}


def pieces(encoder: Encoder, texts: list[str], role: str) -> list[list[str]]:
    return [encoder.tokenizer.convert_ids_to_tokens(ids) for ids in encoder.tokenize(texts, role)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(WORDS) | st.text("서울시수도abc1.,ßи国\U0001f600", min_size=1, max_size=6), min_size=1, max_size=8
        ).map(" ".join),
        min_size=1,
        max_size=4,
    )
)
def test_covered_texts_are_cut_as_before_and_have_the_same_vectors(tokenizers, kind, texts):
    whole = encoder_of(tokenizers[kind])
    cut = copy.deepcopy(whole)
    found = trim(cut, texts, [])
    assert found.pieces == len(cut.tokenizer) == cut.config.vocab_size < found.before == len(whole.tokenizer)
    assert type(cut.tokenizer) is type(whole.tokenizer)
    for role in ("query", "passage"):
        assert pieces(cut, texts, role) == pieces(whole, texts, role)
        np.testing.assert_allclose(cut.encode(texts, role), whole.encode(texts, role), atol=1e-6)
    old, new = whole.tokenizer.get_vocab(), cut.tokenizer.get_vocab()
    assert new.keys() < old.keys() and sorted(new, key=new.get) == sorted(new, key=old.get)  # in the order as before
    rows = whole.backbone.get_input_embeddings().weight[[old[piece] for piece in sorted(new, key=new.get)]]
    torch.testing.assert_close(cut.backbone.get_input_embeddings().weight, rows, rtol=0, atol=0)
    assert list(new.values()) != list(old.values()) and all(new[piece] == old[piece] for piece in SPECIAL)


def test_scores_stay_to_the_last_bit():
    """`tokenizers` reads some numbers from a file as the next one above or below."""
    scores = dict(zip(SYLLABLES, np.random.default_rng(0).uniform(-15, -2, len(SYLLABLES)).tolist(), strict=True))
    model = models.Unigram([*((piece, 0.0) for piece in SPECIAL), *scores.items()], unk_id=3)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    cut = encoder_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"))
    cut.tokenizer.backend_tokenizer.model = model
    trim(cut, KOREAN, [])
    after = dict(json.loads(cut.tokenizer.backend_tokenizer.to_str())["model"]["vocab"])
    assert {piece: after[piece] for piece in SYLLABLES} == scores


def test_an_unknown_character_weighs_as_before():
    """Its score is 10 below the lowest of all: [abc][d] at -40 must beat [a][unknown][cd] at -1 and that, -51; without [zz] -31."""
    vocabulary = [(piece, 0.0) for piece in SPECIAL]
    vocabulary += [("▁", -1.0), ("a", -0.5), ("abc", -20.0), ("d", -20.0), ("cd", -0.5), ("zz", -40.0), ("가나", -3.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    encoder = encoder_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"))
    encoder.spec = EncoderSpec("mean", TextSpec("", "", 32, 32))
    assert pieces(encoder, ["abcd"], "query") == [["▁", "abc", "d"]]
    trim(encoder, ["abcd", "cd"], [])
    assert pieces(encoder, ["abcd"], "query") == [["▁", "abc", "d"]]
    assert "가나" not in encoder.tokenizer.get_vocab()


ENDS = ("[SEP]", 6), ("[CLS]", 5)
PROCESSORS = {
    "bert": processors.BertProcessing(*ENDS),
    "roberta": processors.Sequence([processors.RobertaProcessing(*ENDS)]),
    "template": processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=list(ENDS)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_special_tokens_that_stand_among_the_others_get_their_new_ids(name):
    """In the tokenizer's files and in the configuration; what lies before the padding token stays, so that it keeps its id."""
    words = ["무엇", "[PAD]", "사과", "바다", "##다", "[CLS]", "[SEP]", "[UNK]", "하늘"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.post_processor = pre_tokenizers.Whitespace(), PROCESSORS[name]
    names = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")
    encoder = encoder_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names), "xlm-roberta")
    encoder.spec = EncoderSpec("mean", TextSpec("", "", 32, 32))
    encoder.config.bos_token_id, encoder.config.eos_token_id = 5, 6
    vectors = encoder.encode(["하늘 없다"], "query")
    assert trim(encoder, ["하늘 없다"], []).pieces == 7  # all but 사과 and 바다; [##다] is a single character
    assert pieces(encoder, ["하늘 사과"], "query") == [["[CLS]", "하늘", "[UNK]", "[SEP]"]]
    assert encoder.tokenize(["하늘 사과"], "query") == [[3, 6, 5, 4]]
    config = encoder.config
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.vocab_size) == (1, 3, 4, 7)
    np.testing.assert_allclose(encoder.encode(["하늘 없다"], "query"), vectors, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_single_characters_of_hangul_ascii_digits_and_punctuation_stay(tokenizers, kind):
    """So other Korean is cut finer, not lost: nothing that had pieces becomes unknown."""
    whole = encoder_of(tokenizers[kind])
    cut = copy.deepcopy(whole)
    trim(cut, ["서울"], [])
    unknown = [sum(ids.count(3) for ids in encoder.tokenize([*KOREAN, *ENGLISH], "query")) for encoder in (whole, cut)]
    assert unknown == [0, 0]
    assert len(cut.tokenize(KOREAN[:1], "query")[0]) > len(whole.tokenize(KOREAN[:1], "query")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_languages_keep_the_pieces_of_their_scripts_and_words(tokenizers, kind):
    """English and Russian share their letters with others: the pieces of their frequent words stay, not German's."""
    whole = encoder_of(tokenizers[kind])
    cut = copy.deepcopy(whole)
    found = trim(cut, [], ["ko", "en"])
    assert found.difference is None and found.used == found.texts == 0
    for role in ("query", "passage"):
        assert pieces(cut, [*KOREAN, *ENGLISH], role) == pieces(whole, [*KOREAN, *ENGLISH], role)
    other = encoder_of(tokenizers[kind])
    trim(other, [], ["ru"])
    assert pieces(other, OTHERS[1:2], "query") == pieces(whole, OTHERS[1:2], "query") != pieces(cut, OTHERS[1:2], "query")
    assert pieces(other, KOREAN, "query") != pieces(whole, KOREAN, "query")


def test_english_alone_is_less_than_its_letters(tokenizers):
    """A German letter goes, which English words do not have."""
    encoder = encoder_of(tokenizers["unigram"])
    before = {piece.lstrip("▁") for piece in encoder.tokenizer.get_vocab()}
    trim(encoder, [], ["en"])
    kept = {piece.lstrip("▁") for piece in encoder.tokenizer.get_vocab()}
    assert "ß" in before - kept
    assert set(encoder.tokenizer.tokenize("the capital of the largest city")) <= encoder.tokenizer.get_vocab().keys()


def test_korean_keeps_single_chinese_characters_and_chinese_keeps_words():
    words = {"한국": 0.0, "國": -1.0, "国家": -2.0, "的": -3.0}
    vocabulary = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")] + list(words.items()) + [("<mask>", 0.0)]
    kept = {}
    for language in ("ko", "zh"):
        encoder = encoder_of(XLMRobertaTokenizer(vocab=vocabulary))
        trim(encoder, [], [language])
        kept[language] = set(words) & encoder.tokenizer.get_vocab().keys()
    assert kept == {"ko": {"한국", "國", "的"}, "zh": {"國", "国家", "的"}}


def test_words_need_their_package(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", None)
    encoder = encoder_of(tokenizers["unigram"])
    with pytest.raises(ConfigurationError, match=r"^trim.languages=de: needs the package wordfreq: pip install wordfreq$"):
        trim(encoder, [], ["ko", "de"])
    assert len(encoder.tokenizer) == len(tokenizers["unigram"])
    trim(encoder, [], ["ko"])


def test_what_other_texts_lose_is_counted(tokenizers):
    """Of a covered text nothing; by hand: the words' own pieces, without prefix and special tokens."""
    encoder = encoder_of(tokenizers["unigram"])
    tokenizer = encoder.tokenizer
    cut = [tokenizer.tokenize(text) for text in OTHERS]
    covered = {*tokenizer.tokenize(f"query: {KOREAN[0]}"), *tokenizer.tokenize("passage:")}
    found = trim(encoder, KOREAN[:1], [], {"covered": KOREAN[:1] * 2, "others": OTHERS, "mixed": [KOREAN[0], OTHERS[1]]})
    kept = encoder.tokenizer.get_vocab().keys()
    assert covered <= kept
    lost = [[piece not in kept for piece in text] for text in cut]
    assert all(map(any, lost))
    assert found.uncovered["covered"] == (0, 0)
    assert found.uncovered["others"] == (sum(map(sum, lost)) / sum(map(len, lost)), 1)
    assert found.uncovered["mixed"][1] == 0.5
    lines = list(found.lines())
    assert lines[0].startswith(f"trimmed: {len(kept):,} of {len(tokenizer):,} pieces are kept")
    assert lines[2].endswith("in 100.0% of the texts")


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("kind", ["xlmr", "byte_bpe"])
def test_a_trimmed_folder_is_a_model_like_any_other(tokenizers, tmp_path, kind, family):
    """Written, checked by the export's other loaders, read back, trimmed again, and trained with the compact table."""
    whole = encoder_of(tokenizers[kind], family)
    vectors = whole.encode(KOREAN, "passage")
    cut = copy.deepcopy(whole)
    record = trim(cut, KOREAN, [], {"a|b": OTHERS}).record("base", ["/home/me/faq.jsonl", "old/faq.jsonl"], ["ko"])
    export_model(cut, tmp_path / "model", "card" + card_section(record))
    card = (tmp_path / "model/README.md").read_text()
    assert (
        f"{record['pieces']:,} of the {record['before']:,} pieces of base: those of the texts of faq.jsonl, the script of ko, and all Hangul"
        in card
    )
    assert "a|b" not in card and "/home/me" not in card
    read = load_encoder(ModelSource(path=str(tmp_path / "model")))
    np.testing.assert_allclose(read.encode(KOREAN, "passage"), vectors, atol=1e-6)
    assert read.config.vocab_size == len(read.tokenizer) == record["pieces"]
    assert read.config.pad_token_id == whole.config.pad_token_id
    assert read.tokenizer.mask_token_id == read.tokenizer.convert_tokens_to_ids("<mask>") < record["pieces"]
    assert read.tokenizer.convert_ids_to_tokens(read.tokenizer.mask_token_id) == "<mask>"

    ids = {index for text in read.tokenize(KOREAN[:1], "query") for index in text}
    assert compact(read, ids)
    read.train()(torch.tensor(read.tokenize(KOREAN[:1], "query")[0]), [len(read.tokenize(KOREAN[:1], "query")[0])])[
        ..., 0
    ].sum().backward()
    assert read.backbone.get_input_embeddings().weight.grad.any()

    again = load_encoder(ModelSource(path=str(tmp_path / "model")))
    assert trim(again, KOREAN[:1], []).pieces < record["pieces"]
    np.testing.assert_allclose(again.encode(KOREAN[:1], "passage"), vectors[:1], atol=1e-6)
