"""Where the server listens, and which Host headers it trusts."""

import importlib.util
import socket

import pytest

from e5ft.errors import ConfigurationError
from e5ft.serving import listening
from e5ft.serving.listening import address_of, is_local, is_trusted, listen


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(listening, "PACKAGES", ())


def test_a_free_port_is_taken_and_a_taken_one_is_refused(installed):
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address_of(first) == f"http://127.0.0.1:{port}"
        with pytest.raises(
            ConfigurationError, match=rf"^port={port}: cannot be had at 127.0.0.1 \(.*\); choose another, or port=0"
        ):
            listen("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_an_address_of_another_machine_is_refused(installed):
    with pytest.raises(ConfigurationError, match=r"^host=192.0.2.1: no address of this machine \("):
        listen("192.0.2.1", 0)


def test_absent_packages_are_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name != "jinja2" else object())
    with pytest.raises(ConfigurationError, match=r"^serve needs starlette and uvicorn: pip install starlette uvicorn$"):
        listen("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("header", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("192.168.0.7:80", True),
        ("box.local:8000", True),
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
        (":8000", False),
        ("[", False),
    ],
)
def test_names_of_others_are_not_trusted(header, trusted):
    assert is_trusted(header, "Box.local") == trusted


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box.local", False)]
)
def test_what_only_this_machine_reaches(host, local):
    assert is_local(host) == local
