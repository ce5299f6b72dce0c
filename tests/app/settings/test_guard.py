"""What looks like a secret, and what only resembles one."""

import io

import pytest
from omegaconf import OmegaConf

from e5ft.app.settings import guard as secrets
from e5ft.app.settings.guard import BLANK, redacted, without_secrets
from e5ft.errors import ConfigurationError

TOKENS = [
    "hf_" + "aB3" * 12,
    "AKIA" + "ABCD1234" * 2,
    "sk-" + "a1B2" * 12,
    "sk-proj-" + "a1B2" * 12,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1_B2" * 12,
    "glpat-" + "a1B2" * 6,
    "wandb_v1_" + "a1B2" * 10,
]
# A commit, a model, paths, tokens of a tokenizer, addresses: none of them is a secret.
HARMLESS = [
    "fd1525a9fd15316a2d503bf26ab031a61d056e98",
    "intfloat/multilingual-e5-small",
    "outputs/task-2026-sk-learn/model",
    "hf_hub/snapshots/abc",
    "https://huggingface.co/datasets/a/b@main",
    "data@2026/rows.jsonl",
    "query: ",
    "tokenizer=data/tokenizer evaluation.batch_tokens=16384 pad_token_id=1",
    "서울특별시 https://example.com/길?쪽=1",
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_blanked_wherever_it_stands(token):
    for text in (token, f"'{token}'", f"no such file: /a/{token}/b", f"x={token},y", f"질문{token}", f'{{"a": "{token}"}}'):
        assert token not in redacted(text) and BLANK in redacted(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_stays(text):
    assert redacted(text) == text and not secrets.holds_secret(text)


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
    given = {"a": {"api_key": "x", "tokenizer": "kept", "hub_token": "x"}, "b": [{"password": "x"}, TOKENS[0]], "batch_tokens": 3}
    assert without_secrets(given) == {"a": {"tokenizer": "kept"}, "b": [{}, BLANK], "batch_tokens": 3}


def test_secrets_of_the_environment_are_known_by_name(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    monkeypatch.setenv("MY_PATH", "a-long-and-harmless-value")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/credentials.json")
    monkeypatch.setattr("sys.stdout", out := io.StringIO())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    secrets.guard()
    print("key", "0123456789abcdef" * 2, "a-long-and-harmless-value", "/home/me/credentials.json", flush=True)
    assert out.getvalue() == f"key {BLANK} a-long-and-harmless-value /home/me/credentials.json\n"


def test_what_is_printed_is_blanked_once(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stderr", err := io.StringIO())
    secrets.guard(["name=x", "+loss.my_token=correct-horse"])
    secrets.guard()
    import sys

    sys.stderr.writelines(["a correct-horse b\n", "c\n"])
    assert err.getvalue() == f"a {BLANK} b\nc\n" and sys.stderr.getvalue() == err.getvalue()  # the rest is the stream's own


def test_a_secret_in_another_field_is_refused_without_being_told():
    for value in (TOKENS[0], "https://me:hunter2@host/rows.jsonl"):
        with pytest.raises(ConfigurationError, match="data.train_file: holds a secret") as caught:
            secrets.check_no_secrets(OmegaConf.create({"data": {"train_file": value}}))
        assert value not in str(caught.value)


def test_the_value_of_a_secret_field_is_known_from_then_on():
    secrets.check_no_secrets(
        OmegaConf.create({"loss": {"my_token": "correct-horse", "more": {"secret": {"a": "staple-battery"}}}})
    )
    assert redacted("correct-horse staple-battery") == f"{BLANK} {BLANK}"
