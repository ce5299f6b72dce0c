"""FSDP2 (`training.fsdp=true`): weights, gradients and the optimizer's state are spread over the processes.

Only a step's forward and backward passes are sharded. Everything else sees a plain encoder, and a checkpoint has the files of an
unsharded run: either kind of run can resume from it. Evaluation cannot use the sharded encoder: its processes make different numbers
of forward passes, and each would wait for the others in every layer.
"""

import contextlib
import copy
import os
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from e5ft import distributed
from e5ft.errors import ResumeRefusedError
from e5ft.modeling.compact import compacted
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.loading import load_weights
from e5ft.training.checkpoint import OPTIMIZER

# Why a way to shard is refused, and what to do instead.
NO_DEEPSPEED = (
    "its checkpoints are files of its own, from which no run here could resume; training.fsdp=true shards as much as ZeRO-3 does"
)
NO_FSDP = "accelerate shards nothing here: it needs several GPUs and a process for each (torchrun --nproc_per_node); leave it out"


class UnshardedCopy:
    """An unsharded copy of a sharded encoder; it takes memory only while its weights are in use.

    Args:
        encoder: before it is sharded, which happens in place.
    """

    def __init__(self, encoder: Encoder):
        memo = {id(shared): shared for shared in (encoder.tokenizer, *encoder.pooler, *encoder.buffers())}
        memo |= {id(p): nn.Parameter(p.new_empty(0), requires_grad=p.requires_grad) for p in encoder.parameters()}
        self.sharded, self.plain = encoder, copy.deepcopy(encoder, memo)

    @contextlib.contextmanager
    def whole(self) -> Iterator[Encoder]:
        """Yield the copy with the sharded encoder's weights. Collective: every rank must call this."""
        try:
            yield self.gather()
        finally:
            for weight in self.plain.parameters():
                weight.data = weight.new_empty(0)

    @torch.no_grad()
    def gather(self) -> Encoder:
        """Return the copy with the sharded encoder's weights, which it keeps. Collective: every rank must call this."""
        for weight, shard in self._pairs():
            weight.data = whole_tensor(shard).to(weight.device)
        if compacted(self.plain) is not None:
            compacted(self.plain).scale = compacted(self.sharded).scale
        return self.plain

    def load(self, folder: str | os.PathLike) -> None:
        """Load a checkpoint into the sharded encoder, with the errors of `load_weights`. Collective: every rank must call this."""
        with self.whole() as plain, torch.no_grad():
            load_weights(plain, folder)
            for weight, shard in self._pairs():
                shard.copy_(_local_shard(weight.detach(), shard))
            if compacted(plain) is not None:
                compacted(self.sharded).scale = compacted(plain).scale

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for module in self.sharded.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # the outermost keeps its weights whole after a forward pass
        return zip(self.plain.parameters(), self.sharded.parameters(), strict=True)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict:
    """Return `optimizer.state_dict()` with whole tensors on the host, on the main process. Collective: every rank must call this."""
    state, whole = optimizer.state_dict(), {}
    for number, values in state["state"].items():
        tensors = {name: whole_tensor(value) if isinstance(value, torch.Tensor) else value for name, value in values.items()}
        if distributed.is_main():
            whole[number] = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in tensors.items()}
    return {**state, "state": whole}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a state with whole tensors; each process keeps its shard.

    Raises:
        ResumeRefusedError: it is of other weights. Fused optimizers would write past the end of a smaller state.
    """
    groups = optimizer.param_groups
    weights = [weight for group in groups for weight in group["params"]]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in state["param_groups"]]:
        raise ResumeRefusedError(f"{OPTIMIZER}: not of {len(weights)} weights: of another model; choose another name=")
    fused = {id(weight) for group in groups if group.get("fused") for weight in group["params"]}
    for number, values in state["state"].items():
        for value in values.values() if id(weights[number]) in fused else ():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != weights[number].shape:
                shapes = f"{tuple(value.shape)}, not {tuple(weights[number].shape)}"
                raise ResumeRefusedError(f"{OPTIMIZER}: state of shape {shapes}: of another model; choose another name=")
    local = {
        number: {name: _local_shard(value, weights[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": local})


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself, or the whole of a sharded one; then every rank must call this."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def _local_shard(whole: object, like: torch.Tensor) -> object:
    """Return this process's shard of a tensor, placed as `like`; a value of another shape (a counter of steps) stays whole."""
    if not isinstance(like, DTensor) or not isinstance(whole, torch.Tensor) or whole.shape != like.shape:
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
