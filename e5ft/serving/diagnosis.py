"""What is wrong with a server, told from its vectors: the known mistake whose own vectors they are.

A mistake is named where the answers lie at least three quarters of the way from the right vectors to its own: halfway they are as
near to the one as to the other, and a quarter more keeps chance out. What no mistake explains is judged by its size: weights
rounded to 4 bits leave so much (golden.json has it, measured on the model itself), another revision leaves more.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from e5ft.exporting.golden import (
    CUT,
    LONG,
    NFD,
    NO_PREFIX,
    OTHER_BEFORE,
    OTHER_PREFIX,
    PLAIN,
    POOLING,
    PREFIX_TWICE,
    ROLES,
    SPACES,
    Golden,
    Probe,
)
from e5ft.json_http import AnswerError
from e5ft.settings import shown

_MOST_OF_THE_WAY = 0.75
_LENGTH = 0.02  # how far from 1 a vector's length may be: bfloat16 on the real mE5-small leaves .004
_STANDS_OUT = 4  # texts of a kind that are so many times farther off than plain ones have a fault of their own
_ROUNDING = 1e-4  # 1 - cosine that 16-bit weights may leave: bfloat16 on the real mE5-small .00003, float16 .0000003
_BROKEN = "it must cut them at {} tokens (a truncate option), or refuse them with HTTP 413"
_NO_VECTOR = (
    ("NaN or infinite numbers", "serve the model in float32 or bfloat16", lambda vector: not np.isfinite(vector).all()),
    ("zero vectors", "it computes nothing; the server's log says why", lambda vector: not vector.any()),
)
_TEXTS = {PLAIN: "plain texts", NFD: "texts in NFD", SPACES: "texts with odd white space", LONG: "over-long texts"}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The outcome of a check.

    Attributes:
        faults: each in words; empty where the model is served right.
        lowest: the lowest cosine of an answer to the right vector.
        compared: how many answers there were.
        refused: how many over-long texts the server said to be too long.
    """

    faults: tuple[str, ...]
    lowest: float
    compared: int
    refused: int = 0


def diagnose(golden: Golden, answers: Sequence[np.ndarray | AnswerError], least: float) -> Diagnosis:
    """Compare a server's vectors with those of golden.json.

    Args:
        golden: the reference.
        answers: one (D,) for each probe; the server's error where an over-long text has none.
        least: the lowest cosine that counts as right.

    Returns:
        The faults, at best none.
    """
    failed = [answer for answer in answers if isinstance(answer, AnswerError)]
    broken = [error for error in failed if not error.is_too_long]
    refused = len(failed) - len(broken)
    known = [(p, a) for p, a in zip(golden.probes, answers, strict=True) if not isinstance(a, AnswerError)]
    faults = [f"over-long texts break it: {broken[0]}; {_BROKEN.format(max(golden.max_lengths.values()))}"] if broken else []
    if no_vectors := list(_no_vectors(known)):
        return Diagnosis((*no_vectors, *faults), 0.0, len(known), refused)
    lengths = [float(np.linalg.norm(answer)) for _, answer in known]
    pairs = [(probe, answer / length) for (probe, answer), length in zip(known, lengths, strict=True)]
    found = {}
    for role in ROLES:
        plain = [(probe, answer) for probe, answer in pairs if (probe.role, probe.kind) == (role, PLAIN)]
        found[role] = _nearest(plain, "", {name for probe, _ in plain for name in probe.mistakes})
    kinds = {kind: _kind_mistakes(pairs, kind, found) for kind in (NFD, SPACES, LONG)}
    remaining: dict[str, list[float]] = {kind: [] for kind in _TEXTS}
    for probe, answer in pairs:
        vector = probe.after("+".join(filter(None, (found[probe.role], kinds.get(probe.kind)))))
        if vector is not None:
            remaining[probe.kind].append(float(vector @ answer))
    rest, is_explained = _unexplained({kind: cosines for kind, cosines in remaining.items() if cosines}, golden, least)
    if is_explained:
        faults += _in_words(golden, found, [name for name in kinds.values() if name])
    faults += rest
    if abs(float(np.median(lengths)) - 1) > _LENGTH:
        faults.append(f"not normalised: vectors of length {np.median(lengths):.3g}, must be 1")
    return Diagnosis(tuple(faults), min(float(probe.vector @ answer) for probe, answer in pairs), len(pairs), refused)


def _no_vectors(known: Sequence[tuple[Probe, np.ndarray]]) -> Iterator[str]:
    """What has no direction, in words: vectors of zeros, and of what is no number."""
    for what, advice, is_it in _NO_VECTOR:
        texts = [probe.text for probe, answer in known if is_it(answer)]
        if texts:
            yield f"{what} for {len(texts)} of {len(known)} texts, the first {shown(texts[0][:30])}: {advice}"


def _nearest(pairs: Iterable[tuple[Probe, np.ndarray]], before: str, names: Iterable[str]) -> str:
    """The mistakes that the answers come nearest to; those named `before` where no other is three quarters of the way off."""
    pairs = list(pairs)
    best, smallest = before, np.inf
    for name in sorted(names):
        triples = [(probe.after(before), probe.after(name), answer) for probe, answer in pairs]
        triples = [triple for triple in triples if triple[0] is not None and triple[1] is not None]
        # Squared distances of unit vectors, summed over the probes: of the two to each other, and of the answers to each.
        apart, to_start, to_end = (
            sum(float(((one - other) ** 2).sum()) for one, other in which)
            for which in (
                [(start, end) for start, end, _ in triples],
                [(start, answer) for start, _, answer in triples],
                [(end, answer) for _, end, answer in triples],
            )
        )
        if apart and 0.5 + (to_start - to_end) / (2 * apart) >= _MOST_OF_THE_WAY and to_end < smallest:
            best, smallest = name, to_end
    return best


def _kind_mistakes(pairs: list[tuple[Probe, np.ndarray]], kind: str, found: dict[str, str]) -> str:
    """The mistake that only shows in one kind of texts, beside what was found in the plain ones; "" for none."""
    of_kind = [(probe, answer) for probe, answer in pairs if probe.kind == kind]
    names = {name.rpartition("+")[2] for probe, _ in of_kind for name in probe.mistakes}
    names = {name for name in names if name == kind or name.startswith(CUT)}
    # Under one name for both roles, whose plain mistakes may differ.
    shifted = [
        (dataclasses.replace(probe, vector=start, mistakes=_below(probe, found[probe.role], names)), answer)
        for probe, answer in of_kind
        if (start := probe.after(found[probe.role])) is not None
    ]
    return _nearest(shifted, "", names)


def _below(probe: Probe, plain: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    vectors = {name: probe.after("+".join(filter(None, (plain, name)))) for name in names}
    return {name: vector for name, vector in vectors.items() if vector is not None}


def _unexplained(remaining: dict[str, list[float]], golden: Golden, least: float) -> tuple[list[str], bool]:
    """What the known mistakes leave unexplained, in words, and whether they explain enough to be named.

    Args:
        remaining: kind of texts -> cosines of the answers to the vectors that the mistakes found would give.
        golden: the reference.
        least: the lowest cosine that counts as right.
    """
    cosines = [cosine for values in remaining.values() for cosine in values]
    if min(cosines) >= least:
        return [], True
    plain = 1 - min(remaining.get(PLAIN, cosines))
    limit = _STANDS_OUT * max(_ROUNDING, plain)
    alone = [kind for kind, values in remaining.items() if kind != PLAIN and 1 - min(values) > limit]
    faults = [f"no known mistake explains the {_TEXTS[kind]}: cosine {min(remaining[kind]):.4f} at the lowest" for kind in alone]
    cosines = [cosine for kind, values in remaining.items() if kind not in alone for cosine in values]
    if min(cosines) >= least:
        return faults, True
    far = f"cosine {min(cosines):.4f} at the lowest, {np.mean(cosines):.4f} in the mean"
    levels = golden.levels
    if 1 - min(cosines) <= 2 * (1 - levels["int4"]):
        own = f"this model's weights in 8 bits leave {levels['int8']:.4f}, in 4 bits {levels['int4']:.4f}"
        return [*faults, f"quantised, or other weights as near: {far}; {own}"], True
    return [f"no known mistake explains it: {far}; another revision of the weights, or another model"], False


def _in_words(golden: Golden, found: dict[str, str], kinds: list[str]) -> list[str]:
    """The mistakes found, as a person should read them."""
    parts = {role: set(filter(None, found[role].split("+"))) for role in ROLES}
    faults = []
    for name in sorted(parts["query"] | parts["passage"]) + kinds:
        roles = [role for role in ROLES if name in parts[role]]
        texts = "" if len(roles) != 1 else f" in {'queries' if roles[0] == 'query' else 'passages'}"
        shown = " / ".join(repr(golden.prefixes[role]) for role in roles)
        if name == NO_PREFIX:
            faults.append(f"prefix missing{texts}: must be {shown} before each text")
        elif name == PREFIX_TWICE:
            faults.append(f"prefix twice{texts}: must be {shown} once; server and client both add it")
        elif name == OTHER_BEFORE:
            other = golden.prefixes["passage" if roles[0] == "query" else "query"]
            faults.append(f"prefix twice{texts}: must be {shown} once; the server adds {other!r} by itself")
        elif name == OTHER_PREFIX:
            faults.append(f"query and passage confused{texts}: must be {shown} before each text")
        elif name.startswith(POOLING):
            pooling = name.removeprefix(POOLING)
            faults.append(f"{'CLS' if pooling == 'cls' else pooling} pooling{texts}: must be {golden.pooling}")
        elif name.startswith(CUT):
            faults.append(f"cut at {name.removeprefix(CUT)} tokens: must be {max(golden.max_lengths.values())}")
        elif name == NFD:
            faults.append("NFD not recomposed: the client must send NFC (unicodedata.normalize), or tokenizer.json must have it")
        elif name == SPACES:
            faults.append('white space kept: the client must send " ".join(text.split()), or tokenizer.json must do it')
    return faults
