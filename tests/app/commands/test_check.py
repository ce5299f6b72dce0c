"""`python -m e5ft check`: what it prints, what it exits with, and that a server needs no torch."""

import os
import shutil
import subprocess
import sys

import pytest

from e5ft.app.commands.check import check
from e5ft.app.settings.verbs import CheckSettings
from e5ft.errors import ConfigurationError, DataError, ServedWrongError
from e5ft.exporting.folder import export_model
from e5ft.json_http import AnswerError
from tests.exporting.test_xlm_roberta import make_xlmr_encoder
from tests.serving.conftest import Served, exported, server  # noqa: F401
from tests.test_cli import ENVIRONMENT, ROOT

KEY = "very-secret-0123456789"


def settings(**given) -> CheckSettings:
    given = {"golden": None, "prefix": "auto", "model_name": None, "api_key": None, "least": 0.9999, "timeout": 20, **given}
    return CheckSettings(
        **{name: str(value) if name in ("target", "golden") and value else value for name, value in given.items()}
    )


def command(*arguments: str, cwd, **environment) -> subprocess.CompletedProcess:
    """The command, where importing torch or transformers is an error."""
    for library in ("torch", "transformers"):
        (cwd / f"{library}.py").write_text(f"raise AssertionError('{library} was imported')")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{cwd}{os.pathsep}{ROOT}", **environment}
    return subprocess.run(
        [sys.executable, "-m", "e5ft", "check", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_a_server_is_checked_without_torch_and_the_token_is_never_shown(exported, server, tmp_path):  # noqa: F811
    server.embed = Served(exported)
    url = f"{server.url}/v1/embeddings"
    done = command(f"target={url}", f"golden={exported}", cwd=tmp_path, E5FT_API_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{url}: served right: cosine at least .9999 over 32 probes\n"
    assert server.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    server.answer = (401, {"error": f"wrong {KEY}"})
    done = command(f"target={url}", f"golden={exported}/golden.json", f"api_key={KEY}", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {url}: HTTP 401") and done.stderr.count("\n") == 1
    assert KEY not in done.stdout + done.stderr
    server.answer, server.embed = None, Served(exported, "no prefix")
    done = command(f"target={url}", f"golden={exported}", cwd=tmp_path)
    assert done.returncode == 8
    assert done.stdout.startswith(f"{url}: prefix missing: must be 'query: ' / 'passage: ' before each text (lowest cosine ")
    assert done.stderr == f"error: target={url}: not served right; see above what is wrong\n"
    assert command("target=null", cwd=tmp_path).returncode == 2


def test_a_folder_is_checked_in_every_library(exported, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "outputs/run/model"
    shutil.copytree(exported, folder)
    text = (folder / "config_sentence_transformers.json").read_text()
    (folder / "config_sentence_transformers.json").write_text(text.replace('"passage: "', '"query: "'))
    with pytest.raises(ServedWrongError, match="not served right by sentence-transformers") as raised:
        check(settings(target=tmp_path / "outputs/run", least=0.99))
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed] == ["sentence-transformers", "transformers"]
    assert "query and passage confused in passages: must be 'passage: '" in printed[0] and "confused" not in printed[1]
    assert raised.value.exit_code == 8 and "\n" not in str(raised.value)


def test_a_refusal_of_over_long_texts_is_told(exported, server, capsys):  # noqa: F811
    server.embed, server.longest = Served(exported), 400
    check(settings(target=f"{server.url}/embed", golden=exported))
    assert capsys.readouterr().out.splitlines() == [
        f"{server.url}/embed: served right: cosine at least .9999 over 30 probes",
        f"{server.url}/embed: refuses over-long texts, 2 probes; clients must cut them",
    ]


def test_a_folder_of_xlm_r_s_class_is_right_with_nfc_and_says_that_nfd_is_not_safe(tmp_path, capsys):
    """Under transformers 5, whose class recomposes nothing; negative control: a record that leaves nothing to clients."""
    export_model(make_xlmr_encoder(), tmp_path / "model", "card", architecture="xlm_roberta")
    check(settings(target=tmp_path / "model"))
    assert capsys.readouterr().out.splitlines() == [
        *(f"{name}: served right: cosine at least .9999 over 32 probes" for name in ("sentence-transformers", "transformers")),
        "note: NFD is not safe in the exported folder: clients must send NFC, unicodedata.normalize('NFC', text); the probes were sent so",
    ]
    golden = tmp_path / "model/golden.json"
    golden.write_text(golden.read_text().replace('"by_client":["nfd"]', '"by_client":[]'))
    with pytest.raises(ServedWrongError):
        check(settings(target=tmp_path / "model"))
    assert capsys.readouterr().out.count("NFD not recomposed") == 2


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"target": None}, ConfigurationError, "^target=None: must be a folder, a server's address or MODULE:FUNCTION"),
        ({"target": "http://127.0.0.1:1/embed"}, ConfigurationError, "^golden=null: must name the export"),
        ({"target": "nowhere"}, ConfigurationError, "^target=nowhere: no such folder"),
        ({"target": "127.0.0.1:1/embed", "golden": "{exported}"}, ConfigurationError, "must be a web address .http://"),
        ({"target": "nowhere", "golden": "{exported}"}, ConfigurationError, "^target=nowhere: no such folder"),
        ({"target": "http://127.0.0.1:1/embed", "golden": "{tmp}"}, DataError, "golden.json: not there; export writes it"),
        ({"target": "http://127.0.0.1:1/x", "golden": "{exported}"}, ConfigurationError, "^target=http.*must be a web address"),
        ({"target": "http://127.0.0.1:1/embed", "golden": "{exported}"}, AnswerError, "^http.*: cannot be reached"),
        ({"target": "json:dumps", "golden": "{exported}"}, AnswerError, "^json:dumps: the answer holds no vectors"),
    ],
)
def test_what_cannot_be_checked(exported, tmp_path, given, kind, message):  # noqa: F811
    places = {"{exported}": exported, "{tmp}": tmp_path}
    with pytest.raises(kind, match=message) as raised:
        check(settings(**{name: places.get(value, value) for name, value in given.items()}))
    assert "\n" not in str(raised.value) and raised.value.exit_code in (1, 2, 3)
