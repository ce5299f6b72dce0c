"""The export job: any checkpoint, or a merger of two, as a checked sentence-transformers folder, and to the hub if asked."""

import re
from pathlib import Path

from omegaconf import DictConfig

from e5ft.app import configuration
from e5ft.app.merging import merge_models
from e5ft.app.telling.report import plain_card, relative, say
from e5ft.errors import ConfigurationError, E5ftError
from e5ft.files import read_json, write_json
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.export import export_model
from e5ft.modeling.loading import RECORD, ModelSource, load_encoder

# What an export may consist of. Anything else in its place is somebody's work, and a folder is replaced as a whole.
_EXPORTED = re.compile(r"README\.md|[12]_(Pooling|Normalize)|[\w-]+\.json|[\w-]+\.safetensors|[\w.-]+\.(model|txt)")


def export(config: DictConfig) -> None:
    """Run one export job.

    Args:
        config: the composed configuration of export.py.

    Raises:
        ConfigurationError: no target, or one that is in use.
        ExportError: the folder would not give the model's vectors.
    """
    if config.output_dir is None:
        raise ConfigurationError("output_dir: name the folder to write (output_dir=DIR)")
    source = configuration.model_source(config)
    target = _target(Path(config.output_dir), source)
    if config.merge.base is not None:
        merged = merge_models(config, source)
        encoder, label, card = merged.encoder, merged.label, merged.card
    elif config.data.eval_dir is not None or config.data.keep_dir:
        raise ConfigurationError(
            "data.eval_dir, data.keep_dir: only merging measures (merge.base=DIR); to measure a model: eval.py"
        )
    else:
        encoder, label = load_encoder(source), source.label
        card = _card(source, encoder)
    difference = export_model(encoder, target, card)
    if config.merge.base is not None:
        write_json(target / "merge.json", merged.record)
    say(f"{relative(target)}: {label}, {encoder.dimension} dimensions; encoded again, largest difference {difference:.1e}")
    if config.push is not None:
        _push(target, config.push, config.private)


def _target(path: Path, source: ModelSource) -> Path:
    """The folder to write: a new or empty one, or an earlier export, which is replaced whole.

    Raises:
        ConfigurationError: it holds anything that an export did not write, or it is the model itself.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ConfigurationError(f"output_dir={path}: a link or a file stands there; name a new folder")
    if not path.is_dir():
        return path
    foreign = sorted(file.name for file in path.iterdir() if not _EXPORTED.fullmatch(file.name))
    config = path / "config.json"
    ours = config.is_file() and RECORD in read_json(config)
    if foreign or (any(path.iterdir()) and not ours):
        raise ConfigurationError(
            f"output_dir={path}: holds other files ({', '.join(foreign[:3]) or 'a model'}); name a new folder"
        )
    if source.path is not None and path.resolve() == Path(source.path).resolve():
        raise ConfigurationError(f"output_dir={path}: this is model.path, which would be replaced; name a new folder")
    return path


def _card(source: ModelSource, encoder: Encoder) -> str:
    """The run's own card where the checkpoint belongs to a finished run, else one without scores."""
    run = Path(source.path).resolve().parent if source.path is not None else None
    if run is not None and (run / "summary.json").is_file() and (run / "model" / "README.md").is_file():
        step = Path(source.path).name.removeprefix("checkpoint-")
        if Path(source.path).name == "model" or step == str(read_json(run / "summary.json").get("best", {}).get("step")):
            return (run / "model" / "README.md").read_text(encoding="utf-8")
    return plain_card(source.label, encoder)


def _push(folder: Path, name: str, private: bool) -> None:
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        url = api.upload_folder(folder_path=folder, repo_id=name, commit_message="Upload with e5ft")
    except Exception as error:  # the client raises many kinds, and the folder is safe on disk whichever it is
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise E5ftError(
            f"push={name}: not uploaded ({first}); {folder} is complete. Log in with `hf auth login` and try again"
        ) from error
    say(f"uploaded: {url}")
