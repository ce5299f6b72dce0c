"""What is in a folder's tokenizer files prepares a text as our Python does, in every kind of tokenizer, and is off again in memory."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerFast, XLMRobertaTokenizer

from e5ft.data.text import TextSpec, normalise, tokenize, tokenizer_state
from e5ft.files import read_json
from e5ft.modeling import tokenizer_files
from e5ft.modeling.charsmap import precompiled_charsmap
from e5ft.modeling.loading import load_description, load_encoder, save_encoder
from e5ft.modeling.merging import check_mergeable
from e5ft.modeling.settings import ModelSource
from e5ft.modeling.tokenizer_files import PREPARATION, preparation, read_scores, save_tokenizer, take_preparation_off
from tests.conftest import make_encoder
from tests.weights_file import tiny_source

DATA = Path(__file__).parents[2] / "data"
SPEC = TextSpec()
SPECIAL = {
    "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
    "mask_token": "<mask>",
}  # fmt: skip
KINDS = ("XLM-R", "mini", "BERT", "BPE")
SCORE = -7.4715776443481445  # a float32 that `tokenizers` reads from a file as -7.471577644348144


def sample() -> list[str]:
    """A tenth of the sample's texts."""
    rows = [json.loads(line) for line in (DATA / "sample/train.jsonl").read_text(encoding="utf-8").splitlines()[::10]]
    return [normalise(text) for row in rows for text in (row["query"], row["document"])]


def generated() -> list[str]:
    """Texts of what composes in an uncommon way, each in NFC."""
    draw = random.Random(0)
    syllables = [chr(n) for n in range(0xAC00, 0xD7A4)]
    alphabets = [
        syllables,
        [chr(n) for n in (*range(0x1100, 0x1200), *range(0x3131, 0x318F))] + syllables[::50],  # jamo among syllables
        list("क़ख़ग़ज़ड़ढ़फ़य़ংড়ਲ਼יִשׁאַΩKÅ") + ["\u0958", "\u0344", "\u2adc", "\u212b", "\ufb1d"],  # decomposed in NFC, too
        ["👩\u200d👩\u200d👧", "🇰🇷", "👍🏽", "☕\ufe0f", "가", "1\ufe0f\u20e3"],
        list("ภาษาไทยน้ำกี่ผู้ใหญ่"),
        list("éñçÄöüǖṩệ") + ["e\u0301\u0323", "q\u0307\u0323"],
    ]
    texts = ["".join(draw.choices([*alphabet, " "], k=draw.randint(1, 30))) for alphabet in alphabets for _ in range(40)]
    return [text for text in map(normalise, [*texts, " ".join(syllables)]) if text]


def make(kind: str, texts: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of one kind, over pieces of the sample."""
    if kind == "mini":
        return AutoTokenizer.from_pretrained(DATA / "tokenizer")
    if kind == "XLM-R":
        pieces = read_json(DATA / "tokenizer/tokenizer.json")["model"]["vocab"]
        pieces[10][1] = SCORE
        mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
        made = XLMRobertaTokenizer(
            vocab=[tuple(piece) for piece in [*pieces, ("\u1112", -9.0), ("\u1161", -9.5)]], mask_token=mask
        )
        # As XLM-R's: letters with their marks are composed, Hangul is not.
        table = {"\n": " ", "\u3000": " ", "Ａ": "A", "\u0341": "\u0301", "\x01": ""}
        made.backend_tokenizer.normalizer = normalizers.Precompiled(precompiled_charsmap(table))
        return made
    alphabet = sorted({letter for text in texts for letter in text})
    if kind == "BERT":
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        jamo = [chr(n) for n in range(0x1100, 0x1200)]
        words = [*special, *alphabet, *(f"##{letter}" for letter in alphabet), *jamo, *(f"##{letter}" for letter in jamo)]
        return BertTokenizerFast(vocab={word: n for n, word in enumerate(dict.fromkeys(words))}, do_lower_case=False)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=[*dict.fromkeys(SPECIAL.values())],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts[:100], trainer)
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **SPECIAL)


@pytest.fixture(scope="module")
def texts():
    return [*sample(), *generated()]


@pytest.fixture(scope="module")
def made(texts):
    return {kind: make(kind, texts) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def written(request, made, tmp_path_factory):
    """A tokenizer and the folder that was written of it."""
    folder, tokenizer = tmp_path_factory.mktemp("tokenizer"), made[request.param]
    save_tokenizer(tokenizer, SPEC, folder)
    return tokenizer, folder


def spoilt(text: str, draw: random.Random) -> str:
    """A text in NFD, with runs of odd white space for its spaces and around it."""
    spaces = [" ", "  ", "\t", "\r\n", "\u3000 ", "\xa0", "\x1f", "\x85", "\u2028", " \u200a"]
    spread = "".join(draw.choice(spaces) if letter == " " else letter for letter in unicodedata.normalize("NFD", text))
    return f"{draw.choice(spaces)}{spread}{draw.choice(spaces)}"


def ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, truncation=False)["input_ids"]


def test_a_raw_text_has_the_tokens_of_the_prepared_one_by_tokenizers_alone(written, texts):
    tokenizer, folder = written
    alone, draw = Tokenizer.from_file(str(folder / "tokenizer.json")), random.Random(1)
    wanted = ids(tokenizer, [SPEC.query_prefix + text for text in texts])
    for prepare in (str, lambda text: unicodedata.normalize("NFD", text), lambda text: spoilt(text, draw)):
        found = alone.encode_batch([SPEC.query_prefix + prepare(text) for text in texts])
        assert [encoding.ids for encoding in found] == wanted


def test_and_by_transformers(written, texts):
    tokenizer, folder = written
    loaded, draw = AutoTokenizer.from_pretrained(folder), random.Random(2)
    assert ids(loaded, [spoilt(text, draw) for text in texts]) == ids(tokenizer, texts)
    same = ("padding_side", "truncation_side", "model_input_names", "special_tokens_map", "pad_token_id", "mask_token_id")
    assert all(getattr(loaded, name) == getattr(tokenizer, name) for name in same) and loaded.model_max_length == 512


def test_unprepared_the_same_texts_have_other_tokens(made, texts):
    """Otherwise the two tests above could not fail."""
    for kind in ("XLM-R", "BPE"):
        assert ids(made[kind], [unicodedata.normalize("NFD", text) for text in texts]) != ids(made[kind], texts)
    assert ids(made["mini"], [text.replace(" ", "  ") for text in texts]) != ids(made["mini"], texts)


def test_the_files_say_what_transformers_4_and_5_and_fastembed_understand(written):
    tokenizer, folder = written
    settings, stored = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
    known = {
        "tokenizer_class", "model_max_length", "padding_side", "truncation_side", "split_special_tokens",
        "clean_up_tokenization_spaces", "model_input_names", "add_prefix_space",
    }  # fmt: skip
    assert settings.keys() <= known | SPECIAL.keys() and settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert stored["normalizer"]["normalizers"][:3] == PREPARATION and stored["truncation"] is stored["padding"] is None
    special = read_json(folder / "special_tokens_map.json")
    contents = {name: token if isinstance(token, str) else token["content"] for name, token in special.items()}
    assert contents == tokenizer.special_tokens_map == {name: settings[name] for name in contents}
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    before = alone.get_added_tokens_decoder()
    for token in special.values():  # as fastembed does until 0.8
        alone.add_special_tokens([token if isinstance(token, str) else AddedToken(**token)])
    after = alone.get_added_tokens_decoder()
    assert all(after[n].lstrip == token.lstrip and after[n].rstrip == token.rstrip for n, token in before.items())


def test_loading_gives_the_tokenizer_that_was_saved_and_saving_it_the_same_files(written, tmp_path):
    tokenizer, folder = written
    loaded = AutoTokenizer.from_pretrained(folder)
    assert tokenizer_state(loaded) != tokenizer_state(tokenizer)
    assert take_preparation_off(loaded)
    read_scores(loaded, folder / "tokenizer.json")
    assert tokenizer_state(loaded) == tokenizer_state(tokenizer)  # to the last bit of a score
    save_tokenizer(loaded, SPEC, tmp_path)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("own", [
    None,
    normalizers.NFC(),
    normalizers.Sequence([]),
    normalizers.Sequence([normalizers.NFKC()]),
    normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
])  # fmt: skip
@pytest.mark.parametrize("prefix", ["query: ", "Instruct: Given\nQuery: "])
def test_a_normaliser_comes_back_as_it_was(made, tmp_path, own, prefix):
    tokenizer, text = made["BPE"], TextSpec(prefix, "")
    before = tokenizer.backend_tokenizer.normalizer
    try:
        tokenizer.backend_tokenizer.normalizer = own
        state = tokenizer_state(tokenizer)
        save_tokenizer(tokenizer, text, tmp_path)
        assert tokenizer_state(tokenizer) == state
    finally:
        tokenizer.backend_tokenizer.normalizer = before
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.normalizer.normalize_str("\u1112\u1161\u11ab") == "한" and take_preparation_off(loaded)
    assert tokenizer_state(loaded) == state and not take_preparation_off(loaded)


def test_what_a_step_would_read_in_another_way_keeps_its_tokens(made, texts, tmp_path):
    """A prefix with a line end, which a byte-level tokenizer tells from a space, and added tokens of several spaces."""
    instruct = TextSpec("Instruct: Given a query\nQuery: ", "")
    assert preparation(made["XLM-R"], instruct) == PREPARATION  # to its normaliser a line end is a space
    spaces = AutoTokenizer.from_pretrained(DATA / "tokenizer")
    spaces.add_tokens([AddedToken("  ", normalized=True), AddedToken("   ", normalized=True)])
    decomposed = [unicodedata.normalize("NFD", text) for text in texts]
    for tokenizer, text in ((made["BPE"], instruct), (spaces, SPEC)):
        save_tokenizer(tokenizer, text, tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        for prefix in (text.query_prefix, text.passage_prefix):
            wanted = ids(tokenizer, [prefix + each for each in texts])
            assert ids(loaded, [prefix + each for each in texts]) == ids(loaded, [prefix + each for each in decomposed]) == wanted


def test_white_space_is_what_it_is_to_python():
    ours = tokenizer_files._sequence(PREPARATION).normalize_str
    everything = [chr(n) for n in range(0x110000) if not 0xD800 <= n < 0xE000]
    spaces = [c for c in everything if c.isspace()]
    assert len(spaces) == 29 and {ours(f"{c}a{c}{c}b {c}") for c in spaces} == {"a b"}
    others = "".join(f"a{c}" for c in everything if not c.isspace() and unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp"))
    assert ours(others) == others


def test_every_character_composes_as_in_python():
    characters = [chr(n) for n in range(0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs", "Co", "Cc")]
    apart = "\n".join(unicodedata.normalize("NFD", character) for character in characters)
    found, wanted = (text.split("\n") for text in (normalizers.NFC().normalize_str(apart), unicodedata.normalize("NFC", apart)))
    # `tokenizers` knows the Unicode of its day: of those that Python has it lacks a vowel of Dives Akuru, in use until about 1800.
    assert {right for left, right in zip(found, wanted, strict=True) if left != right} <= {"\U00011938"}


@pytest.mark.parametrize("family", ["bert", "xlm-roberta"])
def test_a_run_of_an_older_version_goes_on(tmp_path, family):
    """Its folder has no steps: it loads as it is, has the digest that it had, and merges with what is saved now."""
    encoder = make_encoder(family)
    save_encoder(encoder, tmp_path / "now")
    save_encoder(encoder, tmp_path / "then")
    encoder.tokenizer.save_pretrained(tmp_path / "then")
    then, now = (load_encoder(ModelSource(path=str(tmp_path / name))) for name in ("then", "now"))
    assert tokenizer_state(then.tokenizer) == tokenizer_state(now.tokenizer) == tokenizer_state(encoder.tokenizer)
    check_mergeable(then, now)


def test_what_was_trained_from_xlm_rs_own_class_merges_with_its_base(tmp_path):
    base = load_encoder(tiny_source(tmp_path))
    assert isinstance(base.tokenizer, XLMRobertaTokenizer)
    save_encoder(base, tmp_path / "tuned")
    tuned = load_encoder(ModelSource(path=str(tmp_path / "tuned")))
    check_mergeable(base, tuned)
    found, wanted = (tokenize(encoder.tokenizer, ["query: 한국어 <mask>"], 30)["input_ids"] for encoder in (tuned, base))
    assert found == wanted


def test_a_tokenizer_of_a_folder_of_its_own_is_taken_too(tmp_path):
    """model.tokenizer=DIR may be a folder of ours."""
    encoder = make_encoder()
    save_encoder(encoder, tmp_path / "model")
    source = ModelSource(path=str(tmp_path / "model"), tokenizer=str(tmp_path / "model"))
    assert tokenizer_state(load_description(source)[2]) == tokenizer_state(encoder.tokenizer)
