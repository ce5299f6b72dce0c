"""Both READMEs show the same commands, and every command in them and in docs/korean.md is one that can be typed."""

import re
import shlex
from collections import Counter

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from e5ft.app.runs.overrides import readable
from e5ft.app.runs.script import COMMANDS
from e5ft.app.settings.build import SCRIPTS, field_names, register, settings_of, shipped, with_model_group
from tests.test_cli import ROOT

PAGES = ("README.md", "README.ko.md", "docs/korean.md")
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_SCRIPT = re.compile(
    r"(?:(?:python|torchrun) .*?)?\b(?:-m e5ft (?P<verb>\w+)|(?P<script>train|eval|mine|export)\.py)(?: (?P<rest>.*))?$"
)
_FIELD = re.compile(r"\+?(?P<name>[a-z_]\w*(?:\.\w+)*)=")
register()


def fences(text: str) -> list[tuple[str, str]]:
    """The language and the text of every block, comments and line breaks within a command taken out of those for the shell."""
    blocks = []
    for language, block in _FENCE.findall(text):
        if language == "bash":
            block = re.sub(r"\\\n *", "", block)
            block = "".join(f"{re.sub(r' +#.*', '', line).strip()}\n" for line in block.splitlines())
        blocks.append((language, block))
    return blocks


def spans(text: str) -> list[str]:
    """What stands between backticks in the running text, on one line."""
    return [re.sub(r"\s+", " ", span) for span in _SPAN.findall(_FENCE.sub("", text))]


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def typed() -> list[tuple[str, str]]:
    """(page, text) of everything on the pages that looks like a command or like settings of one."""
    found = []
    for name in PAGES:
        text = page(name)
        lines = [line for language, block in fences(text) if language == "bash" for line in block.splitlines()]
        found += [
            (name, each)
            for each in [*lines, *spans(text)]
            if _SCRIPT.match(each) or each.startswith("make ") or _is_setting(each)
        ]
    return found


def _is_setting(text: str) -> bool:
    words = _words(text)
    return bool(words) and all(_FIELD.match(word) for word in words)


def _words(text: str) -> list[str]:
    try:
        return [word for word in shlex.split(text) if word != "..."]
    except ValueError:
        return []


def test_both_readmes_show_the_same_commands():
    """Blocks in their order, to the letter but for comments; what is quoted in a sentence in any order."""
    english, korean = page("README.md"), page("README.ko.md")
    assert fences(korean) == fences(english)
    assert len(fences(english)) > 5
    counts = [Counter(span for span in spans(text) if re.search(r"[=./]|^make|^pip", span)) for text in (english, korean)]
    assert counts[1] == counts[0]
    assert sum(counts[0].values()) > 50


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_a_link_to_a_file_finds_it(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_both_readmes_have_the_same_figures_and_links():
    """Whoever changes a number or a place in one changes it in the other."""
    links = [set(re.findall(r"\]\((?!README)([\w./-]+)", page(name))) for name in ("README.md", "README.ko.md")]
    assert links[1] == links[0] and len(links[0]) > 15
    tables = [
        [re.findall(r"(?<![0-9A-Za-z.])[+-]?\d*\.\d{3}(?!\d)", line) for line in page(n).splitlines()]
        for n in ("README.md", "README.ko.md")
    ]
    figures = [Counter(figure for line in table for figure in line) for table in tables]
    assert figures[1] == figures[0] and sum(figures[0].values()) > 60


@pytest.mark.parametrize(("name", "text"), typed(), ids=lambda value: value[:60])
def test_every_command_can_be_typed(name, text, tmp_path, monkeypatch):
    """Settings are composed and checked as the command would; a target of make is in the Makefile; a field alone is one of some script."""
    for folder in ("outputs", *re.findall(r"model\.path=(\S+)", text)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "config.json").write_text("{}")  # looks like a model
    monkeypatch.chdir(tmp_path)
    found = _SCRIPT.match(text)
    if found is None and text.startswith("make "):
        target = text.split()[1]
        assert re.search(rf"^{target}:", page("Makefile"), re.MULTILINE), target
        return
    if found is None:
        known = {field for script in SCRIPTS for field in field_names(script)}
        groups = {path.name for path in shipped("conf").iterdir()} | {"ARGS", "data.sources"}
        for field in (_FIELD.match(word)["name"] for word in _words(text)):
            assert field in known | groups, f"{field}: no such field"
        return
    verb = found["verb"] or found["script"]
    assert verb in COMMANDS, verb
    words = readable(verb, [word for word in _words(found["rest"] or "") if word != "-m"])
    parsed = OverridesParser.create().parse_overrides(words)
    given = [
        f"{o.get_key_element()}={next(iter(o.sweep_string_iterator()))}" if o.is_sweep_override() else o.input_line
        for o in parsed
    ]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        config = compose(verb, with_model_group(verb, given))
    GlobalHydra.instance().clear()
    assert settings_of(verb, config)
