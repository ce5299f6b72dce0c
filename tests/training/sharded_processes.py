"""What tests/training/test_sharding.py runs in each of two processes, in one launch.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.training.sharded_processes ROWS_FILE FOLDER

Rank r leaves what it found in FOLDER/found-r.pt.
"""

import sys
import unittest.mock
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from e5ft.errors import StorageError
from e5ft.modeling.compact import compact
from e5ft.modeling.encoder import Encoder
from e5ft.modeling.lora import add_adapters
from e5ft.modeling.settings import LoraSettings
from e5ft.training.trainer import ContrastiveTrainer
from tests.conftest import make_encoder
from tests.training.conftest import losses_of, make_trainer, norms_of

WRITERS = ("e5ft.training.resuming.save_encoder", "torch.save")  # of weights, and of the optimizer's state
CUTS = ((16, 1), (4, 4))  # times two processes: 32 rows a step


class Sharded(ContrastiveTrainer):
    """As on GPUs: accelerate asks for one before it shards, and nothing after that needs any."""

    def _check_sharding(self):
        state = self.accelerator.state
        plugin = getattr(state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
        AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
        self.is_fsdp_enabled = True
        super()._check_sharding()


def encoder_of(kind: str, dropout: float) -> Encoder:
    encoder = make_encoder("xlm-roberta" if kind == "plain" else "bert", dropout=dropout)
    if kind == "lora":
        add_adapters(encoder, LoraSettings(rank=4), seed=7)
    if kind == "compact":
        wide = torch.nn.Embedding(500, 32, padding_idx=0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            wide.weight.data.normal_()
        encoder.backbone.set_input_embeddings(wide)
        encoder.backbone.config.vocab_size = 500
        assert compact(encoder, range(210))
    return encoder


def trained(rows_file: str, folder: Path, kind: str = "plain", *, sharded: bool, checkpoint=None, dropout=0.0, **options) -> dict:
    """One training; what it came to, whole, and the share of the weights that this process held."""
    AcceleratorState._reset_state(False)
    more = {"cls": Sharded, "fsdp": True} if sharded else {}
    encoder = encoder_of(kind, dropout)
    weights = sum(p.numel() for p in encoder.parameters())
    decay = 0.5 if kind == "compact" else 0.0  # of the rows that are not trained too
    trainer = make_trainer(rows_file, folder, encoder=encoder, weight_decay=decay, **more, **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in trainer.model.parameters())
    whole = trainer.trained()
    table = torch.cat([tensor.flatten() for tensor in whole.backbone.state_dict().values()])
    return {"losses": losses_of(trainer), "norms": norms_of(trainer), "weights": table.clone(), "held": held / weights}


def ragged(encoder: Encoder) -> dict[str, float]:
    """An evaluation in which the processes make different numbers of forward passes."""
    rank = dist.get_rank()
    vectors = [encoder.encode([f"w1 w{n}"], "query")[0] for n in range(1 + 3 * rank)]
    return {"ndcg@10": float(vectors[0][0]) / 2 + 0.5}


def full_disk(rows_file: str, folder: Path, name: str) -> str:
    """What a process says when the main one cannot write: all of them end, and none waits for another."""

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with unittest.mock.patch(name, fail) if dist.get_rank() == 0 else nullcontext():
        try:
            trained(rows_file, folder, sharded=True, batch=4, accumulation=2, steps=2, save_strategy="steps", save_steps=1)
        except StorageError as error:
            return str(error)
    return "no error"


def main(rows_file: str, folder: Path) -> None:
    dist.init_process_group("gloo")
    found = {}
    for kind in ("plain", "compact", "lora"):
        for batch, accumulation in CUTS:
            options = {"batch": batch, "accumulation": accumulation, "steps": 4}
            for sharded in (False, True):
                place = folder / f"{kind}-{batch}-{sharded}"
                found[kind, batch, sharded] = trained(rows_file, place, kind, sharded=sharded, **options)
        options = {"batch": 4, "accumulation": 4, "steps": 4, "dropout": 0.2, "save_strategy": "steps", "save_steps": 2}
        for sharded in (False, True):
            place = folder / f"{kind}-saved-{sharded}"
            found[kind, "saved", sharded] = trained(rows_file, place, kind, sharded=sharded, **options)
        for sharded, before in ((True, True), (True, False), (False, True)):
            place, checkpoint = folder / f"{kind}-{sharded}-{before}", str(folder / f"{kind}-saved-{before}" / "checkpoint-2")
            found[kind, "resumed", sharded, before] = trained(
                rows_file, place, kind, sharded=sharded, checkpoint=checkpoint, **options
            )
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "metric_for_best_model": "ndcg@10",
    }
    for sharded in (False, True):
        found["best", sharded] = trained(
            rows_file, folder / f"best-{sharded}", sharded=sharded, batch=4, accumulation=2, steps=4, evaluator=ragged,
            load_best_model_at_end=True, **best,
        )  # fmt: skip
    found["full"] = [full_disk(rows_file, folder / f"full-{number}", name) for number, name in enumerate(WRITERS)]
    torch.save(found, folder / f"found-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
