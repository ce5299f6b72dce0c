"""Settings of trimming: whose texts and which languages a vocabulary is cut to."""

import dataclasses
from typing import Annotated, ClassVar

from e5ft.settings import FilePath, Rule, Settings

# A script is the first word of its letters' names in Unicode (CJK: Chinese characters); ASCII: Latin letters from a to z alone.
_LANGUAGES_OF = {
    ("HANGUL", "CJK"): "ko",
    ("ASCII",): "en",
    ("LATIN",): "cs da de es fi fr hu id it nl no pl pt ro sv tr vi",
    ("CYRILLIC",): "bg ru uk",
    ("CJK",): "zh",
    ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC"): "ja",
    ("ARABIC",): "ar fa ur",
    ("DEVANAGARI",): "hi mr ne",
    ("BENGALI",): "bn",
    ("GREEK",): "el",
    ("HEBREW",): "he",
    ("TAMIL",): "ta",
    ("TELUGU",): "te",
    ("THAI",): "th",
}
SCRIPTS = {language: scripts for scripts, languages in _LANGUAGES_OF.items() for language in languages.split()}
Language = Annotated[str, Rule(f"one of {', '.join(sorted(SCRIPTS))}", lambda name: name in SCRIPTS)]


@dataclasses.dataclass(frozen=True)
class TrimSettings(Settings):
    """What a vocabulary is cut to; both empty: it stays whole.

    Attributes:
        texts: files whose pieces stay: rows, passages or queries, or lines of a .txt.
        languages: pieces in the scripts of these languages stay, whatever language of such a script they serve.
    """

    PATH: ClassVar[str] = "trim"
    texts: FilePath | tuple[FilePath, ...] | None = None
    languages: tuple[Language, ...] = ()

    @property
    def asked(self) -> bool:
        """Whether there is anything to cut to."""
        return bool(self.texts) or bool(self.languages)

    @property
    def files(self) -> tuple[str, ...]:
        """The files of texts, perhaps none."""
        return (self.texts,) if isinstance(self.texts, str) else tuple(self.texts or ())
