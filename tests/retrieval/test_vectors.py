"""The cache of vectors: resumed after an interruption, never stale."""

import numpy as np
import pytest
import torch

from e5ft.files import read_json
from e5ft.retrieval.vectors import RepeatedTexts, digest_of_weights, encode_collection
from tests.conftest import WORDS, make_encoder

TEXTS = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(23)]


class Interrupted(Exception):
    pass


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
    assert not list((tmp_path / "parts").glob("*[0-9a-f].npy"))  # nothing has the final name
    calls = watch(encoder, monkeypatch)
    again = encode(encoder, tmp_path / "parts")
    assert [text for call in calls for text in call] == TEXTS[10:]
    np.testing.assert_array_equal(again, whole)
    assert len(encode(encoder, tmp_path / "parts")) == 23 and len(calls) == 3  # finished: nothing is encoded
    assert not list((tmp_path / "parts").glob("*progress*")) and not list((tmp_path / "parts").glob("*partial*"))


@pytest.mark.parametrize("harm", ["record", "data", "shape"])
def test_half_a_record_means_from_the_beginning(harm, encoder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        watch(encoder, patch, fail_at=2)
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path)
    record, data = next(tmp_path.glob("*.progress.json")), next(tmp_path.glob("*.partial.npy"))
    if harm == "record":
        record.write_text('{"ro')
    elif harm == "data":
        data.write_bytes(data.read_bytes()[:200])
    else:
        np.save(data, np.zeros((3, 2), np.float32))
    calls = watch(encoder, monkeypatch)
    vectors = encode(encoder, tmp_path)
    assert sum(map(len, calls)) == 23 and np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_a_record_never_speaks_for_a_new_file(encoder, tmp_path, monkeypatch):
    """A record of 15 rows, its data gone: the new run dies at once, and the next must not believe the old record."""
    with monkeypatch.context() as patch:
        watch(encoder, patch, fail_at=3)
        with pytest.raises(Interrupted):
            encode(encoder, tmp_path)
    record, data = next(tmp_path.glob("*.progress.json")), next(tmp_path.glob("*.partial.npy"))
    data.unlink()
    kept = read_json(record)
    assert kept == {"rows": 15}
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
    before = digest_of_weights(encoder)
    with torch.no_grad():
        next(encoder.backbone.parameters()).neg_()
    assert digest_of_weights(encoder) != before
    assert np.abs(encode(encoder, tmp_path) - first).max() > 1e-3
    encode(encoder, tmp_path, texts=[*TEXTS[:-1], "w1"])
    encode_collection(encoder, TEXTS, "query", cache=tmp_path)
    assert len(list(tmp_path.glob("vectors-*.npy"))) == 4


def test_the_digest_does_not_depend_on_what_was_encoded_before(encoder):
    """The tokenizer remembers the length that the last call cut to."""
    fresh = digest_of_weights(encoder)
    encoder.encode(TEXTS, "query")
    assert digest_of_weights(encoder) == fresh == digest_of_weights(make_encoder())
    assert digest_of_weights(make_encoder(seed=1)) != fresh


def test_what_several_processes_left_serves_one(encoder, tmp_path, monkeypatch):
    """Two finished shards are the collection; one without the other is not."""
    whole = np.array(encode(encoder, tmp_path))
    file = next(tmp_path.glob("vectors-*.npy"))
    shards = [file.with_name(f"{file.stem}-{number}-of-2.npy") for number in range(2)]
    for shard, rows in zip(shards, (whole[:11], whole[11:]), strict=True):
        np.save(shard, rows)
    file.unlink()
    calls = watch(encoder, monkeypatch)
    vectors = encode(encoder, tmp_path)
    np.testing.assert_array_equal(np.asarray(vectors), whole)
    assert not calls and len(vectors.blocks) == 2
    shards[1].unlink()
    np.testing.assert_allclose(encode(encoder, tmp_path), whole, rtol=0, atol=1e-6)
    assert sum(map(len, calls)) == 23


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
