"""e5ft: fine-tune multilingual-E5 embedders for retrieval, and measure whether they retrieve better."""

import os
import sys

__version__ = "0.1.0"

# GNU OpenMP's threads wait for each other in a loop, 300,000 turns long unless told otherwise: beside another busy process
# most of a step's time. So many are a tenth of a millisecond (docs/log.md). The library reads it when torch is imported.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")
