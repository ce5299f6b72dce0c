"""Attention over texts laid end to end in one row: every token sees its own text and nothing else, and nothing is padded.

Registered with transformers as `e5ft_unpadded`. The model is called with one flat row `input_ids (1, T)`, explicit
`position_ids`, and the texts' borders under Hugging Face's own names (`cu_seq_lens_q`, `max_length_q`), so that its
FlashAttention implementation can stand in where it is installed.
"""

from itertools import groupby

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from e5ft.modeling.dropout import keep_mask, mark_dropped

UNPADDED = "e5ft_unpadded"
# Where two products are faster than torch's CPU kernel (docs/log.md), in bfloat16: tokens of a run at least, of a text at
# most (the kernel's memory does not grow with the square). They round scores to bfloat16, as transformers' eager attention
# does, where the kernel keeps float32.
PRODUCTS_FROM, PRODUCTS_TO = 40, 512
# Below this score exp() cannot overflow bfloat16 (its range ends at e to the 87), also summed over a text: the maximum need not
# be subtracted, which is most of a softmax's time in bfloat16.
SAFE_SCORE = 40.0


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
    text_borders: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Bidirectional self-attention, text by text.

    Args:
        module: the attention layer, asked whether it is training.
        query, key, value: (1, H, T, d), the texts end to end along T.
        attention_mask: must be None; the borders take its place.
        cu_seq_lens_q: (N + 1,) int32, where each text begins, and T.
        max_length_q: tokens of the longest text.
        text_lengths: the N lengths as Python ints, so that a CPU loop needs no tensor arithmetic.
        text_borders: on a GPU, the same as int64; one tensor for all layers, also where they are computed again.
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
    if query.device.type != "cpu":
        output = _cuda(query, key, value, cu_seq_lens_q, text_borders, text_lengths, dropout, scaling)
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if module.training or (torch.is_grad_enabled() and query.requires_grad):
        # Also where a training step embeds without gradient first: both passes must draw the same masks.
        output = _TextByText.apply(query[0], key[0], value[0], _runs(text_lengths), dropout, scale)
    else:
        output = _by_length(query[0], key[0], value[0], text_lengths, scale)
    return output.unsqueeze(0), None


def _runs(text_lengths: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (length, number of texts) of each run of neighbours of equal length."""
    return [(length, sum(1 for _ in run)) for length, run in groupby(text_lengths)]


class _TextByText(torch.autograd.Function):
    """Attention of one layer with the gradient written out, for training on a CPU.

    torch's CPU kernel for attention has no dropout (it falls back to a dozen small operations a text) and its backward
    pass is slow in bfloat16 (docs/log.md). Here a layer is one node of the graph, and a text five matrix products.

    query, key, value: (H, T, d) -> (T, H, d).
    """

    @staticmethod
    def forward(ctx, query, key, value, runs, dropout, scale):
        heads, tokens, size = query.shape
        output = query.new_empty(tokens, heads, size)
        masks = _masks(runs, heads, dropout)
        bounded = _bounded(query, key, scale)
        sums = query.new_empty(tokens, heads, 1) if bounded else None
        marked_weights, start = [], 0
        with torch.autocast("cpu", enabled=False):
            for number, run in enumerate(runs):
                q, k, v = (_texts_of_run(x, start, run) for x in (query, key, value))  # (H * n, L, d)
                weights, total = _weights(q, k, scale, bounded)
                if masks is not None:
                    mark_dropped(weights, masks[number])
                marked_weights.append(weights)
                dropped = weights if masks is None else weights.relu()
                attended = _product(dropped, v, 1 / (1 - dropout))
                if bounded:
                    _write_run(sums.transpose(0, 1), start, run, total)
                _write_run(output.transpose(0, 1), start, run, attended, total)
                start += run[0] * run[1]
        ctx.save_for_backward(query, key, value, output, sums, *marked_weights)
        ctx.settings = runs, dropout, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        runs, dropout, scale = ctx.settings
        query, key, value, output, sums, *marked_weights = ctx.saved_tensors
        heads, tokens, size = query.shape
        gradients = [query.new_empty(tokens, heads, size) for _ in range(3)]
        # Of the softmax's Jacobian: the weighted mean of the weights' gradients is what the output's gradient is along the output.
        wide = torch.promote_types(query.dtype, torch.float32)
        mean = (gradient.to(wide) * output).sum(-1, keepdim=True)  # (T, H, 1)
        if sums is not None:  # every product below with weights that were not divided by their sum is linear in one of these
            gradient, mean = gradient / sums, mean / sums
        gradient, mean = gradient.transpose(0, 1), mean.to(query.dtype).transpose(0, 1)  # (H, T, d), (H, T, 1)
        start, larger = 0, 1 / (1 - dropout)
        for run, marked in zip(runs, marked_weights, strict=True):
            q, k, v, g, m = (_texts_of_run(x, start, run) for x in (query, key, value, gradient, mean))
            weights, dropped = (marked.abs(), marked.relu()) if dropout else (marked, marked)
            _write_run(gradients[2].transpose(0, 1), start, run, _product(dropped.transpose(1, 2), g, larger))
            scores = _product(g, _across(v), larger).mul_(dropped).addcmul_(weights, m, value=-1)  # d loss / d score
            _write_run(gradients[0].transpose(0, 1), start, run, _product(scores, k, scale))
            _write_run(gradients[1].transpose(0, 1), start, run, _product(scores.transpose(1, 2), q, scale))
            start += run[0] * run[1]
        return *(x.transpose(0, 1) for x in gradients), None, None, None


def _product(left: torch.Tensor, right: torch.Tensor, factor: float) -> torch.Tensor:
    """factor * left @ right, (n, i, j) and (n, j, k) -> (n, i, k), without a pass over the result for the factor."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=factor)


def _across(values: torch.Tensor) -> torch.Tensor:
    """(n, i, j) -> (n, j, i) for a product. In bfloat16 torch copies what is not contiguous: along rows it is cheaper."""
    return (values.contiguous() if values.dtype == torch.bfloat16 else values).transpose(1, 2)


def _masks(runs: list[tuple[int, int]], heads: int, dropout: float) -> list[torch.Tensor] | None:
    """Draw a mask (H * n, L, L) for each run, all in one call."""
    if dropout == 0.0:
        return None
    sizes = [heads * count * length * length for length, count in runs]
    pieces = keep_mask((sum(sizes),), dropout).split(sizes)
    return [piece.view(-1, length, length) for piece, (length, _) in zip(pieces, runs, strict=True)]


def _texts_of_run(values: torch.Tensor, start: int, run: tuple[int, int]) -> torch.Tensor:
    """Select the texts of a run: (H, T, d) -> (H * n, L, d); no copy where n = 1."""
    length, count = run
    return values[:, start : start + length * count].reshape(-1, length, values.shape[-1])


def _write_run(
    target: torch.Tensor, start: int, run: tuple[int, int], values: torch.Tensor, sums: torch.Tensor | None = None
) -> None:
    """Write (H * n, L, d), divided by (H * n, L, 1) where there is one, into its place in (H, T, d)."""
    length, count = run
    part, shape = target[:, start : start + length * count], (target.shape[0], length * count, -1)
    if sums is None:
        part.copy_(values.view(shape))
    else:
        torch.div(values.view(shape), sums.view(shape), out=part)


def _by_length(query, key, value, text_lengths, scale):
    """Without gradient and dropout: runs of neighbours of equal length at once; the collator sorts texts so that runs are long."""
    heads, tokens, size = query.shape
    output, start = query.new_empty(tokens, heads, size), 0
    half, bounded = query.dtype == torch.bfloat16, _bounded(query, key, scale)
    for run in _runs(text_lengths):
        length, count = run
        q, k, v = (_texts_of_run(x, start, run) for x in (query, key, value))  # (H * n, L, d)
        if half and length <= PRODUCTS_TO and length * count >= PRODUCTS_FROM:
            with torch.autocast("cpu", enabled=False):  # it would widen the softmax
                weights, total = _weights(q, k, scale, bounded)
                attended = torch.bmm(weights, v)
        else:
            q, k, v = (x.view(heads, count, length, size) for x in (q, k, v))
            attended, total = scaled_dot_product_attention(q, k, v, scale=scale), None
        _write_run(output.transpose(0, 1), start, run, attended, total)  # L * d divisions instead of L * L
        start += length * count
    return output


def _weights(query: torch.Tensor, key: torch.Tensor, scale: float, bounded: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A run's attention weights: (n, L, d) twice -> (n, L, L), and the sum (n, L, 1) that they are still to be divided by, if any."""
    scores = _product(query, _across(key), scale)
    if bounded:
        weights = scores.exp_()
        return weights, weights.sum(dim=-1, keepdim=True)
    # The softmax is taken in at least float32 inside its kernel; its result is as wide as its input.
    return torch.softmax(scores, dim=-1), None


def _bounded(query: torch.Tensor, key: torch.Tensor, scale: float) -> bool:
    """Whether the vectors' lengths, (H, T, d) each, allow no score above `SAFE_SCORE`, in bfloat16."""
    if query.dtype != torch.bfloat16:
        return False  # in float32 a softmax is as fast as exp()
    longest = [torch.linalg.vector_norm(x, dim=-1).amax(dim=-1) for x in (query, key)]  # (H,) each
    return abs(scale) * float((longest[0] * longest[1]).amax()) <= SAFE_SCORE


def _cuda(query, key, value, cu_seq_lens, borders, text_lengths, dropout, scaling):
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # (1, H, T, d) -> (T, H, d)
    if dropout == 0.0 and q.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn  # flash only: half precision, no dropout

        longest, scale = max(text_lengths), {} if scaling is None else {"scale": scaling}
        return varlen_attn(q, k, v, cu_seq_lens, cu_seq_lens, longest, longest, **scale).unsqueeze(0)
    # A nested tensor's shape is known by its borders' tensor: with another one activation checkpointing refuses what it computes.
    # Both bounds, or the kernel's choice would wait for the GPU to tell them, three times a layer.
    bounds = {"min_seqlen": min(text_lengths), "max_seqlen": max(text_lengths)}
    q, k, v = (torch.nested.nested_tensor_from_jagged(x, borders, **bounds).transpose(1, 2) for x in (q, k, v))
    output = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
    return output.transpose(1, 2).values().unsqueeze(0)  # (1, T, H, d)


def with_one_cast(model: torch.nn.Module) -> None:
    """Under autocast, cast what query, key and value are made of once instead of three times, and keep one copy for the backward pass.

    Their three gradients are then added up in the half precision that each of them has.
    """
    for module in model.modules():
        if all(isinstance(getattr(module, name, None), torch.nn.Module) for name in ("query", "key", "value")):
            module.register_forward_pre_hook(_cast)


def _cast(module: torch.nn.Module, inputs: tuple) -> tuple | None:
    if not inputs or not torch.is_autocast_enabled(inputs[0].device.type):
        return None
    return inputs[0].to(torch.get_autocast_dtype(inputs[0].device.type)), *inputs[1:]


AttentionInterface.register(UNPADDED, unpadded_attention)
