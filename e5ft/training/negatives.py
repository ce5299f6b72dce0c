"""Steps without a negative: refused before the first where every step would be one, otherwise counted and told.

Such a step is taken all the same, with loss and gradient 0: a process that left it out would no longer be in step with the others.
"""

from collections.abc import Sequence

import numpy as np
import torch

from e5ft import distributed
from e5ft.data.collator import TrainingRows
from e5ft.errors import DataError


def check_negatives(rows: TrainingRows, loss: torch.nn.Module, together: int) -> None:
    """Refuse what is certain to teach nothing.

    Args:
        rows: the training rows.
        loss: the loss.
        together: rows whose passages a query meets.

    Raises:
        DataError: no row shows a hard negative, and the loss has no others or a query meets no other row.
    """
    if rows.shows_negatives:
        return
    if "hard_negatives" in getattr(loss, "needs", ()):
        raise DataError(
            f"{rows.source}: no row shows a hard negative, and this loss learns from nothing else; mine them (python mine.py ...; "
            "see also data.negatives_per_query), or loss=infonce"
        )
    if len(rows) == 1:
        raise DataError(f"{rows.source}: one training row without a hard negative: its query would meet none; must be at least 2")
    if together == 1:
        raise DataError(
            "training.per_device_train_batch_size=1: no query would meet a negative, for no row shows a hard one; must be at least 2"
        )


def without_negatives(queries: Sequence[torch.Tensor | int], alone: bool) -> int:
    """Return how many softmaxes of a step had no negative. Every process must call this, and gets the same number.

    Args:
        queries: of each of this process's softmaxes, the local rows that had a negative.
        alone: whether a softmax is of one process (a micro-batch's) or of all.
    """
    if not queries:  # a loss that does not say
        return 0
    has = np.array([bool(count) for count in queries], dtype=np.int64)
    everyone = np.stack(distributed.gather_arrays(has))  # (processes, softmaxes)
    return int(np.count_nonzero((everyone if alone else everyone.max(axis=0)) == 0))
