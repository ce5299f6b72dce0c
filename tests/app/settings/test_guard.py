"""A run writes in one folder below the output root, whatever name, link or override it is given, and no secret leaves it."""

import contextlib
import io
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e5ft.app.settings import guard
from e5ft.app.settings.guard import BLANK, redacted, without_secrets
from e5ft.errors import ConfigurationError

TOKENS = [
    *("hf_" + "aB3" * 12, "AKIA" + "ABCD1234" * 2, "sk-" + "a1B2" * 12, "sk-proj-" + "a1B2" * 12, "ghp_" + "a1B2" * 9),
    *("github_pat_" + "a1_B2" * 12, "glpat-" + "a1B2" * 6, "wandb_v1_" + "a1B2" * 10),
]
# A commit, a model, paths, tokens of a tokenizer, addresses: none of them is a secret.
HARMLESS = [
    *(
        "fd1525a9fd15316a2d503bf26ab031a61d056e98",
        "intfloat/multilingual-e5-small",
        "outputs/task-2026-sk-learn/model",
        "query: ",
    ),
    *("hf_hub/snapshots/abc", "https://huggingface.co/datasets/a/b@main", "data@2026/rows.jsonl"),
    *("tokenizer=data/tokenizer batch_tokens=16384 pad_token_id=1", "서울특별시 https://example.com/길?쪽=1"),
]
BAD_NAMES = [
    *("../x", "a/b", "/etc", "", ".", "..", ".hidden", "a\0b", "a\nb", "a\n", "a b", "a ", "x" * 101, "-rf", "--help", "가" * 90),
    *("latest", "LATEST", TOKENS[0], f"run-{TOKENS[0]}"),
]
NAMES = ["2026-11-23_13-00-00", "한국어-실험_1", "a.b", "a.", "CON", "nul", "x" * 100, "가" * 66, "éclair", "로그"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guard, "_known", set())
    return tmp_path


# -- folders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("folder", [guard.run_dir, guard.sweep_dir])
def test_names_stay_below_the_output_root(folder, name):
    with pytest.raises(ConfigurationError) as caught:
        folder(name)
    assert TOKENS[0] not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_good_names(name):
    assert guard.folder_in("outputs", name) == Path("outputs", name) and guard.sweep_dir(name) == f"multirun/{name}"


@given(st.text(max_size=120))
def test_any_text_is_refused_or_one_folder(name):
    with contextlib.suppress(ConfigurationError):
        assert guard.folder_in("outputs", name).parts == ("outputs", name) and len(name.encode()) <= 200 and name.isprintable()


def test_a_link_out_of_the_root_is_refused(here):
    """The root itself may be one, to a larger disk."""
    (here / "elsewhere").mkdir()
    (here / "disk/other").mkdir(parents=True)
    (here / "outputs").symlink_to(here / "disk")
    for name, target in (("out", here / "elsewhere"), ("etc", "/etc"), ("dangling", "../../nowhere"), ("inside", "other")):
        (here / "outputs" / name).symlink_to(target)
    for name in ("out", "etc", "dangling"):
        with pytest.raises(ConfigurationError, match=f"name={name}.*leads out of outputs/"):
            guard.run_dir(name)
    assert guard.run_dir("inside") == "."


@pytest.mark.parametrize(
    "override",
    [
        *("hydra.run.dir=/tmp/x", "hydra.sweep.dir=..", "++hydra.sweep.subdir=../x", "hydra.run={dir: /tmp/x}", "~hydra.run.dir"),
        *("hydra.output_subdir=.hydra", "hydra={run: {dir: x}}"),
    ],
)
def test_hydra_s_own_folders_are_not_set(override):
    with pytest.raises(ConfigurationError, match="hydra"):
        guard.check_overrides(["seed=1", override])


def test_other_overrides_pass():
    others = ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", "name=a", "+loss.x=hydra.run.dir=1", "--cfg"]
    guard.check_overrides(others)


def test_a_job_is_here_or_below_the_output_roots(here):
    (here / "outputs").mkdir()
    (here / "multirun/s").mkdir(parents=True)
    (here / "outputs/out").symlink_to("/etc")
    (here / "multirun/s/1").symlink_to(here)
    for folder in (".", "outputs/a", "multirun/s/0"):
        guard.check_job_folder(here, here / folder)
    for folder in ("..", "outputs", "outputs/out", "elsewhere", "multirun/s/1"):
        with pytest.raises(ConfigurationError, match="leads out"):
            guard.check_job_folder(here, here / folder)


# -- secrets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_blanked_wherever_it_stands(token):
    for text in (token, f"'{token}'", f"no such file: /a/{token}/b", f"x={token},y", f"질문{token}", f'{{"a": "{token}"}}'):
        assert token not in redacted(text) and BLANK in redacted(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_stays(text):
    assert redacted(text) == text and not guard.holds_secret(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x", f"https://{BLANK}@host/x"),
        ("https://host/x?a=1&X-Amz-Signature=abc&b=2", f"https://host/x?a=1&X-Amz-Signature={BLANK}&b=2"),
        ("+tracking.api_key=hunter2", f"+tracking.api_key={BLANK}"),
        ("{'my_token': 'a b', 'x': 1}", f"{{'my_token': {BLANK}, 'x': 1}}"),
        ("tracking:\n  password: hunter2\n  project: e5ft", f"tracking:\n  password: {BLANK}\n  project: e5ft"),
    ],
)
def test_passwords_are_known_by_where_they_stand(text, shown):
    assert redacted(text) == redacted(shown) == shown


def test_fields_that_are_secrets_by_name_are_left_out():
    record = {"a": {"api_key": "x", "tokenizer": "y", "hub_token": "x"}, "b": [{"password": "x"}, TOKENS[0]], "batch_tokens": 3}
    assert without_secrets(record) == {"a": {"tokenizer": "y"}, "b": [{}, BLANK], "batch_tokens": 3}


def test_secrets_of_environment_and_command_line_are_not_printed(monkeypatch):
    """Once, however often a process is guarded; all else of a stream is the stream's own. The longest secret goes first."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setenv("SHORTER_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("MY_PATH", "a-long-and-harmless-value")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/credentials.json")
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    monkeypatch.setattr("sys.stderr", err := io.StringIO())
    guard.guard(["name=x", "+loss.my_token=correct-horse"])
    guard.guard()
    print("key", "0123456789abcdef" * 2, "a-long-and-harmless-value", "/home/me/credentials.json", flush=True)
    assert out.getvalue() == f"key {BLANK} a-long-and-harmless-value /home/me/credentials.json\n"
    sys.stderr.writelines(["a correct-horse b\n", "c\n"])
    assert err.getvalue() == f"a {BLANK} b\nc\n" == sys.stderr.getvalue()


@pytest.mark.parametrize("secret", [TOKENS[0], "https://me:hunter2@host/rows.jsonl"])
@pytest.mark.parametrize("nested", [lambda value: value, lambda value: ["a", value], lambda value: {"b": value}])
def test_a_secret_in_another_field_is_refused_without_being_said(secret, nested):
    with pytest.raises(ConfigurationError, match="data.train_file.*: holds a secret") as caught:
        guard.check_no_secrets({"data": {"train_file": nested(secret)}})
    assert secret not in str(caught.value)


def test_the_value_of_a_secret_field_is_known_from_then_on():
    guard.check_no_secrets({"loss": {"my_token": "correct-horse", "more": {"secret": {"a": "staple-battery"}}}})
    assert redacted("correct-horse staple-battery") == f"{BLANK} {BLANK}"
