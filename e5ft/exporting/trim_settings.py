"""Settings of trimming: whose texts and which languages a vocabulary is cut to."""

import dataclasses
from typing import Annotated, ClassVar

from e5ft.settings import FilePath, Rule, Settings

# A script is the first word of its letters' names in Unicode (CJK: Chinese characters; HANJA: single ones, as Korean has them).
_LANGUAGES_OF = {
    ("HANGUL", "HANJA"): "ko",
    ("CJK",): "zh",
    ("HIRAGANA", "KATAKANA", "CJK", "IDEOGRAPHIC"): "ja",
    ("DEVANAGARI",): "hi mr ne",
    ("BENGALI",): "bn",
    ("GREEK",): "el",
    ("HEBREW",): "he",
    ("TAMIL",): "ta",
    ("TELUGU",): "te",
    ("THAI",): "th",
}
SCRIPTS = {language: scripts for scripts, languages in _LANGUAGES_OF.items() for language in languages.split()}
# Of scripts that many languages share (Latin, Cyrillic, Arabic) a language has what its words use.
_SHARED = "ar bg cs da de en es fa fi fr hu id it nl no pl pt ro ru sv tr uk ur vi"
BY_WORDS = frozenset(_SHARED.split())
KNOWN = tuple(sorted({*SCRIPTS, *BY_WORDS}))
Language = Annotated[str, Rule(f"one of {', '.join(KNOWN)}", lambda name: name in KNOWN)]


@dataclasses.dataclass(frozen=True)
class TrimSettings(Settings):
    """What a vocabulary is cut to; both empty: it stays whole.

    Attributes:
        texts: files whose pieces stay: rows, passages or queries, or lines of a .txt.
        languages: pieces of these languages stay: of their scripts, or those that their frequent words use (`BY_WORDS`).
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
