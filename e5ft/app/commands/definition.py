"""What makes a training what it is: every checkpoint's manifest holds it, and resuming compares it, field by field.

What is read is in it as a digest of its content, never as a path: files, folders and models may be moved. Free are
how a step is computed, what is printed and logged, and whatever no weight depends on.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from e5ft import distributed
from e5ft.app.commands.data import TrainingData
from e5ft.app.settings.build import plain
from e5ft.app.settings.groups import TrainSettings
from e5ft.app.telling.report import relative
from e5ft.data.text import tokenizer_state
from e5ft.errors import ConfigurationError, ResumeRefusedError
from e5ft.files import digest_of, digest_of_file
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.settings import frozen_parts
from e5ft.retrieval.sets import RetrievalSet
from e5ft.retrieval.vectors import digest_of_model, digest_of_texts
from e5ft.training import checkpoint

# Of the `training` group. The rows of a step, a product of the first two and the processes, are compared by themselves.
_FREE = re.compile(
    r"per_device_train_batch_size|gradient_accumulation_steps|activation_checkpointing.*|fit_micro_batch|dataloader_.*|ddp_.*|fsdp.*|"
    r"logging_.*|log_.*|save_total_limit|disable_tqdm|use_cpu|skip_memory_metrics|torch_empty_cache_steps"
)


def of_settings(settings: TrainSettings) -> dict:
    """The settings on which weights or the choice among them depend, without paths."""
    values = plain(settings)
    training = values["training"]
    rows = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * distributed.world_size()
    return {
        **{group: values[group] for group in ("matryoshka", "optimizer", "seed")},
        # The guard looks at finished weights, and each time again.
        "keep": {name: value for name, value in values["keep"].items() if name != "guard"},
        "loss": {name: value for name, value in values["loss"].items() if name != "chunk_size"},
        "step": {name: value for name, value in values["step"].items() if name != "guide"},
        "lora": None if settings.lora is None else settings.lora.to_dict(),
        # Older checkpoints have no such field.
        **({"freeze": frozen_parts(settings.model.freeze)} if settings.model.freeze else {}),
        **({"augment": values["data"]["augment"]} if settings.data.augment.share else {}),
        "negatives_per_query": values["data"]["negatives_per_query"],
        "queries per step": rows,
        # Older checkpoints, which have no such field, are refused: which micro-batches they had is not known.
        **(
            {"training.per_device_train_batch_size": training["per_device_train_batch_size"]}
            if values["step"]["negatives"] == "micro_batch"
            else {}
        ),
        "cutoffs": values["evaluation"]["cutoffs"],
        **{f"training.{name}": value for name, value in training.items() if not _FREE.fullmatch(name)},
    }


def of_data(data: TrainingData) -> dict:
    """Digests of the training rows and of the sets' texts and judgements, and how sources are mixed."""
    return {
        "rows": data.train.digest,
        "mix": None if data.mix is None else data.mix.definition(),
        "dev set": _digest_of_set(data.dev),
        "test set": _digest_of_set(data.test),
        "keep sets": sorted(_digest_of_set(retrieval_set) for retrieval_set in data.keep),
    }


def of_model(encoder: Encoder) -> dict:
    """Digests of a model before training, and how it reads texts."""
    return {
        "model": digest_of_model(encoder),
        "tokenizer": digest_of(tokenizer_state(encoder.tokenizer)),
        "text format": encoder.spec.to_dict(),
        "dropout": [getattr(encoder.config, name, None) for name in ("hidden_dropout_prob", "attention_probs_dropout_prob")],
    }


def of_rounds(settings: TrainSettings) -> dict:
    """How rounds are made; of the cross-encoder the digest of its folder's files.

    Raises:
        ConfigurationError: there is no such folder.
    """
    values = plain(settings)["rounds"]
    asked = {name: value for name, value in values["mining"]["cross_encoder"].items() if name != "batch_size"}
    if asked["path"] is not None:
        folder = Path(asked["path"])
        if not folder.is_dir():
            raise ConfigurationError(f"rounds.mining.cross_encoder.path={folder}: no such folder")
        asked["path"] = digest_of(*((file.name, digest_of_file(file)) for file in sorted(folder.iterdir()) if file.is_file()))
    return {**values, "mining": {**values["mining"], "cross_encoder": asked}}


def refuse_another(then: dict, now: dict, place: Path) -> None:
    """Refuse to resume a training that was defined in another way.

    Args:
        then: the definition at a place, a checkpoint or a record of rounds.
        now: this process's.
        place: for the message.

    Raises:
        ResumeRefusedError: a field differs; the message has each of them.
    """
    lines = list(_differences(then, now))
    if lines:
        start = next((folder for folder in (place.parent / "model", place) if (folder / "config.json").is_file()), None)
        if start is not None:
            lines.append(f"to train on from its weights: model=folder model.path={relative(start)} name=NEW, without resume=true")
        raise ResumeRefusedError(
            f"resume=true: the configuration differs from the interrupted run's ({relative(place)}):\n" + "\n".join(lines)
        )


def of_checkpoint(folder: Path) -> dict:
    """What a checkpoint that is to be resumed from is of.

    Raises:
        ResumeRefusedError: it does not say.
    """
    definition = checkpoint.definition_of(folder)
    if definition is None:
        place = relative(folder)
        raise ResumeRefusedError(
            f"{place}: of an older version, does not say which training it is of; start from its weights: model.path={place} name=NEW"
        )
    return definition


def _differences(then: object, now: object, field: str = "") -> Iterator[str]:
    """Yield a line for each field, of groups those inside, that is another now."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            yield from _differences(then.get(key, "absent"), now.get(key, "absent"), f"{field}.{key}" if field else key)
    elif then != now:
        yield f"  {field}: {then!r} then, {now!r} now"


def _digest_of_set(of: RetrievalSet) -> str:
    return digest_of(*map(digest_of_texts, (of.query_ids, of.queries, of.passage_ids, of.passages)), of.qrels)
