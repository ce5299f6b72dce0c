"""What is compared with what, at which sizes, and which goal each figure is held against."""

import functools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench.in_use import quickstart
from benchmarks.bench.lines import Line, check_same
from benchmarks.bench.processes import in_turns, measure
from benchmarks.bench.search import FAISS, MATMUL
from benchmarks.bench.search import OURS as OUR_SEARCH
from benchmarks.bench.training import CACHED, OURS, PLAIN
from benchmarks.bench.turns import WARMUP

SAME_LOSS = 1e-3
BOTH = (False, True)  # float32, bfloat16
_GOALS = {False: 3.3, True: 4.0}  # speedup of a step, by bf16


def training(quick: bool) -> Iterator[Line]:
    """Steps of the real trainers: time, memory, and distance to the machine's matrix rate."""
    if quick:
        cases = [("mini", "ko-wiki", False, 8, (PLAIN, CACHED), 0.1), ("mini", "ko-wiki", True, 8, (PLAIN,), 0.1)]
    else:
        # With attention dropout MNRL keeps every padded attention weight: 20 GB for 16 rows in float32, more than 24 GB of memory
        # leave it beside ours. So these cases have as many rows as fit, which flatters it: the fewer, the less they pad.
        cases = [
            *(("e5_small", "ko-wiki", bf16, 8, (PLAIN,), 0.1) for bf16 in BOTH),
            *(("e5_small", "ko-prec", bf16, 10 if bf16 else 9, (PLAIN,), 0.1) for bf16 in BOTH),
            *(("e5_small", "ko-wiki", bf16, 12, (PLAIN,), 0.0) for bf16 in BOTH),
            *(("e5_small", "ko-wiki", bf16, 8, (CACHED,), 0.1) for bf16 in BOTH),
        ]
    for case in cases:
        yield from _steps(*case, timed=2 if quick else 5)


def base(quick: bool) -> Iterator[Line]:
    """mE5-base's shape: not part of the whole, it alone takes five minutes. With 8 rows MNRL in bf16 does not fit into 24 GB."""
    for bf16 in BOTH:
        yield from _steps("e5_base", "ko-wiki", bf16, 6, (PLAIN,), 0.1, timed=2 if quick else 5)


def _steps(
    shape: str, data: str, bf16: bool, rows: int, others: tuple[str, ...], attention_dropout: float, timed: int
) -> Iterator[Line]:  # fmt: skip
    steps = timed + WARMUP
    with tempfile.TemporaryDirectory(prefix="bench-") as target:
        made = measure("training:prepare", target=target, shape=shape, data=data, steps=steps, rows=rows)
        given = {"target": target, "rows": rows, "bf16": bf16}
        names = (OURS, *others)
        for name in others:
            _check_losses(shape, data, name)
        options = {"steps": steps, "attention_dropout": attention_dropout, **given}
        calls = {name: ("training:contender", {"name": name, **options}) for name in names}
        # One turn more: a trainer's first is setting up.
        calls["rate"] = "training:rate", {"tokens": made["tokens"], "hidden": made["hidden"], "bf16": bf16, "turns": steps + 1}
        found = in_turns(calls)
    case = f"{shape}, {data}, {rows} rows, {'bf16' if bf16 else 'fp32'}" + (
        ", no attention dropout" if not attention_dropout else ""
    )
    ours = found[OURS]
    for name in others:
        cpu = {"ours_cpu": tuple(ours["cpu"]), "theirs_cpu": tuple(found[name]["cpu"])}
        goal = _GOALS[bf16] if shape == "e5_small" else None
        # Without the kernel's share: what a machine that hands out memory faster would still have to do.
        user = statistics.median(t / o for o, t in zip(ours["user"], found[name]["user"], strict=True))
        walls = tuple(ours["wall"]), name, tuple(found[name]["wall"])
        yield Line("A training step", case, "s", *walls, goal=goal, note=f"user CPU {user:.2f}x", **cpu)
        peaks = (ours["peak_mb"],), name, (found[name]["peak_mb"],)
        yield Line("Peak memory of training", case, "MB", *peaks, kind="cost", goal=0.5)
    rates = found["rate"]["rates"][1 + WARMUP :]
    measured = zip(made["flops"][WARMUP:], ours["wall"], rates, strict=True)
    shares = tuple(flops / (seconds * rate) for flops, seconds, rate in measured)
    note = f"the machine's matrix rate: {statistics.median(rates) / 1e9:.0f} GFLOP/s"
    yield Line("Share of the machine's matrix rate", case, "of it", shares, kind="at_least", goal=0.7, note=note)


@functools.cache
def _check_losses(shape: str, data: str, other: str, rows: int = 8) -> None:
    """Once a shape and data set: without dropout both trainers begin with the same loss, or their times mean nothing."""
    with tempfile.TemporaryDirectory(prefix="bench-") as target:
        measure("training:prepare", target=target, shape=shape, data=data, steps=1, rows=rows)
        exact = {"target": target, "steps": 1, "rows": rows, "dropout": 0.0, "attention_dropout": 0.0}
        ours, theirs = (measure("training:contender", name=name, **exact)["losses"][0] for name in (OURS, other))
    check_same(f"{shape}, {data}: loss of step 1 against {other}, no dropout", ours, theirs, SAME_LOSS)


def accumulation(quick: bool) -> Iterator[Line]:
    """What exact accumulation costs beside plain accumulation, and how memory grows with the step."""
    timed = 2 if quick else 5
    for k, data, goal in ((8, "ko-wiki", 1.30), (64, "short", 1.36))[: 1 if quick else 2]:
        with tempfile.TemporaryDirectory(prefix="bench-") as target:
            measure("training:prepare", target=target, shape="mini", data=data, steps=timed + WARMUP, rows=8 * k)
            options = {"target": target, "name": OURS, "steps": timed + WARMUP, "rows": 8, "k": k}
            calls = {name: ("training:contender", {**options, "negatives": name}) for name in ("step", "micro_batch")}
            exact, plain = in_turns(calls).values()
        values = tuple(exact["wall"]), "no negatives across micro-batches", tuple(plain["wall"])
        cpu = {"ours_cpu": tuple(exact["cpu"]), "theirs_cpu": tuple(plain["cpu"])}
        case = f"mini, {data}, k = {k} micro-batches of 8 rows"
        yield Line("Exact accumulation", case, "s", *values, kind="cost", goal=goal, **cpu)
    yield from _memory_of_steps((64, 1024) if quick else (64, 1024, 8192))


def large_step(quick: bool) -> Iterator[Line]:
    """The memory of a step of 65,536 rows: not part of the whole, it alone takes a quarter of an hour."""
    yield from _memory_of_steps((64, 4096 if quick else 65_536))


def _memory_of_steps(sizes: tuple[int, ...]) -> Iterator[Line]:
    """Beside the smallest."""
    peaks, vectors = {}, {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as target:
            made = measure("training:prepare", target=target, shape="mini", data="short", steps=1, rows=size)
            options = {"target": target, "name": OURS, "steps": 1, "rows": 32, "k": size // 32}
            peaks[size] = measure("training:contender", **options)["peak_mb"]
            vectors[size] = 2 * 3 * size * made["hidden"] * 4 / 2**20  # three texts a row, and a gradient for each vector
    least = sizes[0]
    for size in sizes[1:]:
        case = f"mini, short texts, peak memory of a step of {size:,} rows in micro-batches of 32, but for its vectors and their gradients"
        note = f"with them {peaks[size]:,.0f} MB, {peaks[size] / peaks[least]:.2f}x"
        values = (peaks[size] - vectors[size],), f"a step of {least}", (peaks[least] - vectors[least],)
        yield Line("Exact accumulation", case, "MB", *values, kind="cost", goal=1.2, note=note)


def encoding(quick: bool) -> Iterator[Line]:
    """A corpus to vectors."""
    shape, texts, repetitions = ("mini", 100, 2) if quick else ("e5_small", 120, 5)
    for bf16, goal in ((False, 1.5), (True, 2.0)):
        given = {"data": "ko-wiki", "bf16": bf16, "texts": texts}
        found = measure("encoding:compare", shape=shape, repetitions=repetitions, **given)
        wall, cpu = found["wall"], found["cpu"]
        case = f"{shape}, {texts} ko-wiki passages, {'bf16' if bf16 else 'fp32'}"
        yield Line(
            "Encoding", case, "s", tuple(wall["ours"]), "SentenceTransformer.encode", tuple(wall["theirs"]),
            goal=goal, ours_cpu=tuple(cpu["ours"]), theirs_cpu=tuple(cpu["theirs"]),
            note="cosine lost {:.1e} / {:.1e}".format(*found["cosine_lost"]) if bf16 else "equal to 1e-5",
        )  # fmt: skip
        # The rate's product is timed in the same turns, so a share is a quotient of two times measured one after the other.
        rates = [found["product_flops"] / seconds for seconds in wall["rate"]]
        shares, theirs = (
            tuple(found["flops"] / (seconds * rate) for seconds, rate in zip(wall[name], rates, strict=True))
            for name in ("ours", "theirs")
        )
        rate = statistics.median(rates) / 1e9
        note = f"the machine's matrix rate: {rate:.0f} GFLOP/s; theirs {statistics.median(theirs):.2f}"
        yield Line("Encoding", f"{case}, share of the machine's matrix rate", "of it", shares, kind="at_least", note=note)
        with tempfile.TemporaryDirectory(prefix="bench-") as target:
            measure("training:prepare", target=target, shape=shape, data="ko-wiki", steps=1, rows=1)
            given |= {"model": str(Path(target) / "model"), "texts": max(64, texts // 2)}  # as many as fill all passes
            ours, theirs = (measure("encoding:memory", contender=name, **given)["peak_mb"] for name in ("ours", "theirs"))
        yield Line("Encoding", f"{case}, peak memory", "MB", (ours,), "SentenceTransformer.encode", (theirs,), kind="cost")


def search(quick: bool) -> Iterator[Line]:
    """Exact top 100."""
    for passages, queries in ((20_000, 100),) if quick else ((100_000, 1000), (1_000_000, 200)):
        sizes = {"passages": passages, "queries": queries}
        repetitions = 2 if quick else 5 if passages > 100_000 else 11  # short ones vary more
        found = measure("search:compare", repetitions=repetitions, **sizes)
        for other in (FAISS, MATMUL):
            values = tuple(found["wall"][OUR_SEARCH]), other, tuple(found["wall"][other])
            cpu = {"ours_cpu": tuple(found["cpu"][OUR_SEARCH]), "theirs_cpu": tuple(found["cpu"][other])}
            case = f"top 100 of {passages:,} x 384, {queries} queries"
            yield Line("Exact search", case, "s", *values, kind="cost", goal=1.2, **cpu)
        memory = {name: measure("search:memory", contender=name, **sizes) for name in (OUR_SEARCH, FAISS)}
        peaks = (memory[OUR_SEARCH]["peak_mb"],), FAISS, (memory[FAISS]["peak_mb"],)
        note = f"the vectors themselves: {memory[FAISS]['corpus_mb']:.0f} MB, which faiss copies"
        yield Line("Exact search", f"{case}, peak memory", "MB", *peaks, kind="cost", note=note)


def rows(quick: bool) -> Iterator[Line]:
    """From a file of rows to the first micro-batch, and again."""
    own = {}
    for count in (2_000, 10_000) if quick else (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory(prefix="bench-") as target:
            measure("rows:generate", count=count, data="short", target=target)
            first = measure("rows:start", target=target)
            second = measure("rows:start", target=target)
        own[count] = first["own_mb"]
        case = f"{count:,} rows of short texts"
        # Validation is one thread's: its CPU seconds are a core's, whatever else the host of a virtual machine does with it.
        goal = 50_000 if count >= 100_000 else None  # of 10,000 rows a quarter is spent on what is done once
        rate = (count / first["cpu"]["validate"],)
        yield Line("Data", f"{case}, validated", "rows/s a core", rate, kind="at_least", goal=goal)
        yield Line("Data", f"{case}, tokenised", "rows/s", (count / first["wall"]["tokenise"],), kind="at_least")
        yield Line("Data", f"{case}, to the first micro-batch", "s", (first["wall"]["all"],), kind="at_most")
        yield Line("Data", f"{case}, the same from the cache", "s", (second["wall"]["all"],), kind="at_most", goal=3)
    least = min(own)
    for count in sorted(own)[1:]:
        values = (own[count],), f"{least:,} rows", (own[least],)
        yield Line("Data", f"{count:,} rows, memory without mapped files", "MB", *values, kind="cost", goal=1.2)


def in_use(quick: bool) -> Iterator[Line]:
    """The quickstart on an idle machine and beside a busy process, and what it says of its memory."""
    steps, times = (8, 1) if quick else (40, 2)
    measured = {"idle": [], "library": [], "busy": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as target:
        for number in range(times):
            for name, found in measured.items():
                more = {"library": {"GOMP_SPINCOUNT": "300000"}, "busy": {"busy": 1}}.get(name, {})
                found.append(quickstart(Path(target), f"{name}-{number}", min(steps, 12) if name == "busy" else steps, **more))
    wall = {name: tuple(seconds for run in found for seconds in run["wall"]) for name, found in measured.items()}
    yield Line(
        "In use", "quickstart, a step", "s", wall["idle"], "GNU OpenMP's own waiting", wall["library"], kind="cost", goal=1.03
    )
    yield Line("In use", "a step beside a busy process", "s", wall["busy"], "idle", wall["idle"], kind="cost", goal=2.2)
    peaks, said = (tuple(run[name] for run in measured["idle"]) for name in ("peak", "said"))
    yield Line("In use", f"peak memory, {steps} steps", "MB", peaks, "as said before step 1", said, kind="cost", goal=1.25)


CASES = {f.__name__: f for f in (training, accumulation, encoding, search, rows, in_use, base, large_step)}
DEFAULT = tuple(name for name in CASES if name not in ("base", "large_step"))
