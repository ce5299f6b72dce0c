"""What to do when memory does not suffice, with the numbers of the run: nothing that would change what a step means."""

import contextlib
import traceback
from collections.abc import Iterator

import torch
from omegaconf import DictConfig, OmegaConf

from e5ft.errors import E5ftError, OutOfMemory
from e5ft.modeling import cpu
from e5ft.training.fitting import cuts, out_of_memory


@contextlib.contextmanager
def explained(config: DictConfig) -> Iterator[None]:
    """Turn running out of memory, wherever it happens in the block, into an error that names the remedies.

    Args:
        config: of any script; read when it happens.

    Raises:
        OutOfMemory: memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, E5ftError) or not out_of_memory(error):
            raise
        raise OutOfMemory(advice(error, config)) from error


def advice(error: BaseException, config: DictConfig) -> str:
    """What happened, and the overrides that make it smaller and leave the results' meaning alone.

    Args:
        error: what was raised, with its traceback.
        config: of the script.
    """
    encoding = _while_encoding(error)
    training = "training" in config and not encoding
    remedies = [*(_of_training(config) if training else []), *(_of_encoding(config) if encoding or not training else [])]
    width = max((len(override) for override, _ in remedies), default=0)
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    lines = [f"out of memory while {'encoding' if encoding else 'training' if training else 'running'}: {reason}"]
    if remedies:
        lines.append("Each of these takes less and leaves what is computed as it is:")
    lines += [f"  {override:{width}}  {why}" for override, why in remedies]
    if "training" in config:
        if training and config.loss.negatives == "micro_batch":
            lines.append("A smaller micro-batch would have fewer negatives (loss.negatives=micro_batch).")
        lines.append("Checkpoints are untouched; where there is one, go on from it: name=NAME resume=true and one of these.")
    return "\n".join(lines)


def _of_training(config: DictConfig) -> Iterator[tuple[str, str]]:
    training = config.training
    batch, accumulation = training.per_device_train_batch_size, training.gradient_accumulation_steps
    if config.loss.negatives == "step" and batch > 1:
        size, number = next(cut for cut in cuts(batch, accumulation) if cut[0] <= batch // 2)
        yield (
            f"training.per_device_train_batch_size={size} training.gradient_accumulation_steps={number}",
            f"the same step of {batch * accumulation} queries a process in smaller pieces",
        )
        yield "training.fit_micro_batch=true", "the largest such piece that fits, found before training"
    if not training.activation_checkpointing:
        yield "training.activation_checkpointing=true", "about a third more time"
    if not (training.bf16 or training.fp16):
        yield "training.bf16=true", "half the activations, in bfloat16's precision"
    chunk = OmegaConf.select(config, "loss.chunk_size")
    if chunk is not None and min(chunk, batch * accumulation) > 1:
        yield f"loss.chunk_size={min(chunk, batch * accumulation) // 2}", "fewer queries' scores at once"


def _of_encoding(config: DictConfig) -> Iterator[tuple[str, str]]:
    for field in ("evaluation.batch_tokens", "batch_tokens"):
        tokens = OmegaConf.select(config, field)
        if tokens is not None and tokens > 1:
            tokens = tokens if torch.accelerator.is_available() else cpu.max_concurrent_tokens(tokens)  # as Encoder.encode has it
            yield f"{field}={tokens // 2}", "tokens that are encoded at once"


def _while_encoding(error: BaseException) -> bool:
    """Whether vectors for ranking were being made, also in the middle of a training."""
    places = {(frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)}
    return ("e5ft.modeling.encoder", "encode_tokens") in places
