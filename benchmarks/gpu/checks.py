"""What must be right: attention, fp16's scaler, exact accumulation, the fitted micro-batch, the memory that is announced."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch

from benchmarks.bench.lines import Line
from benchmarks.gpu.setting import Setting, gradient_of, relative, short
from e5ft.modeling.attention import unpadded_attention
from e5ft.training.accumulation import first_pass, surrogate, whole_step
from e5ft.training.fitting import fit_micro_batch, measure_step
from e5ft.training.trainer import ContrastiveTrainer

_EXACT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # relative, of a gradient through all layers
_GIB = 2**30


def bound(
    section: str, case: str, value: float, *, most: float | None = None, least: float | None = None, note: str = ""
) -> Line:
    """A figure that must not be above `most`, or below `least`; NaN is neither."""
    kind, goal = ("at_least", least) if most is None else ("at_most", most)
    return Line(section, case, "", (value,), kind=kind, goal=goal, note=note)


def attention(setting: Setting) -> Iterator[Line]:
    """Texts end to end against padded ones in float32: vectors and gradients; with dropout, what holds of any mask."""
    shape = setting.pick("e5_small", "e5_small", "mini")
    lengths = tuple(setting.pick((1, 3, 17, 64, 64, 65, 128, 200, 511, 512), (1, 3, 64, 64, 200, 512), (1, 3, 3, 20, 64)))
    encoder, oracle = (setting.encoder(shape, padded=padded) for padded in (False, True))
    encoder.train(), oracle.train()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, encoder.config.vocab_size, (sum(lengths),), generator=generator).to(setting.device)
    weight = torch.randn(len(lengths), encoder.dimension, generator=generator).to(setting.device)

    def passes(model, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        scale = 1024.0 if dtype is torch.float16 else 1.0  # as a scaler would
        with setting.autocast(dtype):
            vectors = model(ids, lengths)
        (scale * (vectors * weight).sum()).backward()
        return vectors.detach(), gradient_of(model) / scale

    expected = passes(oracle, torch.float32)
    for dtype in sorted({torch.float32, torch.float16, setting.half}, key=_EXACT.get):
        found, padded = passes(encoder, dtype), passes(oracle, dtype)
        for number, what in enumerate(("vectors", "gradient")):
            case = f"{shape}, {short(dtype)}, no dropout: {what} against padded fp32"
            note = f"padded {short(dtype)}: {relative(padded[number], expected[number]):.1e}"
            yield bound("Attention", case, relative(found[number], expected[number]), most=_EXACT[dtype], note=note)
        yield from _dropped(setting, dtype)


def _dropped(setting: Setting, dtype: torch.dtype, dropout: float = 0.1) -> Iterator[Line]:
    """Values of 1 give each token the sum of its kept weights, 1 on average; the output is linear in the values, by the same mask."""
    lengths = setting.pick((3, 40, 130, 512), (3, 40, 130, 512), (3, 40, 64))
    starts = torch.tensor([0, *accumulate(lengths)], device=setting.device)
    layer = torch.nn.Identity().train()
    random = torch.randn(4, 1, 12, sum(lengths), 32, generator=torch.Generator().manual_seed(1))
    query, key, value, probe = random.to(setting.device, dtype)

    def attend(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        texts = {"cu_seq_lens_q": starts.int(), "max_length_q": max(lengths), "text_lengths": lengths, "text_borders": starts}
        return unpadded_attention(layer, query, key, values, None, dropout=dropout, **texts)[0].float()

    with torch.no_grad():
        kept, again = (attend(torch.ones_like(value)) for _ in range(2))
        output = attend(value)
    leaf = value.clone().requires_grad_()
    with_gradient, probe = attend(leaf), probe.transpose(1, 2)
    (with_gradient * probe.float()).sum().backward()
    # <out(v), g> = <v, d/dv>: forward and backward dropped the same weights.
    with_gradient = with_gradient.detach()
    terms = with_gradient.double() * probe.double()
    ours, theirs, size = float((leaf.grad.double() * value.double()).sum()), float(terms.sum()), float(terms.norm())
    spread, tolerance = float(kept[..., 0].std()), {torch.float32: 1e-3}.get(dtype, 0.05)
    error = 6 * spread / math.sqrt(kept[..., 0].numel()) + 0.005  # of a mean, and of rounding
    for case, value, limit in (
        ("mean of the kept weights' sums from 1", abs(float(kept.mean()) - 1), {"most": error}),
        ("spread of these sums", spread, {"least": 0.01}),
        ("the same seed again", float((kept - again).abs().max()), {"most": 0.0}),
        ("with gradient from without", float((output - with_gradient).abs().max()), {"most": tolerance}),
        ("backward's mask from forward's", abs(ours - theirs) / size, {"most": tolerance}),
    ):
        yield bound("Attention", f"{short(dtype)}, dropout {dropout}: {case}", value, **limit)


def scaler(setting: Setting) -> Iterator[Line]:
    """A scale far too high: steps are skipped and counted, the scale falls, training goes on; a resumed run keeps the scale."""
    place, _ = setting.prepared("mini", "short", 12, 16)
    start = setting.pick(2.0**34, 2.0**34, 2.0**127)  # a CPU's arithmetic stays float32, which overflows later

    def run(name: str, resume: str | None = None) -> ContrastiveTrainer:
        saved = {"save_strategy": "steps", "save_steps": 1, "fp16": setting.device == "cuda"}
        trainer = setting.trainer(place, name, 16, steps=24, **saved)
        trainer.accelerator.scaler = torch.amp.GradScaler(setting.device, init_scale=start)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    before = torch.cat([p.detach().flatten() for p in setting.trainer(place, "scaler", 16).model.parameters()])
    whole = run("scaler")
    skipped, scale = whole._log_sums.skipped, whole.accelerator.scaler.get_scale()
    weights = torch.cat([p.detach().flatten() for p in whole.model.parameters()])
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    moved = float((weights != before.to(weights)).float().mean()) if math.isfinite(sum(losses)) else math.nan
    resumed = run("scaler", str(setting.folder / "scaler/checkpoint-2"))
    difference = abs(resumed.accelerator.scaler.get_scale() / scale - 1) + abs(resumed._log_sums.skipped - skipped)
    for case, value, limit in (
        ("steps of 24 skipped and counted", skipped, {"least": 1}),
        ("powers of two that the scale fell, beside steps skipped", abs(math.log2(start / scale) - skipped), {"most": 0}),
        ("steps taken after that", 24 - skipped, {"least": 1}),
        ("share of weights that moved", moved, {"least": 0.01}),
        ("resumed from step 2: scale and count beside the uninterrupted run's", difference, {"most": 0}),
    ):
        yield bound("fp16's scaler", f"mini: {case}", value, **limit)


def accumulation(setting: Setting) -> Iterator[Line]:
    """k x b is the gradient of 1 x kb: against one pass over all rows, and with dropout against all graphs kept at once."""
    k, rows = setting.pick((8, 32), (8, 32), (4, 4))
    place, _ = setting.prepared("mini", "short", 1, k * rows)
    for dropout in (0.0, 0.1):
        trainer = setting.trainer(place, "accumulation", rows, k, dropout=dropout)
        batches = _on_device(trainer)
        whole = [_on_device(setting.trainer(place, "accumulation", k * rows))[0]] if not dropout else batches
        trainer.model.train()
        for dtype in (torch.float32, setting.half):
            embed = functools.partial(_embed, trainer, setting.autocast(dtype))
            found = _accumulated(trainer, batches, embed)
            again, expected = _plain(trainer, whole, embed), _plain(trainer, whole, embed)
            against = f"1 x {k * rows}" if not dropout else "all graphs kept"
            case = f"mini, {short(dtype)}, dropout {dropout}: gradient of {k} x {rows} against {against}"
            note = f"the latter against itself {relative(again, expected):.1e}"
            yield bound("Exact accumulation", case, relative(found, expected), most=_EXACT[dtype] / 2, note=note)


def _on_device(trainer: ContrastiveTrainer) -> list:
    return [batch.to(trainer.args.device) for batch in trainer.get_train_dataloader()][: trainer.args.gradient_accumulation_steps]


def _embed(trainer: ContrastiveTrainer, precision: torch.autocast, batch, number: int) -> torch.Tensor:
    with precision:
        return trainer._embed(batch, number)


def _accumulated(trainer: ContrastiveTrainer, batches: list, embed: Callable) -> torch.Tensor:
    cached, _ = first_pass(batches, embed, trainer.loss)
    for part in cached:
        vectors = embed(part.micro_batch, part.number) if part.embeddings is None else part.embeddings
        surrogate(vectors, part).backward()
    return gradient_of(trainer.model)


def _plain(trainer: ContrastiveTrainer, batches: list, embed: Callable) -> torch.Tensor:
    vectors = torch.cat([embed(batch, number) for number, batch in enumerate(batches)])
    trainer.loss(vectors, whole_step([batch.step for batch in batches])).backward()
    return gradient_of(trainer.model)


def fit(setting: Setting) -> Iterator[Line]:
    """A memory into which the step does not fit in one piece: the largest piece is found, and training runs in it."""
    shape, rows, least = setting.pick(("e5_small", 128, 16), ("e5_small", 64, 16), ("mini", 16, 4))
    place, _ = setting.prepared(shape, setting.pick("ko-wiki", "ko-wiki", "short"), 1, rows)
    with _memory_for(setting, place, rows, least) as (trainer, room):
        before = setting.held_bytes()
        found, k = fit_micro_batch(trainer)
        left = (setting.held_bytes() - before) / 2**20
        trainer.train()
        for case, value, limit in (
            (f"micro-batch found (of {rows}; {least} fits)", found, {"least": least}),
            ("steps are still of as many rows", found * k, {"least": rows}),
            ("MB left behind by what did not fit", left, {"most": 64}),
            ("steps trained with it", trainer.state.global_step, {"least": 2}),
        ):
            yield bound("fit_micro_batch", f"{shape}, {rows} rows, {room}: {case}", value, **limit)


@contextlib.contextmanager
def _memory_for(setting: Setting, place, rows: int, least: int) -> Iterator[tuple[ContrastiveTrainer, str]]:
    """A trainer of one micro-batch of `rows`, in a memory for about `least` of them."""
    if setting.device == "cpu":
        trainer = setting.trainer(place, "fit", rows, steps=2)
        right, room = trainer._embed, least * int(max(trainer.train_dataset.most_tokens))

        def embed(batch, number, model=None):
            if len(batch.input_ids) > room:
                raise torch.OutOfMemoryError("out of memory")
            return right(batch, number, model)

        trainer._embed = embed
        yield trainer, f"room for {room} tokens"
        return
    smaller = setting.trainer(place, "fit", least, rows // least, bf16=setting.half is torch.bfloat16)
    setting.reset_peak()
    needed = 1.4 * measure_step(smaller).memory
    del smaller
    setting.reset_peak()
    trainer = setting.trainer(place, "fit", rows, steps=2, bf16=setting.half is torch.bfloat16)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, needed / total))
    try:
        yield trainer, f"{needed / _GIB:.1f} GiB"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def memory(setting: Setting) -> Iterator[Line]:
    """What a run's header says of its memory, beside the most that it then held; every step is the largest one."""
    for shape in setting.pick(("e5_small", "e5_base"), ("e5_small",), ("mini",)):
        rows = setting.pick(16, 8, 4)
        place, _ = setting.prepared(shape, setting.pick("ko-wiki", "ko-wiki", "short"), 1, rows)
        for k, again in ((1, False), (1, True), (4, False)):
            setting.reset_peak()
            more = {"bf16": setting.half is torch.bfloat16, "activation_checkpointing": again}
            trainer = setting.trainer(place, "memory", rows // k, k, steps=4, **more)
            said = measure_step(trainer).memory
            setting.reset_peak()
            trainer.train()
            held, how = setting.peak_bytes(), ", activation checkpointing" * again
            case = f"{shape}, {rows // k} x {k} rows, {short(setting.half)}{how}: peak while training"
            del trainer
            if said is not None:  # some sandboxes do not tell a process's peak
                yield Line("Memory", case, "GiB", (held / _GIB,), "what was said", (said / _GIB,), kind="cost", goal=1.15)
                yield bound("Memory", f"{case}, of what was said", held / said, least=0.7)
