"""Which settings fine-tune the real E5 best: one factor at a time, then finalists beside sentence-transformers."""
