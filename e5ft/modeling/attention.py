"""Attention over texts laid end to end in one row: every token sees its own text and nothing else, and nothing is padded.

Registered with transformers as `e5ft_unpadded`. The model is called with one flat row `input_ids (1, T)`, explicit
`position_ids`, and the texts' borders under Hugging Face's own names (`cu_seq_lens_q`, `max_length_q`), so that its
FlashAttention implementation can stand in where it is installed.
"""

from itertools import groupby

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

UNPADDED = "e5ft_unpadded"


def unpadded_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    text_lengths: tuple[int, ...] | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Bidirectional self-attention, text by text.

    Args:
        module: the attention layer (unused; part of transformers' interface).
        query, key, value: (1, H, T, d), the texts end to end along T.
        attention_mask: must be None; the borders take its place.
        cu_seq_lens_q: (N + 1,) int32, where each text begins, and T.
        max_length_q: tokens of the longest text.
        text_lengths: the N lengths as Python ints, so that a CPU loop needs no tensor arithmetic.
        dropout: probability in [0, 1) with which an attention weight is dropped.
        scaling: factor on the scores; None means 1 / sqrt(d).

    Returns:
        (1, T, H, d), and None for the weights, which are never formed.

    Raises:
        ValueError: the borders are absent or a mask is given. transformers drops `attention_mask` without a word for
            an implementation that has no mask entry, so a padded batch would give wrong vectors silently.
    """
    if cu_seq_lens_q is None or text_lengths is None or max_length_q is None:
        raise ValueError(f"{UNPADDED} needs cu_seq_lens_q, max_length_q and text_lengths; call Encoder, not the bare model")
    if attention_mask is not None:
        raise ValueError(f"{UNPADDED} takes no attention_mask: texts are told apart by cu_seq_lens_q")
    if query.device.type == "cuda":
        output = _cuda(query, key, value, cu_seq_lens_q, max_length_q, dropout, scaling)
    else:
        output = _by_length(query, key, value, text_lengths, dropout, scaling)
    return output, None


def _by_length(query, key, value, text_lengths, dropout, scaling):
    """Runs of neighbours of equal length go through the kernel as one batch; the collator sorts texts so that runs are long."""
    heads, size = query.shape[1], query.shape[3]
    runs = [(length, sum(1 for _ in run)) for length, run in groupby(text_lengths)]
    tokens = [length * count for length, count in runs]
    # split, not slices: the backward of a slice writes a row of zeros as long as all texts together.
    pieces = []
    for (length, count), *qkv in zip(runs, *(x[0].split(tokens, dim=1) for x in (query, key, value)), strict=True):
        q, k, v = (x.reshape(heads, count, length, size).transpose(0, 1) for x in qkv)  # (H, n * L, d) -> (n, H, L, d)
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        pieces.append(out.transpose(1, 2).reshape(1, count * length, heads, size))
    return torch.cat(pieces, dim=1)  # (1, T, H, d)


def _cuda(query, key, value, cu_seq_lens, max_length, dropout, scaling):
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # (1, H, T, d) -> (T, H, d)
    if dropout == 0.0 and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn  # flash only: half precision, no dropout

        scale = {} if scaling is None else {"scale": scaling}
        return varlen_attn(q, k, v, cu_seq_lens, cu_seq_lens, max_length, max_length, **scale).unsqueeze(0)
    offsets = cu_seq_lens.to(torch.int64)
    q, k, v = (torch.nested.nested_tensor_from_jagged(x, offsets, max_seqlen=max_length).transpose(1, 2) for x in (q, k, v))
    output = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).values().unsqueeze(0)  # (1, T, H, d)


AttentionInterface.register(UNPADDED, unpadded_attention)
