"""What trimming can be told."""

import pytest

from e5ft.errors import ConfigurationError
from e5ft.exporting.trim_settings import TrimSettings


def test_one_file_or_several_or_languages():
    assert not TrimSettings().asked and TrimSettings().files == ()
    assert TrimSettings("faq.jsonl").files == ("faq.jsonl",) and TrimSettings("faq.jsonl").asked
    assert TrimSettings(("a.txt", "b.txt")).files == ("a.txt", "b.txt")
    assert TrimSettings(None, ("ko", "en")).asked


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"trim.languages.*xx.*ar, bg, .*ko.*zh"):
        TrimSettings(None, ("ko", "xx"))
