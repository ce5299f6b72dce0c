"""SIGTERM: one request however often it comes at once, and the end at the next."""

import os
import signal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from e5ft.app import job


@pytest.mark.parametrize(("later", "ended"), [(4.0, False), (6.0, True)])
def test_a_repeated_sigterm_is_one_request_and_a_later_one_the_end(monkeypatch, later, ended):
    asked, killed, clock = [], [], [100.0]
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(job.time, "monotonic", lambda: clock[0])
    try:
        job.stop_on_sigterm(lambda: asked.append(True))
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
        handler(signal.SIGTERM, None)
        clock[0] += later
        handler(signal.SIGTERM, None)
        assert asked == [True]
        assert killed == ([(os.getpid(), signal.SIGTERM)] if ended else [])
        assert (signal.getsignal(signal.SIGTERM) == signal.SIG_DFL) == ended
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("argument", "expected", "read"),
    [
        ("name=한국어-실험_1", "name='한국어-실험_1'", "한국어-실험_1"),
        ("+data.train_file=판례/행 하나.jsonl", "+data.train_file='판례/행 하나.jsonl'", "판례/행 하나.jsonl"),
        ("x=http://가/나", "x='http://가/나'", "http://가/나"),
        ("data.keep_dir=[가,b]", "data.keep_dir=['가',b]", ["가", "b"]),
        ("x={laws: 법.jsonl, web: {train_file: 웹.jsonl}}", "x={laws: '법.jsonl', web: {train_file: '웹.jsonl'}}", {
            "laws": "법.jsonl", "web": {"train_file": "웹.jsonl"}}),
        ("name='가'", "name='가'", "가"),
        ("loss.temperature=0.01", "loss.temperature=0.01", 0.01),
    ],
)  # fmt: skip
def test_korean_values_are_quoted_for_hydra(argument, expected, read):
    assert job.quoted(argument) == expected
    assert OverridesParser.create().parse_override(job.quoted(argument)).value() == read


def test_korean_values_in_a_sweep():
    override = OverridesParser.create().parse_override(job.quoted("name=가,나 다,c"))
    assert [value.strip("'") for value in override.sweep_string_iterator()] == ["가", "나 다", "c"]


@pytest.mark.parametrize("argument", ["-m", "--config-dir=가", "x=\\가", "x=${가}"])
def test_what_is_not_to_be_quoted_stays(argument):
    assert job.quoted(argument) == argument
