"""The installed command: which verb it runs, and what it says where there is none."""

import sys

import pytest

from e5ft.__main__ import main


@pytest.mark.parametrize(
    ("argument", "code", "stream"), [("--help", 0, "out"), ("-h", 0, "out"), ("trian", 2, "err"), (None, 2, "err")]
)
def test_usage_is_output_where_it_is_asked_for_and_an_error_otherwise(monkeypatch, capsys, argument, code, stream):
    monkeypatch.setattr(sys, "argv", ["e5ft", *filter(None, [argument])])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()._asdict()
    assert ended.value.code == code
    assert printed.pop(stream).startswith("usage: e5ft train|eval|mine|export ") and set(printed.values()) == {""}
