"""The cache of vectors: resumed after an interruption, never stale."""

import copy
import errno

import numpy as np
import pytest
import torch
from transformers import AutoModel

from e5ft.errors import StorageError
from e5ft.files import new_folder, read_json, write_manifest
from e5ft.modeling.encoder import Encoder
from e5ft.retrieval.vectors import RepeatedTexts, digest_of_model, encode_collection
from tests.conftest import WORDS, damage, make_encoder

TEXTS = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(23)]


class Interrupted(Exception):
    pass


def folders(cache):
    return [path for path in cache.glob("vectors-*") if path.is_dir()]


@pytest.fixture
def encoder():
    return make_encoder()


def watch(encoder, monkeypatch, fail_at=None):
    """Record the texts of every call of encode; the call of number `fail_at` ends as a killed process does."""
    calls, plain = [], encoder.encode

    def encode(texts, role, **options):
        if len(calls) == fail_at:
            raise Interrupted
        calls.append(list(texts))
        return plain(texts, role, **options)

    monkeypatch.setattr(encoder, "encode", encode)
    return calls


def encode(encoder, cache, texts=TEXTS, window=5):
    return encode_collection(encoder, texts, "passage", cache=cache, window=window)


def test_an_interrupted_run_goes_on_where_it_stopped(encoder, tmp_path, monkeypatch):
    whole = np.array(encode(encoder, tmp_path / "whole"))
    with monkeypatch.context() as patch:
        assert len(watch(encoder, patch, fail_at=2)) == 0
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("*[0-9a-f]"))  # nothing has the final name
    calls = watch(encoder, monkeypatch)
    again = encode(encoder, tmp_path / "parts")
    assert [text for call in calls for text in call] == TEXTS[10:]
    np.testing.assert_array_equal(again, whole)
    assert len(encode(encoder, tmp_path / "parts")) == 23 and len(calls) == 3  # finished: nothing is encoded
    (folder,) = folders(tmp_path / "parts")
    assert sorted(path.name for path in folder.iterdir()) == ["0-of-1.f32", "manifest.json"]


@pytest.mark.parametrize("harm", ["record", "half", "flipped", "zeroed"])
def test_half_a_record_means_from_the_beginning(harm, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        watch(encoder, patch, fail_at=2)
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path)
    record, data = next(tmp_path.glob("*.partial/*.json")), next(tmp_path.glob("*.partial/*.f32"))
    if harm == "record":
        record.write_text('{"ro')
    else:
        damage(data, harm)
    calls = watch(encoder, monkeypatch)
    vectors = encode(encoder, tmp_path)
    assert sum(map(len, calls)) == 23 and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_a_record_never_speaks_for_a_new_file(encoder, tmp_path, monkeypatch):
    """A record of 15 rows, its data gone: the new run dies at once, and the next must not believe the old record."""
    with monkeypatch.context() as patch:
        watch(encoder, patch, fail_at=3)
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path)
    record, data = next(tmp_path.glob("*.partial/*.json")), next(tmp_path.glob("*.partial/*.f32"))
    data.unlink()
    kept = read_json(record)
    assert kept["rows"] == 15
    with monkeypatch.context() as patch:
        watch(encoder, patch, fail_at=1)
        patch.setattr("e5ft.retrieval.vectors.write_json", lambda *arguments: (_ for _ in ()).throw(Interrupted()))
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path)
    calls = watch(encoder, monkeypatch)
    encode(encoder, tmp_path)
    assert sum(map(len, calls)) == 23


def test_other_weights_other_texts_and_another_contract_are_encoded_anew(encoder, tmp_path):
    first = np.array(encode(encoder, tmp_path))
    before = digest_of_model(encoder)
    with torch.no_grad():
        next(encoder.backbone.parameters()).neg_()
    assert digest_of_model(encoder) != before
    assert np.abs(encode(encoder, tmp_path) - first).max() > 1e-3
    encode(encoder, tmp_path, texts=[*TEXTS[:-1], "w1"])
    encode_collection(encoder, TEXTS, "query", cache=tmp_path)
    assert len(folders(tmp_path)) == 4


def test_the_digest_does_not_depend_on_what_was_encoded_before(encoder):
    """The tokenizer remembers the length that the last call cut to."""
    fresh = digest_of_model(encoder)
    encoder.encode(TEXTS, "query")
    assert digest_of_model(encoder) == fresh == digest_of_model(make_encoder())
    assert digest_of_model(make_encoder(seed=1)) != fresh


@pytest.mark.parametrize(("field", "value"), [("num_attention_heads", 2), ("hidden_act", "relu"), ("layer_norm_eps", 0.1)])
def test_the_same_weights_under_another_configuration_are_another_model(field, value, encoder, tmp_path):
    """Without its configuration in the key, new queries would meet the old model's passages."""
    first = np.array(encode(encoder, tmp_path))
    config = copy.deepcopy(encoder.config)
    setattr(config, field, value)
    other = AutoModel.from_config(config)
    other.load_state_dict(encoder.backbone.state_dict(), strict=False)  # all but the pooler, which no vector uses
    changed = Encoder(other.eval(), encoder.tokenizer, encoder.spec)
    np.testing.assert_array_equal(encode(changed, tmp_path), changed.encode(TEXTS, "passage"))
    assert np.abs(encode(changed, tmp_path) - first).max() > 1e-5 and len(folders(tmp_path)) == 2


def test_names_versions_and_dropout_are_not_part_of_a_model(encoder):
    """The base is found again under the dropout of a training, and wherever its folder lies."""
    before = digest_of_model(encoder)
    config = encoder.config
    config._name_or_path, config.transformers_version, config.hidden_dropout_prob = "elsewhere", "6.0", 0.5
    assert digest_of_model(encoder) == before


def test_the_side_on_which_a_tokenizer_cuts_is_part_of_a_model(encoder):
    before = digest_of_model(encoder)
    encoder.tokenizer.truncation_side = "left"
    assert digest_of_model(encoder) != before


@pytest.mark.parametrize("harm", ["zeroed", "flipped", "half", "empty", "missing"])
def test_damaged_vectors_are_made_again(harm, encoder, tmp_path, caplog):
    whole = np.array(encode(encoder, tmp_path))
    (folder,) = folders(tmp_path)
    damage(folder / "0-of-1.f32", harm)
    np.testing.assert_array_equal(encode(encoder, tmp_path), whole)
    (line,) = caplog.messages
    assert line.startswith(f"{folder}: damaged (0-of-1.f32 ") and line.endswith("); building it again")
    encode(encoder, tmp_path)
    assert len(caplog.messages) == 1


def test_what_several_processes_left_serves_one(encoder, tmp_path, monkeypatch):
    """Two finished shards are the collection; one without the other is not."""
    whole = np.array(encode(encoder, tmp_path))
    (folder,) = folders(tmp_path)
    with new_folder(folder) as other:
        for number, rows in enumerate((whole[:11], whole[11:])):
            rows.tofile(other / f"{number}-of-2.f32")
        write_manifest(other)
    calls = watch(encoder, monkeypatch)
    vectors = encode(encoder, tmp_path)
    np.testing.assert_array_equal(np.asarray(vectors), whole)
    assert not calls and len(vectors.blocks) == 2
    (folder / "1-of-2.f32").unlink()
    np.testing.assert_allclose(encode(encoder, tmp_path), whole, rtol=0, atol=1e-6)
    assert sum(map(len, calls)) == 23


def test_what_another_number_of_processes_began_is_no_part_of_the_vectors(encoder, tmp_path):
    whole = np.array(encode(encoder, tmp_path))
    (folder,) = folders(tmp_path)
    begun = folder.with_name(f"{folder.name}.partial")
    folder.rename(begun)
    (begun / "0-of-1.f32").rename(begun / "1-of-2.f32")
    np.testing.assert_array_equal(encode(encoder, tmp_path), whole)
    assert sorted(path.name for path in folder.iterdir()) == ["0-of-1.f32", "manifest.json"] and not begun.exists()


def test_a_full_disk_names_the_cache(encoder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("e5ft.retrieval.vectors.os.fsync", full)
    with pytest.raises(StorageError, match=rf"^{tmp_path}: cannot be written \(the disk is full\); make room .* cache_dir=DIR$"):
        encode(encoder, tmp_path)


def test_no_texts_are_no_vectors(encoder, tmp_path):
    assert encode(encoder, tmp_path, texts=[]).shape == (0, 32)


def test_repeated_texts_are_cut_into_tokens_once_and_follow_the_weights(encoder, monkeypatch):
    texts, cuts = RepeatedTexts(TEXTS, "passage", 40), []
    plain = encoder.tokenize
    monkeypatch.setattr(encoder, "tokenize", lambda some, role: cuts.append(len(some)) or plain(some, role))
    before = texts.vectors(encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)
    after = texts.vectors(encoder)
    assert cuts == [len(TEXTS)] and not np.allclose(before, after)
    np.testing.assert_allclose(after, encoder.encode(TEXTS, "passage", batch_tokens=40), atol=1e-6)
    there = RepeatedTexts(TEXTS, "passage", 40, first=before)
    cuts.clear()
    assert there.vectors(encoder) is before and not cuts
    np.testing.assert_array_equal(there.vectors(encoder), after)
