"""What tests/test_distributed.py runs in each of two processes; everything in one launch, for each costs seconds.

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.training.two_processes ROWS_FILE FOLDER

Rank r leaves what it found in FOLDER/found-r.pt.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from e5ft import distributed
from e5ft.data.collator import collate
from e5ft.data.settings import Augment
from e5ft.errors import NonFiniteError
from e5ft.files import write_json, write_text
from e5ft.retrieval.shards import Shards, search_shards
from e5ft.retrieval.vectors import encode_collection
from e5ft.training.accumulation import whole_step
from e5ft.training.distillation import Distillation, Regularised
from e5ft.training.fitting import fit_micro_batch
from e5ft.training.losses import InfoNCE, Triplet
from e5ft.training.matryoshka import Matryoshka
from e5ft.training.trainer import ContrastiveTrainer
from tests.conftest import make_encoder
from tests.training.conftest import Gradients, losses_of, make_trainer, norms_of, weights_of

ARRAY_COUNTS = ((3, 7), (0, 2), (0, 0))
CUTS = ((16, 1), (8, 2), (4, 4))  # times two processes: 32 rows a step
NOISE = Augment(0.5, ("typos",))
SHARDED_TEXTS = (23, 1)  # of which each process encodes its half; one text is one process's


def guided() -> dict:
    """Guide vectors and the base's travel between processes with the identities; masks, KL and cuts are of the whole step.

    Half of the queries are noised: whoever holds a row of a query, it shows the same.
    """
    inner = Distillation(0.1, "guide", candidates="step", false_negatives="guide", margin=-0.05, mask_hard=False)
    loss = Regularised(Matryoshka(inner, [32, 8]), weight=0.5, temperature=0.1)
    return {"loss": loss, "guide_seed": 3, "positives": "all", "augment": NOISE}


def margin_mask() -> InfoNCE:
    """Masks by the model as it is at the step. With these rows half to nine tenths are masked, none within 1e-5 of the limit."""
    return InfoNCE(0.1, false_negatives="margin", margin=-0.05, hard_margin=0.0)


def several_positives(rows_file: str) -> str:
    """The same rows, every third with a second document."""
    path = Path(rows_file).with_name("several.jsonl")
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    for row in rows[::3]:
        row["document"] = [row["document"], row["document"] + " w7 w8"]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))  # atomic: both processes write the same
    return str(path)


def some_hard_negatives(rows_file: str) -> str:
    """Twelve rows of different queries, every other with two hard negatives."""
    path = Path(rows_file).with_name("some.jsonl")
    rows = [{"query": f"w{i} w{i + 1}", "document": f"w{i + 20} w{i}"} for i in range(12)]
    for i, row in enumerate(rows[::2]):
        row["hard_negative"] = [f"w{i + 40} w3", f"w{i + 60}"]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def array_of(rank: int, count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) * 3 + 2**40 * (rank + 1)


def gathered_arrays(rank: int) -> list:
    return [distributed.gather_arrays(array_of(rank, counts[rank])) for counts in ARRAY_COUNTS]


def order(rank: int, folder: Path) -> list[str]:
    """Who enters the block when; then a block that fails in the main process must not keep the other one waiting."""
    with distributed.main_process_first():
        if rank == 0:
            time.sleep(0.3)  # long enough for an unordered second process to come first
        with open(folder / "order", "a") as file:
            file.write(f"{rank} ")
    distributed.barrier()
    try:
        with distributed.main_process_first():
            if rank == 0:
                raise OSError("disk full")
            with open(folder / "order", "a") as file:
                file.write("on ")
    except OSError:
        pass
    distributed.barrier()
    return (folder / "order").read_text().split()


def trained(rows_file: str, folder: Path, *, checkpoint: str | None = None, **options) -> dict:
    gradients = Gradients()
    trainer = make_trainer(rows_file, folder, callbacks=[gradients], include_num_input_tokens_seen="all", **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    return {
        "losses": losses_of(trainer),
        "norms": norms_of(trainer),
        "weights": weights_of(trainer),
        "gradients": gradients.steps,
        "tokens": trainer.state.num_input_tokens_seen,
        "without_negatives": trainer.without_negatives,
    }


def same_rows(rows_file: str, folder: Path) -> dict:
    """Both processes hold the same four rows: their dropout, twice, and the step of the eight."""
    trainer = make_trainer(rows_file, folder, batch=4, accumulation=1, dropout=0.2)
    batch = collate([trainer.train_dataset[row, 0] for row in range(4)])
    with torch.no_grad():
        return {"dropout": [trainer._embed(batch, 0), trainer._embed(batch, 0)], "step": whole_step([batch.step])}


def fitted(rows_file: str, folder: Path, room: int) -> dict:
    """As if this process had memory for `room` tokens of one forward pass."""

    class Small(ContrastiveTrainer):
        def _embed(self, batch, number, model=None):
            if len(batch.input_ids) > room:
                raise torch.OutOfMemoryError("out of memory")
            return super()._embed(batch, number, model)

    trainer = make_trainer(rows_file, folder, batch=16, accumulation=1, steps=4, cls=Small)
    cut = fit_micro_batch(trainer)
    trainer.train()
    return {"cut": cut, "losses": losses_of(trainer)}


def sharded(rank: int, folder: Path) -> dict:
    """Vectors of which each process writes its share, searched together; once more with a run that ended in between."""
    encoder, cache = make_encoder(), folder / "vectors"
    plain, asked = encoder.encode, []
    encoder.encode = lambda texts, role, **more: asked.append(len(texts)) or plain(texts, role, **more)
    found = {}
    for count in SHARDED_TEXTS:
        texts = texts_of(count)
        vectors = encode_collection(encoder, texts, "passage", cache=cache, window=4)
        kind = type(vectors).__name__
        if isinstance(vectors, Shards):
            kind = [Path(block.filename).name[-10:] for block in vectors.blocks]
            found["search", count] = search_shards(plain(texts[:3], "query"), vectors, 6)
            broken = Shards([vectors.blocks[0], np.full_like(vectors.blocks[1], np.nan)])  # which the second process reads
            try:
                search_shards(plain(texts[:3], "query"), broken, 6)
            except NonFiniteError as error:
                found["broken"] = str(error)
        found[count] = np.array(vectors), kind, asked[:]
        encode_collection(encoder, texts, "passage", cache=cache, window=4)
        assert asked == found[count][2]  # found again
        asked.clear()
    distributed.barrier()
    if rank == 1:  # as if the second process had been killed after its first window
        shard = next(cache.glob("vectors-*/1-of-2.f32"))
        begun = shard.parent.with_name(f"{shard.parent.name}.partial")
        shard.parent.rename(begun)
        for number, rows in ((0, 11), (1, 4)):
            content = (begun / f"{number}-of-2.f32").read_bytes()[: rows * 4 * encoder.dimension]
            record = {"rows": rows, "sha256": hashlib.sha256(content).hexdigest()}
            write_json(begun / f"{number}-of-2.json", record)
    distributed.barrier()
    again = encode_collection(encoder, texts_of(SHARDED_TEXTS[0]), "passage", cache=cache, window=4)
    return {**found, "again": (np.array(again), asked[:])}


def texts_of(count: int) -> list[str]:
    return [" ".join(f"w{(i * j) % 190}" for j in range(1, 3 + i % 9)) for i in range(count)]


def main(rows_file: str, folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {
        "ranks": (distributed.rank(), distributed.world_size(), distributed.is_main(), distributed.active()),
        "arrays": gathered_arrays(rank),
        "order": order(rank, folder),
        "sharded": sharded(rank, folder),
        **same_rows(rows_file, folder / "same"),
    }
    for batch, accumulation in CUTS:
        options = {"batch": batch, "accumulation": accumulation, "steps": 4}
        found[batch, accumulation] = trained(rows_file, folder / f"{batch}", **options)
    found["triplet"] = trained(rows_file, folder / "triplet", batch=4, accumulation=2, steps=3, loss=Triplet(0.3))
    found["micro_batch"] = trained(
        rows_file, folder / "micro", batch=4, accumulation=2, steps=1, loss=InfoNCE(0.1), options={"negatives": "micro_batch"}
    )
    some, alone = some_hard_negatives(rows_file), {"negatives": "micro_batch"}
    found["alone"] = trained(some, folder / "alone", batch=1, accumulation=2, steps=3, options=alone)
    found["some triplets"] = trained(some, folder / "some", batch=1, accumulation=1, steps=6, loss=Triplet(2.0))
    found["margin"] = trained(rows_file, folder / "margin", batch=4, accumulation=4, steps=3, loss=margin_mask())
    found["guided"] = trained(several_positives(rows_file), folder / "guided", batch=8, accumulation=2, steps=4, **guided())
    found["fitted"] = fitted(rows_file, folder / "fitted", room=10**9 if rank == 0 else 250)
    for batch, accumulation in ((16, 1), (4, 4)):
        resumable = {"batch": batch, "accumulation": accumulation, "steps": 5, "dropout": 0.2, "augment": NOISE}
        whole = folder / f"whole-{batch}"
        found["whole", batch] = trained(rows_file, whole, save_strategy="steps", save_steps=1, **resumable)
        for step in (1, 4) if accumulation > 1 else (4,):  # three steps an epoch: within the first and within the second
            checkpoint = str(whole / f"checkpoint-{step}")
            found["resumed", batch, step] = trained(
                rows_file, folder / f"from-{batch}-{step}", checkpoint=checkpoint, **resumable
            )
    torch.save(found, folder / f"found-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
