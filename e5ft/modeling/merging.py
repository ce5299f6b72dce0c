"""Models of one shape into one: the weights of two, interpolated, and the mean of several (a soup)."""

import copy
import json
import math
from collections.abc import Iterable

import torch

from e5ft.errors import ConfigurationError
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.lora import merged_state

# Fields of a configuration that no tensor's shape shows and that decide what the weights compute.
_SAME_FIELDS = ("model_type", "num_attention_heads", "hidden_act", "layer_norm_eps", "position_embedding_type", "pad_token_id")
_TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "model", "post_processor")


_TWO = ("the base", "the fine-tuned model")


def merge(base: Encoder, tuned: Encoder, alpha: float, *, spherical: bool = False, names: tuple[str, str] = _TWO) -> Encoder:
    """Weights between a model and what fine-tuning made of it: (1 - alpha) * base + alpha * tuned, tensor by tensor.

    Computed in float64 and rounded once, so that a tensor that training did not change stays as it is, bit for bit; at
    alpha 0 and 1 the tensors are copies. The pooler, which no vector uses, is merged too.

    Args:
        base: the model before fine-tuning.
        tuned: the model after it; everything but the weights (settings, tokenizer, text format) is copied from it.
        alpha: the fine-tuned model's share, 0 to 1.
        spherical: along the arc between two tensors instead of the straight line (slerp).
        names: of the two, for messages.

    Returns:
        A third encoder, on the device of `tuned` and in eval mode; the two given ones are left as they were.

    Raises:
        ConfigurationError: the two do not belong together (`check_mergeable`).

    Source: Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903, equation 1; Xiao et al. 2023 (LM-Cocktail), arXiv:2311.13534;
    Shoemake 1985, Animating rotation with quaternion curves (slerp).
    """
    check_mergeable(base, tuned, names)
    merged = _copied(tuned)
    ours, theirs = _tensors(merged), _tensors(base)
    with torch.no_grad():
        for name, tensor in ours.items():  # the tensors of a state dict share their memory with the module
            tensor.copy_(_between(theirs[name].to(tensor.device), tensor, alpha, spherical))
    return merged


def plain(tuned: Encoder, base: Encoder) -> Encoder:
    """A model with the weights of another and the structure of its base: adapters are merged in, a compact table is whole.

    Args:
        tuned: what fine-tuning made of the base.
        base: of the plain structure.

    Returns:
        A new encoder on the base's device, in eval mode.
    """
    made = _copied(base)
    made.backbone.load_state_dict(merged_state(tuned) or tuned.backbone.state_dict())
    return made


def soup(members: Iterable[tuple[str, Encoder]], *, spherical: bool = False) -> Encoder:
    """The mean of several models' weights, tensor by tensor; the k-th is merged with the mean of those before it, share 1/k.

    Of the models only the one that was last asked for is held, beside the mean. The mean is rounded once a model.

    Args:
        members: names, for messages, and models of one shape; at least one.
        spherical: each step along the arc (slerp). Of more than two models the result depends on their order, then.

    Returns:
        A new encoder, everything but the weights copied from the first; of one model it is that one.

    Raises:
        ConfigurationError: two do not belong together (`check_mergeable`).

    Source: Wortsman et al. 2022 (Model soups), arXiv:2203.05482 (uniform soup).
    """
    members = iter(members)
    first, mean = next(members)
    for count, (name, member) in enumerate(members, start=2):
        mean = merge(member, mean, 1 - 1 / count, spherical=spherical, names=(name, first))
    return mean


def check_mergeable(base: Encoder, tuned: Encoder, names: tuple[str, str] = _TWO) -> None:
    """Refuse two models whose weights do not mean the same: numbers between them would mean nothing.

    Args:
        base, tuned: the two.
        names: of the two, for messages.

    Raises:
        ConfigurationError: text format, tokenizer, settings, tensor names or shapes differ; the message names the first difference.
    """
    pieces = [encoder.tokenizer.get_vocab().keys() for encoder in (base, tuned)]
    for few, many in ((0, 1), (1, 0)):
        if pieces[few] < pieces[many]:
            raise ConfigurationError(
                f"these two models cannot be merged: {names[few]} is trimmed to {len(pieces[few]):,} of the {len(pieces[many]):,} pieces "
                f"of {names[many]}; merge whole models, and trim what comes out (trim.texts=FILE)"
            )
    for what, ours, theirs in (
        ("the model's", _flat(base.spec.to_dict()), _flat(tuned.spec.to_dict())),
        ("the setting", *({field: getattr(e.config, field, None) for field in _SAME_FIELDS} for e in (base, tuned))),
        ("the weights'", *({name: tuple(t.shape) for name, t in _tensors(e).items()} for e in (base, tuned))),
        ("the tokenizer's", _tokenizer_parts(base), _tokenizer_parts(tuned)),
    ):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            if key not in ours or key not in theirs:
                raise _different(f"{what} {key} is in {names[key not in ours]} only", names)
            if ours[key] != theirs[key]:
                values = (_short(ours[key]), _short(theirs[key]))
                raise _different(f"{what} {key} is {values[0]} in {names[0]}, {values[1]} in {names[1]}", names)


def _copied(encoder: Encoder) -> Encoder:
    """A copy in eval mode with the same tokenizer: a copy of that has other scores of its pieces, in the last digit."""
    return copy.deepcopy(encoder, {id(encoder.tokenizer): encoder.tokenizer}).eval()


def _between(base: torch.Tensor, tuned: torch.Tensor, alpha: float, spherical: bool) -> torch.Tensor:
    if alpha in (0, 1) or not tuned.is_floating_point():  # positions and the like are no weights, and equal by shape
        return base if alpha == 0 else tuned
    dtype, base, tuned = tuned.dtype, base.double(), tuned.double()
    shares = _arc_shares(base, tuned, alpha) if spherical else (1 - alpha, alpha)
    return base.mul_(shares[0]).add_(tuned.mul_(shares[1])).to(dtype)


def _arc_shares(base: torch.Tensor, tuned: torch.Tensor, alpha: float) -> tuple[float, float]:
    """sin((1 - alpha) w) / sin w and sin(alpha w) / sin w for tensors at the angle w, each seen as one vector.

    The straight line's shares, their limit, where there is no arc to tell: one tensor is zero, or they lie on one line.
    """
    norms = float(base.norm() * tuned.norm())
    cosine = float(torch.dot(base.flatten(), tuned.flatten())) / norms if norms else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-7:
        return 1 - alpha, alpha
    return math.sin((1 - alpha) * angle) / math.sin(angle), math.sin(alpha * angle) / math.sin(angle)


def _tensors(encoder: Encoder) -> dict[str, torch.Tensor]:
    pooler = encoder.pooler[0]
    kept = {} if pooler is None else {f"pooler.{name}": tensor for name, tensor in pooler.state_dict().items()}
    return {**encoder.backbone.state_dict(), **kept}


def _tokenizer_parts(encoder: Encoder) -> dict[str, object]:
    """Every piece's id, then how a text is cut into pieces; not how far the last call padded and truncated."""
    tokenizer = encoder.tokenizer
    pieces = {f"piece {piece!r}": index for piece, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])}
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    return {**pieces, **{part: stored[part] for part in _TOKENIZER_PARTS}}


def _flat(values: dict, place: str = "") -> dict[str, object]:
    flat = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value})
    return flat


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _different(difference: str, names: tuple[str, str]) -> ConfigurationError:
    remedy = (
        "the base must be the model that the fine-tuned one was made from" if names == _TWO else "all must be made from one model"
    )
    return ConfigurationError(
        f"these two models cannot be merged: {difference}; {remedy}, with the same tokenizer and text format"
    )
