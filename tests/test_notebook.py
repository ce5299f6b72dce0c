"""The notebook is what its script generates, its outputs are of that script, and the script runs."""

import importlib.util
import json
import re

import pytest

from tests.test_cli import ENVIRONMENT, ROOT


@pytest.fixture(scope="module")
def maker():
    specification = importlib.util.spec_from_file_location("make_notebook", ROOT / "docs/make_notebook.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(maker):
    return json.loads(maker.PAGE.read_text(encoding="utf-8"))


def test_the_notebook_is_what_the_script_generates_but_for_its_outputs(maker, page):
    made = maker.notebook(maker.SOURCE.read_text(encoding="utf-8"))
    assert maker.without_outputs(page) == maker.without_outputs(made), "python docs/make_notebook.py"


def test_every_line_of_the_shell_has_an_output_and_names_no_place_of_a_machine(maker, page):
    for cell in page["cells"]:
        code = "".join(cell["source"])
        printed = "".join("".join(output["text"]) for output in cell.get("outputs", ()))
        if cell["cell_type"] == "code" and re.search(r"^(!python|print|for .*print)", code, re.MULTILINE | re.DOTALL):
            assert printed, code
        assert not re.search(r"/(work|home|tmp|root|Users)\b|Traceback|error:", printed)
    everything = json.dumps(page, ensure_ascii=False)
    assert "VERDICT: " in everything and "served right" in everything
    assert "shell(" not in everything and "subprocess" not in everything


def test_cells_are_read_from_the_percent_format(maker):
    source = (
        '"""About."""\n\n# %% [markdown]\n# # Title\n# Text.\n\n# %%\n# !pip install x\nimport a\n\n# %% verb=train\nshell("ls {A}")\n'
        '\n# %% verb=nothing_such\nshell("no")\n'
    )
    cells = maker.notebook(source, ["", "out\n"])["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# Title\nText."),
        ("code", "!pip install x\nimport a"),
        ("code", "!ls {A}"),
    ]
    assert [cell.get("outputs") for cell in cells] == [
        None,
        [],
        [{"name": "stdout", "output_type": "stream", "text": ["out\n"]}],
    ]


@pytest.mark.slow
def test_the_script_runs_in_an_empty_folder(maker, tmp_path, monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    printed = maker.outputs_of(maker.SOURCE.read_text(encoding="utf-8"), tmp_path)
    cells = [text for kind, text in maker.cells_of(maker.SOURCE.read_text(encoding="utf-8")) if kind == "code"]
    assert len(printed) == len(cells)
    assert "VERDICT: " in "".join(printed) and "served right" in printed[-1] and (tmp_path / "my-model/modules.json").is_file()
