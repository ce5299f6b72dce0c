"""Settings of an export: the files beside the weights, and whose texts and which languages a vocabulary is cut to."""

import dataclasses
import importlib.util
from collections.abc import Iterable
from typing import Annotated, ClassVar

from e5ft.errors import ConfigurationError
from e5ft.settings import FilePath, Rule, Settings

# Where sentence-transformers, text-embeddings-inference and transformers.js look; the int8 name is transformers.js' for "q8".
FILES = {
    "onnx": "onnx/model.onnx",
    "onnx_int8": "onnx/model_quantized.onnx",
    "openvino": "openvino/openvino_model.xml",
}
QUANTISED = "onnx/quantised.json"  # how far the int8 file is from the weights
GGUF_FILE = "model-f16.gguf"
_PACKAGES = {
    "onnx": ("onnxscript", "onnxruntime"),
    "onnx_int8": ("onnxscript", "onnxruntime"),
    "openvino": ("onnxscript", "openvino"),
    "gguf": ("gguf",),
}
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


def check_packages(formats: Iterable[str]) -> None:
    """Refuse formats whose packages are not installed.

    Raises:
        ConfigurationError: one is missing.
    """
    for name in formats:
        missing = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigurationError(f"formats=[{name}]: needs {', '.join(missing)}; pip install {' '.join(missing)}")


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
