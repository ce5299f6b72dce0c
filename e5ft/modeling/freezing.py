"""Parts of a model that are not trained: its embeddings, its lower layers. They take no gradient and no optimizer state."""

from torch import nn
from transformers import PreTrainedModel

from e5ft.errors import ConfigurationError
from e5ft.modeling.settings import frozen_parts


def freeze(backbone: PreTrainedModel, parts: tuple[int | str, ...]) -> None:
    """Take the weights of parts of a model out of training, in place; dropout in them stays.

    Args:
        backbone: transformers' encoder without a head.
        parts: "embeddings" (of words, positions and types, with their layer norm), numbers of layers from 0 on, ranges ("0-5").

    Raises:
        ConfigurationError: the model has no such part, or nothing would be left to train.
    """
    names, shown = frozen_parts(parts), f"model.freeze=[{','.join(map(str, parts))}]"
    layers = _layers(backbone)
    for part in names:
        if part == "embeddings":
            _embeddings(backbone).requires_grad_(False)
            continue
        if layers is None:
            raise ConfigurationError(f"{shown}: model type {backbone.config.model_type!r} has no list of layers; only embeddings")
        if part >= len(layers):
            raise ConfigurationError(f"{shown}: there is no layer {part}; this model has the layers 0-{len(layers) - 1}")
        layers[part].requires_grad_(False)
    if not any(p.requires_grad for name, p in backbone.named_parameters() if not name.startswith("pooler.")):
        raise ConfigurationError(f"{shown}: nothing would be left to train; leave out the last layers")


def _layers(backbone: PreTrainedModel) -> nn.ModuleList | None:
    count = getattr(backbone.config, "num_hidden_layers", None)
    return next((m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)


def _embeddings(backbone: PreTrainedModel) -> nn.Module:
    """The module of all embeddings; of a model without one, the table of words alone."""
    table, module = backbone.get_input_embeddings(), getattr(backbone, "embeddings", None)
    return module if isinstance(module, nn.Module) and any(part is table for part in module.modules()) else table
