"""e5ft: fine-tune multilingual-E5 embedders for retrieval, and measure whether they retrieve better."""

__version__ = "0.1.0"
