"""What golden.json holds: 32 probes of every kind, the right vectors, and mistakes' vectors worked out another way."""

import collections
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from tokenizers import Regex, normalizers

from e5ft.data.text import TextSpec, normalise
from e5ft.errors import DataError
from e5ft.exporting.folder import export_model
from e5ft.exporting.golden import FILE, read_golden, write_golden
from e5ft.files import read_json, write_json
from e5ft.modeling.encoder import EncoderSpec
from tests.conftest import make_encoder
from tests.serving.conftest import make_encoder_that_reads
from tests.test_cli import ENVIRONMENT, ROOT


@pytest.fixture(scope="module")
def encoder():
    return make_encoder_that_reads()


@pytest.fixture(scope="module")
def golden(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    write_golden(encoder, folder)
    return read_golden(folder)


def test_thirty_two_probes_of_every_kind(golden, encoder):
    assert len(golden.probes) == 32 and len({probe.text for probe in golden.probes}) == 32
    kinds = collections.Counter((probe.role, probe.kind) for probe in golden.probes)
    assert kinds == {("query", "plain"): 10, ("passage", "plain"): 10, ("query", "nfd"): 3, ("passage", "nfd"): 2,
                     ("query", "spaces"): 3, ("passage", "spaces"): 2, ("query", "long"): 1, ("passage", "long"): 1}  # fmt: skip
    for probe in golden.probes:
        size = len(encoder.tokenizer(f"{probe.role}: {normalise(probe.text)}")["input_ids"])
        assert (size > 320) == (probe.kind == "long")
        assert (unicodedata.normalize("NFC", probe.text) != probe.text) == (probe.kind == "nfd")
        assert (" ".join(probe.text.split()) != probe.text) == (probe.kind == "spaces")
        assert not probe.text.startswith(("query:", "passage:"))
    assert (golden.dimension, golden.pooling, golden.max_lengths) == (64, "mean", {"query": 320, "passage": 320})
    assert golden.prefixes == {"query": "query: ", "passage": "passage: "}


def test_right_vectors_are_the_encoder_s(golden, encoder):
    for probe in golden.probes:
        cosine = probe.vector @ encoder.encode([probe.text], probe.role)[0]
        assert cosine > 0.999999


@torch.no_grad()
def by_hand(encoder, text: str, pooling: str = "mean", limit: int = 320) -> np.ndarray:
    """The vector of a final text, by a padded batch of one."""
    batch = encoder.tokenizer([text], truncation=True, max_length=limit, return_tensors="pt", return_token_type_ids=False)
    hidden = encoder.backbone(**batch).last_hidden_state[0]
    pooled = (hidden.mean(0) if pooling == "mean" else hidden[0]).numpy()
    return pooled / np.linalg.norm(pooled)


def test_mistakes_are_what_they_are_called(golden, encoder):
    other = {"query": "passage", "passage": "query"}
    own = encoder.backbone.config._attn_implementation
    encoder.backbone.set_attn_implementation("sdpa")
    try:
        for probe in golden.probes:
            text, raw = normalise(probe.text), probe.text
            prefix = f"{probe.role}: "
            expected = {
                "no_prefix": (text,),
                "prefix_twice": (2 * prefix + text,),
                "other_prefix": (f"{other[probe.role]}: {text}",),
                "other_prefix_before": (f"{other[probe.role]}: {prefix}{text}",),
                "pooling_cls": (prefix + text, "cls"),
                "no_prefix+pooling_cls": (text, "cls"),
                "nfd": (prefix + raw,),
                "no_prefix+nfd": (raw,),
                "cut_128": (prefix + text, "mean", 128),
                "cut_256": (prefix + text, "mean", 256),
                "prefix_twice+cut_256": (2 * prefix + text, "mean", 256),
            }
            for name in expected.keys() & probe.mistakes.keys():
                assert probe.mistakes[name] @ by_hand(encoder, *expected[name]) > 0.999999, name
                assert probe.mistakes[name] @ probe.vector < (0.9999 if probe.kind != "long" or "cut" in name else 0.999999), name
    finally:
        encoder.backbone.set_attn_implementation(own)
    names = {kind: {n for p in golden.probes if p.kind == kind for n in p.mistakes} for kind in ("plain", "nfd", "long")}
    assert names["plain"] >= {
        "no_prefix",
        "prefix_twice",
        "other_prefix",
        "other_prefix_before",
        "pooling_cls",
        "no_prefix+pooling_cls",
    }
    assert "nfd" in names["nfd"] and {"cut_128", "cut_256", "no_prefix+cut_256"} <= names["long"]
    assert sum(bool(p.mistakes) for p in golden.probes if p.kind == "plain") == 8


def test_a_tokenizer_that_recomposes_is_known_by_what_it_would_do_without(golden, tmp_path):
    """The mistakes do not depend on whether the exported tokenizer.json has NFC and joins white space itself."""
    encoder = make_encoder_that_reads()
    parts = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    whole = normalizers.Sequence([*parts, normalizers.Sequence([normalizers.Replace(" {2,}", " ")])])
    encoder.tokenizer.backend_tokenizer.normalizer = whole
    write_golden(encoder, tmp_path)
    assert encoder.tokenizer.backend_tokenizer.normalizer.normalize_str("a \u1112\u1161\u11ab ") == "a 한"
    for one, other in zip(read_golden(tmp_path).probes, golden.probes, strict=True):
        assert one.mistakes.keys() == other.mistakes.keys()
        assert all(one.mistakes[name] @ other.mistakes[name] > 0.999999 for name in one.mistakes)


def test_levels_are_of_rounded_weights_and_leave_the_weights(encoder, golden, tmp_path):
    before = {name: tensor.clone() for name, tensor in encoder.backbone.state_dict().items()}
    write_golden(encoder, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.backbone.state_dict().items())
    assert 0.9 < golden.levels["int4"] < golden.levels["int8"] < 1 and golden.levels["int8"] > 0.999
    assert encoder.spec.pooling == "mean"


def test_roles_of_unequal_length(tmp_path):
    """What a role would cut and a server, which knows the longer length alone, would not, takes the other role."""
    encoder = make_encoder()
    encoder.spec = EncoderSpec("mean", TextSpec(query_max_length=6, passage_max_length=40))
    write_golden(encoder, tmp_path)
    golden = read_golden(tmp_path)
    assert {probe.role for probe in golden.probes if probe.kind == "long"} == {"passage"}
    for probe in golden.probes:
        if probe.role == "query":
            assert len(encoder.tokenizer(f"query: {normalise(probe.text)}")["input_ids"]) <= 6
    assert {name for p in golden.probes if p.kind == "long" for name in p.mistakes if "cut" in name and "+" not in name} <= {
        "cut_20"
    }


def test_no_prefix_of_a_model_without_prefixes_is_no_mistake(tmp_path):
    encoder = make_encoder(pooling="cls")
    encoder.spec = EncoderSpec("cls", TextSpec("", "", 48, 48))
    write_golden(encoder, tmp_path)
    names = {name for probe in read_golden(tmp_path).probes for name in probe.mistakes}
    assert names <= {"pooling_mean", "cut_24", "nfd", "spaces"} and "pooling_mean" in names


def test_the_file_is_small_and_a_probe_is_a_line(encoder, tmp_path):
    write_golden(encoder, tmp_path)
    text = (tmp_path / FILE).read_text(encoding="utf-8")
    values, vectors = json.loads(text), sum(1 + len(probe.mistakes) for probe in read_golden(tmp_path).probes)
    assert len(text.splitlines()) == 34 and values["scale"] == 10_000
    assert vectors * 1024 * 5 < 1_000_000  # of 1,024 dimensions, whose components have three digits, with a sign and a comma


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "golden.json: not there; export writes it"),
        ("{", "golden.json: not what export writes"),
        ("[]", "golden.json: not what export writes"),
        ('{"format": 2}', "golden.json: format 2, must be 1"),
        ('{"format": 1, "probes": [{"text": "a"}]}', "golden.json: not what export writes .KeyError"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(DataError, match=message):
        read_golden(tmp_path)


def test_a_file_with_a_vector_cut_short_or_without_probes(encoder, tmp_path):
    write_golden(encoder, tmp_path)
    whole = read_json(tmp_path / FILE)
    cut = [{**whole["probes"][0], "vector": whole["probes"][0]["vector"][:10]}, *whole["probes"][1:]]
    for damage in ({"probes": []}, {"probes": cut}, {"dimension": "abc"}):
        write_json(tmp_path / FILE, {**whole, **damage})
        with pytest.raises(DataError, match="golden.json: not what export writes .ValueError: vectors of"):
            read_golden(tmp_path)


def test_every_export_has_one(tmp_path):
    export_model(make_encoder(), tmp_path / "model", "card")
    assert len(read_json(tmp_path / "model" / FILE)["probes"]) == 32


def test_reading_needs_no_torch(tmp_path):
    for library in ("torch", "transformers"):
        (tmp_path / f"{library}.py").write_text(f"raise AssertionError('{library} was imported')")
    code = "import e5ft.exporting.golden, e5ft.serving.asking, e5ft.serving.diagnosis, e5ft.serving.protocols"
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
