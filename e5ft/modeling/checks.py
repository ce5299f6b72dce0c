"""Whether a model folder can be used: looked at before the weights are read, and tried on one text after."""

import os
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from e5ft.data.lines import printable
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.modeling.encoder import Encoder

# Far above any encoder's; beyond them is a typing error or a broken file, and building the model would take all memory.
_LIMITS = {
    "vocab_size": 10_000_000,
    "hidden_size": 65_536,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 4_096,
    "intermediate_size": 1_000_000,
    "max_position_embeddings": 1_000_000,
}
_NEEDED = ("vocab_size", "hidden_size")
# RoBERTa's converted weights have one token type, of zeros, which is right: nothing uses it.
_MAY_BE_ZERO = ("token_type_embeddings.weight", ".bias")


def check_shape(config, place: str) -> None:
    """Refuse sizes that no text encoder has.

    Args:
        config: transformers' configuration.
        place: where it comes from, for messages.

    Raises:
        ConfigurationError: a size is missing or out of range, or the model needs more memory than the machine has.
    """
    for field in _NEEDED:
        if getattr(config, field, None) is None:
            raise ConfigurationError(f"{place}: model type {config.model_type!r} has no {field}; must be a text encoder")
    for field, most in _LIMITS.items():
        value = getattr(config, field, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            raise ConfigurationError(f"{place}: {field}={value!r}: must be a whole number from 1 to {most:,}")
    if getattr(config, "chunk_size_feed_forward", 0) != 0:
        raise ConfigurationError(
            f"{place}: chunk_size_feed_forward={config.chunk_size_feed_forward!r}: must be 0, as texts of every length are read"
        )
    pad = config.pad_token_id if hasattr(config, "pad_token_id") else None
    if pad is not None and (not isinstance(pad, int) or not 0 <= pad < config.vocab_size):
        raise ConfigurationError(f"{place}: pad_token_id={pad!r}: must be a token id below vocab_size={config.vocab_size}")
    try:
        with torch.device("meta"):
            size = 4 * sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    except Exception as error:  # whatever the architecture's own code trips over
        raise ConfigurationError(f"{place}: {first_line(error)}") from error
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise ConfigurationError(
            f"{place}: its weights need {size / 1e9:,.0f} GB, this machine has {memory / 1e9:,.0f} GB of memory; use a smaller model"
        )


def refuse_adapter(place: str) -> None:
    """Refuse a folder of adapters: transformers would go and fetch the model that it names.

    Raises:
        ConfigurationError: the folder holds an adapter_config.json.
    """
    if not (Path(place) / "adapter_config.json").is_file():
        return
    beside = Path(place).parent / "model"
    if (beside / "config.json").is_file():
        raise ConfigurationError(
            f"{place}: a run's adapter (adapter_config.json); merged into its base it is model.path={beside}"
        )
    code = f"M.from_pretrained({str(place)!r}).merge_and_unload().save_pretrained('merged')"
    raise ConfigurationError(
        f"{place}: an adapter (adapter_config.json), not a whole model; merge it into its base first, and take the base's tokenizer: "
        f'python -c "from peft import AutoPeftModelForFeatureExtraction as M; {code}", then model.path=merged model.tokenizer=BASE'
    )


def check_vectors(encoder: Encoder, place: str) -> None:
    """Embed one text, and look for weights that a cut or zeroed file leaves behind.

    Raises:
        ConfigurationError: the model cannot embed, its vectors are no directions, or a whole weight is zero.
    """
    for name, tensor in encoder.backbone.named_parameters():
        if not name.endswith(_MAY_BE_ZERO) and not tensor.any():
            raise ConfigurationError(f"{place}: {name} is zero throughout: its weights were cut or zeroed; copy the model again")
    try:
        vectors = encoder.encode(["a", "a"], "query")
    except E5ftError:
        raise
    except Exception as error:  # a configuration or tokenizer that does not fit shows only here, in any of the libraries
        raise ConfigurationError(f"{place}: the model cannot embed a text: {first_line(error)}") from error
    if not np.isfinite(vectors).all() or not vectors.any():
        raise ConfigurationError(f"{place}: its vectors are NaN, infinite or zero: the weights are broken; copy the model again")


_IN_OUR_WORDS = {
    "remote_code": "it needs code of its own, which is never run here",
    "ignore_mismatched_sizes": "its weights have other shapes than its config.json says",
    "no file named model.safetensors": "there is no model.safetensors, and other weights (pickles, .bin) are never read",
}


def first_line(error: Exception) -> str:
    """What a library's error says, in one line, or in our words where its own lead astray."""
    text = str(error).strip()
    for part, ours in _IN_OUR_WORDS.items():
        if part in text:
            return ours
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    found = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    named = isinstance(error, OSError | ValueError | RuntimeError) and found
    return printable(found if named else f"{type(error).__name__}: {found}")
