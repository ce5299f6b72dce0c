"""doctor=true: whether the composed settings, data and model would make a run, and whether it would fit."""

import itertools
import os
import shutil
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from e5ft.app import datasets
from e5ft.app.configuration import lora_settings, model_source, optimizer_class, training_arguments
from e5ft.app.estimate import checkpoint_disk, free_memory, size, training_memory
from e5ft.app.finding import Finding, fault, note, ok
from e5ft.app.machine_checks import uses_gpu
from e5ft.app.objective import objective
from e5ft.app.places import OUTPUTS, below
from e5ft.app.service_checks import needs_hub
from e5ft.data.formats import SUFFIXES
from e5ft.data.lines import BadLine
from e5ft.data.remote import is_url
from e5ft.data.rows import Columns, read_rows
from e5ft.files import read_json
from e5ft.modeling.loading import ModelSource, load_config, load_description, without_memory
from e5ft.retrieval.beir import check_layout

_LOOKED_AT = 200  # rows of each source
_ROOM = 1_000_000_000  # bytes free that caches of a middling data set take
_COUNTED = 20_000  # files of the cache


def check_settings(config: DictConfig) -> Finding:
    """Everything that the settings' own classes refuse, and a run of this name that is there already."""
    source = model_source(config)
    lora_settings(config)
    optimizer_class(config)
    objective(config, source)
    folder = below(OUTPUTS, config.name)
    arguments = training_arguments(config, folder)
    status = folder / "status.json"
    state = read_json(status)["state"] if status.is_file() else None
    if config.resume and state is None:
        return fault(f"resume=true, but there is no run in {folder}", "resume=false, or another name=")
    begun = state is not None and (state != "failed" or any(folder.glob("checkpoint-*")))
    if begun and not config.resume:
        return fault(f"{folder} holds a run already ({state})", "another name=, or resume=true to go on with it")
    rows = step_rows(config)
    return ok(f"{rows:,} queries a step on {arguments.device}")


def step_rows(config: DictConfig) -> int:
    """Rows of one optimizer step over all processes."""
    training = config.training
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * processes


def check_data(config: DictConfig) -> Finding:
    """The first rows of each source, as strictly as the run reads them, and the evaluation folders' layout."""
    sources = _sources(config)
    told, faults, seen, whole = [], [], 0, True
    for file, mapping, split in sources:
        if is_url(file) or (not Path(file).exists() and Path(file).suffix.lower() not in SUFFIXES):
            told.append(f"{file} ({'a URL' if is_url(file) else 'a hub data set'}, not looked at)")
            whole = False
            continue
        rows = list(itertools.islice(read_rows(file, mapping, split), _LOOKED_AT))
        faults += [str(row) for _, row in rows if isinstance(row, BadLine)]
        seen, whole = seen + len(rows), whole and len(rows) < _LOOKED_AT
        told.append(f"{file} ({'first ' if len(rows) == _LOOKED_AT else ''}{len(rows):,} rows)")
    text = ", ".join(told) + _sets(config)
    if faults:
        text = f"{faults[0]}" + (f" and {len(faults) - 1} more of the {seen:,} rows looked at" if len(faults) > 1 else "")
        if config.data.on_bad_row == "skip":
            return note(text, "data.on_bad_row=skip leaves them out")
        return fault(text, "mend the rows, or data.on_bad_row=skip to leave them out")
    if whole and seen < step_rows(config):
        return fault(
            f"{text}: {seen:,} rows do not fill one step of {step_rows(config):,}",
            "a smaller training.per_device_train_batch_size or training.gradient_accumulation_steps",
        )
    return ok(text)


def _sources(config: DictConfig) -> list[tuple[str, Columns, str]]:
    """Files or hub names of the rows, with their columns and split."""
    mix = datasets.mix_of(config)
    if mix is not None:
        found = [(source.train_file, source.columns, source.split) for source in mix.sources]
    else:
        file = config.data.train_file
        found = [
            (str(datasets.SAMPLE / "train.jsonl") if file is None else file, datasets.columns(config.data), config.data.split)
        ]
    if config.data.dev_file is not None:
        found.append((config.data.dev_file, datasets.columns(config.data), "train"))
    return found


def _sets(config: DictConfig) -> str:
    given, split = config.data.keep_dir, config.data.eval_split
    named = list(given) if OmegaConf.is_list(given) else [given]
    here = [name for name in named if not is_url(name) and name is not None]
    folders = datasets.keep_folders(here, split, Path(config.cache_dir))
    target = config.data.eval_dir
    if target is not None and not is_url(target):
        check_layout(Path(target), split)
    shown = [*([target] if target is not None else []), *map(str, folders), *filter(is_url, named)]
    return f"; evaluation: {', '.join(shown)}" if shown else ""


def check_model(config: DictConfig) -> Finding:
    """The model's configuration, tokenizer and contract; its weights are looked for, not read. From the hub: check_hub."""
    source = model_source(config)
    if needs_hub(source):
        return ok(f"{source.label} at {source.revision or 'its newest revision'}")
    loaded, spec, tokenizer = load_description(source)
    text = f"{source.label}: {loaded.model_type}, {loaded.num_hidden_layers} layers, {len(tokenizer):,} pieces, {spec.pooling}"
    if source.init == "random":
        return note(text, "random weights are for trying things out; a real one: model=e5_small")
    if not list(Path(source.path).glob("*.safetensors")):
        return fault(f"{source.path} has no *.safetensors", "pickled weights are not read: save the model as safetensors")
    return ok(text)


def parameters(config: DictConfig) -> tuple[int, int, int] | None:
    """Parameters in all, trained ones, and of the latter the token embeddings that a compact table may leave out.

    Returns:
        None where only the hub knows the model's shape.
    """
    source = model_source(config)
    if source.path is None and source.shape:
        source = ModelSource(init="random", shape=source.shape, tokenizer=".")
    if source.path is None and not source.shape:
        return None
    model = without_memory(load_config(source))
    total = sum(parameter.numel() for parameter in model.parameters())
    lora = lora_settings(config)
    if lora is not None:
        names = lora.target_modules
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and not n.startswith("pooler")]
        chosen = [m for n, m in layers if names == "all-linear" or n.rpartition(".")[2] in names]
        added = sum(lora.rank * (layer.in_features + layer.out_features) for layer in chosen)
        return total + added, added, 0
    compact = config.training.compact_embedding and optimizer_class(config)[0] is torch.optim.AdamW
    return total, total, model.get_input_embeddings().weight.numel() if compact else 0


def check_memory(config: DictConfig) -> Finding:
    """Free memory against weights, gradient and optimizer."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) if uses_gpu(config) else 0)
    free = free_memory(device if uses_gpu(config) else torch.device("cpu"))
    found = parameters(config)
    if found is None:
        return ok(f"{size(free)} free; what the model needs is known once it is here")
    total, trained, spared = found
    processes = 1 if uses_gpu(config) else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    shards = int(os.environ.get("WORLD_SIZE", 1)) if config.training.fsdp else 1
    most, least = (processes * training_memory(total, trained - less, shards) for less in (0, spared))
    text = f"{total:,} parameters: {size(most)} for weights, gradient and optimizer, more for activations; {size(free)} free"
    smaller = "a smaller model, or model.lora.rank=16"
    if free and least > free:
        return fault(text, smaller)
    if free and most > 0.8 * free:
        return note(text, f"it may not fit: {smaller}, training.activation_checkpointing=true")
    return ok(text)


def check_disk(config: DictConfig) -> Finding:
    """Free disk for checkpoints and the model, where outputs/ is or would be."""
    free = shutil.disk_usage(_existing(Path("outputs"))).free
    found = parameters(config)
    if found is None:
        return ok(f"{size(free)} free for outputs/")
    limit = config.training.save_total_limit
    save = config.training.save_strategy
    count = 0 if save == "no" else (limit or 10) + 1
    need = checkpoint_disk(found[0], found[1], count)
    text = f"{size(need)} for {count} checkpoints and the model; {size(free)} free for outputs/"
    if need > free:
        return fault(text, "lower training.save_total_limit, or make room")
    if limit is None and save != "no":
        return note(text, "training.save_total_limit=null keeps every checkpoint: set it")
    return ok(text)


def check_cache(config: DictConfig) -> Finding:
    """Whether cache_dir can be written, what it holds, and the room beside it."""
    folder = Path(config.cache_dir)
    place = _existing(folder)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return fault(f"{folder} cannot be written", "cache_dir=DIR names another folder")
    free = shutil.disk_usage(place).free
    held = counted = 0
    for path in itertools.islice(folder.rglob("*"), _COUNTED):
        if path.is_file() and not path.is_symlink():
            held, counted = held + path.stat().st_size, counted + 1
    text = f"{folder}: {size(held)} in {counted:,} files; {size(free)} free"
    if free < _ROOM:
        return note(text, f"rows and vectors are kept there: make room (what is in {folder} may be deleted), or cache_dir=DIR")
    return ok(text)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above that is there."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
