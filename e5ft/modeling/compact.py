"""A small trained table in place of a vocabulary's large one: only the rows that training can reach are weights.

Of multilingual E5's 250,037 token embeddings (81 % of small's parameters) a Korean training set meets about a tenth. The
others have no gradient, and all that AdamW does to them is weight decay, the same factor for every one: so they need no
gradient, no optimizer state and no work, and the result is the same.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from e5ft.errors import ConfigurationError
from e5ft.files import read_json, write_json
from e5ft.modeling.encoder import Encoder

FILE = "embedding.json"  # beside a checkpoint's weights: what resuming bit by bit needs


class CompactEmbedding(nn.Module):
    """Looks like `torch.nn.Embedding` from outside, its state dictionary (the whole table as `weight`) included.

    Args:
        table: the embedding to stand in for, (V, D).
        rows: token ids to train, distinct, each in [0, V).

    Attributes:
        weight: (C, D), the trained rows in the order of their ids.
        rest: (V, D), the table as it was; of the rows not trained what they are is `rest * scale`.
        scale: product of the decay factors so far.
    """

    def __init__(self, table: nn.Embedding, rows: torch.Tensor):
        super().__init__()
        rows = rows.to(table.weight.device, torch.int64).sort().values
        place = torch.full((table.num_embeddings,), -1, dtype=torch.int64, device=rows.device)
        place[rows] = torch.arange(len(rows), device=rows.device)
        whole = table.weight.detach()
        self.weight = nn.Parameter(whole[rows], requires_grad=table.weight.requires_grad)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("rest", whole, persistent=False)
        self.scale = 1.0
        padding = -1 if table.padding_idx is None else int(place[table.padding_idx])
        self.padding_idx = None if padding < 0 else padding  # of `weight`: its gradient stays 0, as in the table

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) token ids -> (..., D). While training only trained rows may be asked for: others are an index error."""
        place = self.place[ids]
        if self.training:
            return functional.embedding(place, self.weight, self.padding_idx)
        trained = functional.embedding(place.clamp(min=0), self.weight, self.padding_idx)
        return torch.where(place.unsqueeze(-1) < 0, functional.embedding(ids, self.rest) * self.scale, trained)

    @torch.no_grad()
    def table(self) -> torch.Tensor:
        """The whole table as it is now, (V, D); a new tensor."""
        return (self.rest * self.scale).index_copy_(0, self.rows, self.weight.to(self.rest.dtype))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{len(self.rest)}, {self.rest.shape[1]}, trained={len(self.rows)}"

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[prefix + "weight"] = self.table()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):  # fmt: skip
        table = state_dict.get(prefix + "weight")
        if table is None:
            missing_keys.append(prefix + "weight")
            return
        if table.shape != self.rest.shape:
            error_msgs.append(f"{prefix}weight: shape {tuple(table.shape)}, must be {tuple(self.rest.shape)}")
            return
        with torch.no_grad():
            self.weight.copy_(table[self.rows])
            scale = float(state_dict.get(prefix + "scale", 1.0))
            unchanged = self.place < 0
            # Where the rest is the one that was decayed, resuming from it and its scale repeats the run to the last bit.
            if torch.equal((self.rest * scale)[unchanged], table[unchanged].to(self.rest)):
                self.scale = scale
            else:
                self.rest.copy_(table)
                self.scale = 1.0


def compact(encoder: Encoder, token_ids: Iterable[int]) -> bool:
    """Train only the token embeddings that occur, in place, where that saves something.

    Left as it is: a table of which more than half occurs, and one that is frozen or does more than look up.

    Args:
        encoder: on its device, before an optimizer knows its parameters.
        token_ids: every id that a training step can hold, special tokens included; repeats do no harm.

    Returns:
        Whether the table was exchanged.

    Raises:
        ValueError: an id is none of the table's.
    """
    table = encoder.backbone.get_input_embeddings()
    plain = type(table) is nn.Embedding and table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
    if not plain or not table.weight.requires_grad:
        return False
    rows = sorted({*map(int, token_ids), encoder.tokenizer.pad_token_id})
    if rows[0] < 0 or rows[-1] >= table.num_embeddings:
        raise ValueError(f"token id {rows[0] if rows[0] < 0 else rows[-1]}: the table has {table.num_embeddings} rows")
    if 2 * len(rows) > table.num_embeddings:
        return False
    encoder.backbone.set_input_embeddings(CompactEmbedding(table, torch.tensor(rows)).train(table.training))
    return True


def compacted(encoder: Encoder) -> CompactEmbedding | None:
    """The encoder's compact table, if it has one."""
    table = encoder.backbone.get_input_embeddings()
    return table if isinstance(table, CompactEmbedding) else None


def apply_weight_decay_to_frozen_rows(encoder: Encoder, optimizer: torch.optim.Optimizer) -> None:
    """Decay the rows that are not trained as AdamW would; without a compact table nothing is done.

    Raises:
        ConfigurationError: the optimizer is not AdamW: what it does to a row without gradient is not known.
    """
    table = compacted(encoder)
    if table is None:
        return
    if type(optimizer) is not torch.optim.AdamW:
        raise ConfigurationError(
            f"training.compact_embedding=true: known to be exact with torch's AdamW, not with {type(optimizer).__name__}; set it to false"
        )

    def decay(stepped, args, kwargs):
        """Shrink the rows that are left out by the weight decay of the step just made."""
        skipped = getattr(stepped, "found_inf", None)  # fp16: the fused kernel is called and leaves the weights alone
        if skipped is not None and bool(skipped):
            return
        group = next(group for group in stepped.param_groups if any(p is table.weight for p in group["params"]))
        table.scale *= 1 - float(group["lr"]) * group["weight_decay"]

    optimizer.register_step_post_hook(decay)


def save_scale(encoder: Encoder, folder: str | os.PathLike) -> None:
    """Write, beside a checkpoint's weights, how far the rest has decayed; nothing without a compact table."""
    table = compacted(encoder)
    if table is not None:
        write_json(Path(folder) / FILE, {"scale": table.scale})


def scale_entry(encoder: Encoder, folder: str | os.PathLike) -> dict[str, torch.Tensor]:
    """What `CompactEmbedding` takes from a state dictionary beside `weight`, named within the backbone; empty without."""
    table, file = compacted(encoder), Path(folder) / FILE
    if table is None or not file.is_file():
        return {}
    name = next(name for name, module in encoder.backbone.named_modules() if module is table)
    return {f"{name}.scale": torch.tensor(read_json(file)["scale"], dtype=torch.float64)}
