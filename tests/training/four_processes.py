"""What tests/test_four_processes.py runs in each of four processes, in one launch.

    RANK=0 WORLD_SIZE=4 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.training.four_processes ROWS_FILE FOLDER

Rank r leaves what it found in FOLDER/found-r.pt.
"""

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from e5ft import distributed
from e5ft.gathering import Gathering, gather_rows
from e5ft.retrieval.vectors import RepeatedTexts, encode_collection
from tests.conftest import make_encoder
from tests.training.two_processes import trained

CUTS = ((8, 1), (2, 4))  # times four processes: 32 rows a step, and 100 rows leave 4 over an epoch
ROW_COUNTS = ((5, 0, 1, 3), (0, 0, 0, 2))  # rows of each process
PIECES = ((2, 1, 3), (0, 4, 1), (1, 0, 0), (3, 3, 2))  # rows of each process's three pieces
TEXT_COUNTS = (9, 2, 0)  # ragged: with 2 texts, two processes have none


def rows_of(rank: int, count: int) -> torch.Tensor:
    return torch.arange(count * 4, dtype=torch.float32).view(count, 4) + 100 * rank


def texts_of(count: int) -> list[str]:
    return [" ".join(f"w{i * j}" for j in range(1, 3 + i)) for i in range(count)]


def gathered(rank: int) -> list:
    """Everyone's rows, and the gradient of a sum in which process r weighs everything r + 1 times."""
    found = []
    for counts in ROW_COUNTS:
        own = rows_of(rank, counts[rank]).requires_grad_()
        everyone = gather_rows(own)
        (everyone.sum() * (rank + 1)).backward()
        found.append((everyone.detach(), own.grad))
    return found


def in_pieces(rank: int, folder: Path) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """As `gathered`, sent in three pieces, the first one last; and whether a process could go on with a piece under way."""
    own = rows_of(rank, sum(PIECES[rank])).requires_grad_()
    gathering = Gathering(PIECES[rank])
    sent, went_on = folder / "sent", True
    for piece in (1, 2, 0):
        if rank == 3 and piece == 1:  # the others' first piece cannot arrive before this process sends its own
            deadline = time.monotonic() + 60
            while not sent.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            went_on = sent.exists()
        gathering.send(piece, own.split(PIECES[rank])[piece])
        if rank == 0:
            sent.touch()
    everyone = gathering.rows(own)
    (everyone.sum() * (rank + 1)).backward()
    return everyone.detach(), own.grad, went_on


def main(rows_file: str, folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {
        "rows": gathered(rank),
        "pieces": in_pieces(rank, folder),
        "vectors": [encode_collection(make_encoder(), texts_of(count), "query", batch_tokens=64) for count in TEXT_COUNTS],
        "repeated": [RepeatedTexts(texts_of(count), "query", 64).vectors(make_encoder()) for count in TEXT_COUNTS],
    }
    for batch, accumulation in CUTS:
        found[batch, accumulation] = trained(rows_file, folder / f"{batch}", batch=batch, accumulation=accumulation, steps=4)
    found["any"] = [distributed.any_process(rank in those) for those in ((), (2,), range(4))]
    torch.save(found, folder / f"found-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
