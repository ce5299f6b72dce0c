"""Annotations of settings: what they accept, and how they are told."""

import dataclasses
import importlib.util
import subprocess
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from e5ft.app.settings.build import shipped
from e5ft.data.settings import Augment, Columns, data_settings
from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import LoraSettings, ModelSource
from e5ft.retrieval.settings import Selection
from e5ft.settings import FilePath, HubName, Settings, SplitName, Word, build, number, override, whole, words

CONF = shipped("conf")


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    """Settings within settings."""

    PATH: ClassVar[str] = "outer.inner"
    count: whole(1, 9)

    def check(self) -> None:
        """Refuse 7."""
        if self.count == 7:
            self.refuse("count", "must not be 7")


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    """One field of each kind."""

    PATH: ClassVar[str] = "outer"
    share: number(above=0, most=0.5) = 0.1
    size: Literal["auto"] | whole(1) = "auto"
    cutoffs: tuple[whole(1), ...] | None = None
    word: Word | None = None
    path: FilePath | None = None
    split: SplitName = "test"
    hub: HubName | None = None
    flag: bool = False
    kind: Literal["none", "margin"] = "none"
    inner: Inner | None = None


ACCEPTED = [
    ("share", 0.5), ("share", 1e-9), ("size", 3), ("cutoffs", [1, 10]), ("word", "가"), ("path", "a/b"), ("split", "dev"),
    ("hub", "user/model"), ("flag", True), ("kind", "none"), ("inner", {"count": 9}), ("inner", None),
]  # fmt: skip
REFUSED = [
    ("share", 0, "outer.share=0: must be above 0 and at most 0.5"),
    ("share", 0.51, "must be above 0 and at most 0.5"),
    ("share", True, "must be above 0"),
    ("share", float("nan"), "must be above 0"),
    ("share", 10**400, "must be above 0"),
    ("size", 0, "outer.size=0: must be auto, or a whole number, at least 1"),
    ("size", 1.0, "must be auto"),
    ("size", True, "must be auto"),
    ("cutoffs", [1, 0], "a list, each item a whole number, at least 1"),
    ("cutoffs", 5, "a list"),
    ("word", " ", "a string that is not blank"),
    ("word", "None", "outer.word=None: the word for nothing is null"),
    ("path", "x" * 300, "the name of a file or folder"),
    ("path", "a\0b", "the name of a file or folder"),
    ("path", "\udcff", "the name of a file or folder"),
    ("split", "a/b", "the name of a split"),
    ("split", "..", "the name of a split"),
    ("hub", "a b", "USER/MODEL"),
    ("flag", "yes", "true or false"),
    ("kind", "None", "the word for nothing is null"),
    ("inner", 5, "outer.inner=5: must be a mapping"),
    ("inner", {"count": 10}, "outer.inner.count=10: must be a whole number from 1 to 9"),
    ("inner", {"count": 7}, "outer.inner.count=7: must not be 7"),
    ("inner", {"cuont": 1}, "outer.inner.cuont=1: no such field; did you mean outer.inner.count?"),
    ("inner", {}, "outer.inner.count: must be given"),
    ("zzzz", 1, "outer.zzzz=1: no such field; there are cutoffs, flag"),
]


@pytest.mark.parametrize(("name", "value"), ACCEPTED)
def test_accepted(name, value):
    built = getattr(build(Outer, {name: value}), name)
    assert built == (tuple(value) if isinstance(value, list) else Inner(9) if value == {"count": 9} else value)


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_refused(name, value, message):
    with pytest.raises(ConfigurationError) as error:
        build(Outer, {name: value})
    assert message in str(error.value) and "\n" not in str(error.value)
    str(error.value).encode()  # can be printed anywhere


def test_a_class_is_checked_where_it_is_made_too():
    with pytest.raises(ConfigurationError, match=r"outer\.share=7: must be"):
        Outer(share=7)
    assert Outer(cutoffs=[1, 2]).cutoffs == (1, 2)


def test_settings_in_a_second_place_are_named_by_it():
    with pytest.raises(ConfigurationError, match=r"^rounds\.outer\.inner\.count=7: must not be 7$"):
        build(Inner, {"count": 7}, "rounds.outer.inner")
    with pytest.raises(ConfigurationError, match=r"^elsewhere\.count=7: must not be 7$"):
        build(Inner, {"count": 7}, "elsewhere")


def test_words():
    assert words(number(least=0) | None) == "at least 0, or null"
    assert words(Literal["a", "b", "c"]) == "a, b or c" and words(number()) == "a number"


@pytest.mark.parametrize(
    ("name", "path"), [("~/a b", "HOME/a b"), ("~", "HOME"), ("~nobody-here/a", "~nobody-here/a"), ("a~", "a~")]
)
def test_a_tilde_is_home_in_every_path_field(monkeypatch, name, path):
    monkeypatch.setenv("HOME", "HOME")
    data = yaml.safe_load((CONF / "data/default.yaml").read_text())
    read = data_settings({**data, "train_file": [name, "b"], "dev_file": name, "keep_dir": name, "corpus_file": name})
    assert (read.train_file, read.dev_file, read.keep_dir, read.corpus_file) == ((path, "b"), path, (path,), path)
    mix = {**data, "train_file": None, "mix": {}, "sources": {"a": name}}
    assert data_settings(mix).mix.sources[0].train_file == path
    assert Columns(query=name).query == name  # no path


def test_the_page_of_the_configuration_is_as_conf_and_the_settings_say():
    path = Path(__file__).parents[1] / "docs/make_configuration.py"
    spec = importlib.util.spec_from_file_location("make_configuration", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.PAGE.read_text(encoding="utf-8")
    assert module.page(text) == text, "make docs"
    assert "`loss.temperature`" in text and "must be" in text and text.count("<!-- end -->") >= 12


def test_where_a_class_has_a_default_too_it_is_that_of_conf():
    """A library user's default and the command's: one value."""
    mining = yaml.safe_load((CONF / "mining/default.yaml").read_text())
    selection = Selection()
    assert list(selection.sources) == mining["sources"] and list(selection.window) == mining["window"]
    assert (selection.per_query, selection.choose, selection.max_uses) == tuple(
        mining[n] for n in ("per_query", "choose", "max_uses")
    )
    model = yaml.safe_load((CONF / "model/folder.yaml").read_text())
    for name in ("init", "pooling", "dropout", "attention_dropout", "attention"):
        assert getattr(ModelSource(hub="a/b"), name) == model[name]
    lora = LoraSettings(rank=4)
    assert {name: getattr(lora, name) for name in ("alpha", "dropout", "target_modules")} == {
        n: model["lora"][n] for n in ("alpha", "dropout", "target_modules")
    }
    data = yaml.safe_load((CONF / "data/default.yaml").read_text())
    assert dataclasses.asdict(Columns()) == {**data["columns"], "ignore": ()}
    assert (Augment().share, list(Augment().kinds)) == tuple(data["augment"].values())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "mean",
        "null",
        "query: ",
        'say "ja":\n',
        "it's",
        r"a\b",
        'a\\"b',
        "end\\",
        "질문 열",
        ["a b", "c", "it's", ""],
        ["x"],
        30,
        r"\n'" + "\n",
    ],
)
def test_an_override_is_read_back_from_the_command_line_as_the_value(value):
    typed = override("a.b", value)
    pasted = subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, check=True).stdout.decode()
    assert "\n" not in typed and OverridesParser.create().parse_override(pasted).value() == value
