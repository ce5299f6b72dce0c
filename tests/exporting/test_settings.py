"""What an export can be told."""

import importlib.util

import pytest

from e5ft.errors import ConfigurationError
from e5ft.exporting.settings import TrimSettings, check_packages


def test_one_file_or_several_or_languages():
    assert not TrimSettings().asked and TrimSettings().files == ()
    assert TrimSettings("faq.jsonl").files == ("faq.jsonl",) and TrimSettings("faq.jsonl").asked
    assert TrimSettings(("a.txt", "b.txt")).files == ("a.txt", "b.txt")
    assert TrimSettings(None, ("ko", "en")).asked


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"trim.languages.*xx.*ar, bg, .*ko.*zh"):
        TrimSettings(None, ("ko", "xx"))


def test_a_missing_package_is_named_before_the_work(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    check_packages(())
    check_packages(("openvino",))
    with pytest.raises(ConfigurationError, match=r"^formats=\[onnx_int8\]: needs onnxruntime; pip install onnxruntime$"):
        check_packages(("openvino", "onnx_int8"))
