"""doctor=true: W&B and the Hugging Face hub, each asked for no longer than three seconds."""

import threading
import urllib.error
import urllib.request
from importlib import util
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from omegaconf import DictConfig

from e5ft.app.configuration import model_source, plain
from e5ft.app.finding import Finding, fault, note, ok
from e5ft.app.mirror import has_wandb_key, wandb_mode, wandb_server
from e5ft.modeling.settings import ModelSource

_SECONDS = 3
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def check_wandb(config: DictConfig) -> Finding:
    """Mode, key and server. Never a fault: a run goes on without W&B."""
    mode = wandb_mode(plain(config.tracking))
    if mode == "off":
        return ok("off")
    if util.find_spec("wandb") is None:
        return note("wandb is not installed", "pip install wandb, or tracking=off; metrics.jsonl has everything")
    if mode != "online":
        login = "" if has_wandb_key() else ", no API key"
        return ok(f"{mode}{login}: files in the run's folder, which `wandb sync` sends")
    if not has_wandb_key():
        return note("online, but there is no API key", "wandb login, WANDB_API_KEY=..., or tracking.wandb=offline")
    reason = unreachable(wandb_server())
    if reason is not None:
        return note(f"online, but {wandb_server()} does not answer ({reason})", "tracking.wandb=offline, and `wandb sync` later")
    return ok(f"online, {wandb_server()} answers")


def check_hub(config: DictConfig) -> Finding:
    """Whether a model by name is in the local cache, and if not, whether it can be fetched."""
    source = model_source(config)
    if not needs_hub(source):
        return ok("not needed: the model is local")
    if source.init == "pretrained":
        name, wanted = source.hub, (("config.json",), _WEIGHTS)
    else:  # weights are made here, only the tokenizer is not
        name, wanted = source.tokenizer or source.hub, (("tokenizer.json",),)
    revision = source.revision if name == source.hub else None
    if all(in_cache(name, revision, *files) for files in wanted):
        return ok(f"{name} is in the local cache")
    ways_out = "model.path=DIR with a local copy, or model=mini"
    if constants.HF_HUB_OFFLINE:
        return fault(f"{name} is not in the local cache, and HF_HUB_OFFLINE is set", f"unset it, or {ways_out}")
    reason = unreachable(constants.ENDPOINT)
    if reason is not None:
        return fault(f"{name} is not in the local cache, and {constants.ENDPOINT} does not answer ({reason})", ways_out)
    return ok(f"{name} will be fetched from {constants.ENDPOINT}")


def needs_hub(source: ModelSource) -> bool:
    """Whether the model, or the tokenizer of one with random weights, goes by a hub name."""
    local_tokenizer = source.tokenizer is not None and Path(source.tokenizer).is_dir()
    return source.path is None and (source.init == "pretrained" or not local_tokenizer)


def in_cache(name: str, revision: str | None, *files: str) -> bool:
    """Whether one of a hub model's files is in the local cache."""
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)


def unreachable(url: str, seconds: float = _SECONDS) -> str | None:
    """Why a server does not answer; None where it does, whatever it answers.

    Args:
        url: of the server.
        seconds: to wait, at most: asking for a name can take longer than any timeout of the request itself.
    """
    found: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
                found.append(None)
        except urllib.error.HTTPError:
            found.append(None)  # an answer, too
        except Exception as error:  # a dozen kinds, from the name that is not found to the certificate
            found.append(str(getattr(error, "reason", None) or error) or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else f"no answer in {seconds:g} s"
