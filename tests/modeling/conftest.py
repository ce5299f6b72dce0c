"""One thread: models this small lose more by waiting for a second one than it brings."""

import torch

torch.set_num_threads(1)
