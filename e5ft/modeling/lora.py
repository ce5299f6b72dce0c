"""Low-rank adapters (LoRA, Hu et al. 2021) through peft: the model stays as it is, small matrices beside it are trained.

The adapters sit inside the encoder's own layers, so that attention, pooling and saving are the same code with and without.
"""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from e5ft.errors import ConfigurationError
from e5ft.files import new_folder, share
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.settings import LoraSettings

FILE = "adapter.safetensors"  # beside a checkpoint's merged weights: what resuming needs


def add_adapters(encoder: Encoder, settings: LoraSettings, seed: int) -> None:
    """Put adapters into an encoder, in place, and freeze everything else. Until they are trained no vector changes (B = 0).

    Args:
        encoder: without adapters.
        settings: what to add.
        seed: of A's random numbers.

    Raises:
        ConfigurationError: peft is not installed, or no linear layer has one of the names.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigurationError("model.lora.rank: needs peft (pip install peft); null trains all weights") from error
    names = settings.target_modules
    linear = [name for name, module in encoder.backbone.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [] if isinstance(names, str) else [n for n in names if not any(f".{layer}".endswith(f".{n}") for layer in linear)]
    if unknown:  # peft would adapt the others, and say nothing
        raise ConfigurationError(
            f"model.lora.target_modules={list(names)}: no {', '.join(unknown)} in this model, whose linear layers are "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linear}))}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names if isinstance(names, str) else list(names),
    )
    device = encoder.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder.to("cpu")  # A is drawn where the layer is: the same numbers on every device
        inject_adapter_in_model(config, encoder.backbone)
    encoder.to(device)


def added_parameters(model: torch.nn.Module, settings: LoraSettings) -> int:
    """How many numbers adapters would add to a model; it may be one without memory."""
    names = settings.target_modules
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not n.startswith("pooler")]
    adapted = [layer for n, layer in layers if names == "all-linear" or n.rpartition(".")[2] in names]
    return sum(settings.rank * (layer.in_features + layer.out_features) for layer in adapted)


def adapter_state(encoder: Encoder) -> dict[str, torch.Tensor]:
    """The adapters' tensors by name; empty without adapters."""
    return {name: tensor for name, tensor in encoder.backbone.state_dict().items() if ".lora_" in name}


@torch.no_grad()
def merged_state(encoder: Encoder) -> dict[str, torch.Tensor] | None:
    """The weights of the plain model that gives the adapted one's vectors; None without adapters."""
    if not adapter_state(encoder):
        return None
    from peft.tuners.lora import LoraLayer

    state = {name: tensor for name, tensor in encoder.backbone.state_dict().items() if ".lora_" not in name}
    for name, module in encoder.backbone.named_modules():
        if isinstance(module, LoraLayer):
            for adapter in module.active_adapters:
                weight = state[f"{name}.base_layer.weight"]
                state[f"{name}.base_layer.weight"] = weight + module.get_delta_weight(adapter).to(weight.dtype)
    return {name.replace(".base_layer.", "."): tensor.contiguous() for name, tensor in state.items()}


def save_adapters(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Write the adapters, where there are any, beside a checkpoint's merged weights."""
    state = adapter_state(encoder)
    if state:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, Path(folder) / FILE)
        share(Path(folder) / FILE)


def save_for_peft(encoder: Encoder, folder: str | os.PathLike, settings: LoraSettings, base: str, revision: str | None) -> None:
    """Write the adapters in peft's own layout: `PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)` loads them.

    Args:
        encoder: with adapters.
        folder: where to write; replaced if it exists.
        settings: with which they were added.
        base: the model before training, a folder or hub name.
        revision: its commit on the hub.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        # By their whole names: by the last part peft would adapt the pooler too, which e5ft does not train.
        target_modules=[name for name, module in encoder.backbone.named_modules() if isinstance(module, LoraLayer)],
        task_type="FEATURE_EXTRACTION",
        inference_mode=True,
        base_model_name_or_path=base,
        revision=revision,
    )
    state = {f"base_model.model.{name.replace('.default.', '.')}": tensor for name, tensor in adapter_state(encoder).items()}
    with new_folder(folder) as temporary:
        config.save_pretrained(str(temporary))
        file = temporary / "adapter_model.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, {"format": "pt"})
        share(file)


def load_adapters(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Read the adapters of a checkpoint; the weights beside them stay.

    Raises:
        ConfigurationError: there are none, or they have other names or shapes.
    """
    file = Path(folder) / FILE
    try:
        tensors = load_file(file, device=str(encoder.device))
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{file}: cannot be read ({error})") from error
    wanted = {name: tensor.shape for name, tensor in adapter_state(encoder).items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ConfigurationError(f"{file}: adapters of another rank or of other layers (model.lora.*)")
    encoder.backbone.load_state_dict(tensors, strict=False)
