"""What the rows and split commands print, and the record of rows (rows.json)."""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from e5ft.retrieval.tables import aligned
from e5ft.retrieval.verdict import FEWEST
from e5ft.synthesis.chunks import Chunk, Cut
from e5ft.synthesis.documents import Left
from e5ft.synthesis.making import Made
from e5ft.synthesis.settings import MakingSettings

if TYPE_CHECKING:
    from e5ft.synthesis.generator import Generator
    from e5ft.synthesis.splitting import Parts

_EXAMPLES = 5


def opening(found: Cut, left: Left, chunks: Sequence[Chunk], copies: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The first facts: what was read, and what was cut; (name, text) of each line."""
    blank = f", {len(left.blank):,} more have no text ({_first(left.blank)})" if left.blank else ""
    yield "documents", f"{len(found.names):,}{blank}"
    if left.suffixes:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in left.suffixes.most_common(6))
        more = ", ..." * (len(left.suffixes) > 6)
        yield "note", f"files of other kinds are not read: {kinds}{more}"
    if left.unreadable:
        yield "note", f"{len(left.unreadable):,} files or rows cannot be read and are left out: {_first(left.unreadable)}"
    lengths = sorted(len(chunk.text) for chunk in chunks) or [0]
    out = [f"{len(copies):,} near-duplicates" * bool(copies), f"{len(found.short):,} too short" * bool(found.short)]
    without = f" (left out: {', '.join(filter(None, out))})" if any(out) else ""
    yield "chunks", f"{len(chunks):,}, half of them of {lengths[len(lengths) // 2]:,} characters or more{without}"


def round_trip(settings: MakingSettings) -> str:
    """What decides whether a query finds its chunk."""
    if settings.round_trip is None:
        return "none: queries that do not find their chunk stay"
    by = "BM25 alone, as no model is named (model.path=DIR)" if settings.model is None else f"{settings.model.label} and BM25"
    return f"a query must find its chunk among the first {settings.round_trip}, by {by}"


def closing(made: Made, generator: "Generator | None", output: str, overrides: Sequence[str]) -> str:
    """The last lines: queries by kind, what was left out and why, the files, and the command that goes on."""
    following = next_command(output, made.counts()["test"] > 0, overrides)
    table = [["kind", "made", "kept", "train", "dev", "test"]]
    table += [[kind, *(f"{counts[name]:,}" for name in table[0][1:])] for kind, counts in made.by_kind().items()]
    lines = ["", aligned(table), ""]
    lines += [f"  {count:>8,}  {reason}" for reason, count in made.account.dropped.most_common()]
    if generator is not None:
        parts = [", ".join(f"{count:,} {name}" for name, count in generator.counts.most_common()) or "none"]
        if generator.unusable:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in generator.unusable.most_common())
            parts.append(f"of the answers no query: {reasons}")
        if any(generator.tokens):
            parts.append(f"{generator.tokens[0]:,} tokens in, {generator.tokens[1]:,} out")
        lines.append(f"calls       {'; '.join(parts)}")
    counts = made.counts()
    if made.unit is None or not counts["test"]:
        lines.append(f"note        too few documents for an evaluation set: all {counts['train']:,} rows are for training")
    else:
        kinds = "" if made.natural else ", of all kinds: too few people's questions or headings to evaluate by these alone"
        lines.append(
            f"split       by {made.unit}: {counts['train']:,} rows to train on, {counts['dev']:,} dev, {counts['test']:,} test queries{kinds}"
        )
    files = "train.jsonl" + ", dev.jsonl" * bool(counts["dev"]) + ", eval/" * bool(counts["test"])
    return "\n".join([*lines, f"{output}: {files}, rows.json (what was left out, with examples)", f"next        {following}"])


def record(made: Made, found: Cut, left: Left, copies: Sequence[str], generator: "Generator | None") -> dict:
    """What rows.json holds: counts by kind, what was left out and why, with examples."""
    calls = None
    if generator is not None:
        calls = {"calls": dict(generator.counts), "no_query": dict(generator.unusable)}
        calls |= {"examples": generator.examples, "tokens": list(generator.tokens)}
    return {
        "documents": len(found.names),
        "chunks": len(made.chunks),
        "rows": made.counts(),
        "split_by": made.unit,
        "evaluated_by_natural_queries_alone": made.natural,
        "kinds": made.by_kind(),
        "left_out": {
            "queries": {
                reason: {"count": count, "examples": made.account.examples[reason]}
                for reason, count in made.account.dropped.most_common()
            },
            "chunks": {
                "near-duplicate": {"count": len(copies), "examples": [text[:300] for text in copies[:_EXAMPLES]]},
                "too short": {"count": len(found.short), "examples": found.short[:_EXAMPLES]},
            },
            "documents": {"without text": left.blank, "unreadable": left.unreadable, "of other kinds": dict(left.suffixes)},
        },
        "generator": calls,
    }


def next_command(output: str, is_split: bool, overrides: Sequence[str] = ()) -> str:
    """The command that trains on rows, with the model that the overrides of this one name."""
    model = [override.lstrip("+") for override in overrides if override.lstrip("+").startswith(("model=", "model."))]
    if not any(word.startswith("model=") for word in model):
        model = ["model=folder", *model] if model else ["model=e5_small"]
    words = [*model, f"data.train_file={output}/train.jsonl", *([f"data.eval_dir={output}/eval"] if is_split else [])]
    return shlex.join(["python", "train.py", *words])


def split_closing(parts: "Parts", output: str) -> str:
    """What became of rows, and the command that goes on."""
    counts = parts.counts()
    near = (
        f"nearly one ({counts['near_duplicate_queries']:,} pairs of queries, {counts['near_duplicate_documents']:,} of documents)"
    )
    few = min(counts["dev_queries"], counts["test_queries"])
    dev, test = (f"{counts[part]:,} {part} ({counts[f'{part}_queries']:,} different queries)" for part in ("dev", "test"))
    lines = [
        f"split       {counts['train']:,} rows to train on, {dev}, {test}",
        *[f"note        fewer than {FEWEST} dev or test queries decide nothing: test_share=0.3 data.dev_share=0.3"]
        * (few < FEWEST),
        f"groups      {counts['groups']:,} that share a query or document, or {near}: each in one part",
        f"{output}: train.jsonl, dev.jsonl, test.jsonl, eval/ (dev and test, among all documents), split.json",
        f"next        {next_command(output, True)}",
    ]
    return "\n".join(["", *lines])


def _first(names: Sequence[str]) -> str:
    return names[0] + ", ..." * (len(names) > 1)
