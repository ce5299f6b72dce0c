"""Generated rows with the lengths of real ones: words of the shipped sample, drawn at random, as many as the length asks for."""

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "data/tokenizer"
LEVELS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
LIMIT = 512  # tokens, as E5 has it


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Quantiles, at LEVELS, of the tokens of queries and of documents; prefix and the two special tokens included."""

    query: tuple[int, ...]
    passage: tuple[int, ...]


# Two Korean training sets, measured with data/tokenizer (8,000 pieces, 1.4 to 1.5 characters a token); mE5's own 250,002
# pieces are fewer a text, so its lengths are shorter by a fifth or so. Both contenders read the same ones. Hard negatives
# are drawn like documents: mined ones come from the same passages. `short` is made up, for many rows.
LENGTHS = {
    "ko-wiki": Lengths(
        (10, 14, 15, 17, 18, 19, 20, 21, 23, 25, 28, 31, 38, 81),
        (25, 67, 81, 97, 110, 122, 137, 150, 168, 194, 239, 292, LIMIT, LIMIT),
    ),
    "ko-prec": Lengths(
        (8, 18, 21, 26, 30, 35, 40, 45, 51, 60, 73, 87, 116, 168),
        (28, 55, 66, 86, 103, 122, 142, 166, 194, 233, 300, 363, 505, LIMIT),
    ),
    "short": Lengths((10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 16, 16), (18,) * 4 + (20,) * 4 + (24,) * 6),
}


def draw_length(quantiles: tuple[int, ...], at: float) -> int:
    """The length at a level in [0, 1), between the recorded quantiles on a straight line."""
    place = next(i for i in range(1, len(LEVELS)) if at <= LEVELS[i])
    low, high = LEVELS[place - 1], LEVELS[place]
    share = (at - low) / (high - low)
    return round(quantiles[place - 1] + share * (quantiles[place] - quantiles[place - 1]))


class Writer:
    """Distinct texts of wanted lengths.

    Args:
        tokenizer: whose tokens are counted.
        seed: of the words.
    """

    def __init__(self, tokenizer, seed: int = 0):
        self.random, self.seen = random.Random(seed), set()
        rows = [json.loads(line) for line in (ROOT / "data/sample/train.jsonl").read_text(encoding="utf-8").splitlines()]
        words = sorted({word for row in rows for word in f"{row['query']} {row['document']}".split()})
        counts = [len(ids) - 2 for ids in tokenizer(words, return_attention_mask=False)["input_ids"]]
        self.words, self.counts = words, dict(zip(words, counts, strict=True))
        self.overhead = {role: len(tokenizer(f"{role}:")["input_ids"]) for role in ("query", "passage")}

    def text(self, role: str, length: int) -> str:
        """A new text of about `length` tokens with the role's prefix, which is not part of it; a word more at most."""
        while True:
            words, missing = [], max(1, length - self.overhead[role])
            while missing > 0:
                word = self.random.choice(self.words)
                words.append(word)
                missing -= self.counts[word]
            text = " ".join(words)
            identity = hash((role, text))
            if identity not in self.seen:
                self.seen.add(identity)
                return text

    def rows(self, count: int, name: str) -> Iterator[dict]:
        """Rows of three distinct texts, one of them a hard negative, with the lengths recorded under `name`."""
        lengths = LENGTHS[name]
        for _ in range(count):
            yield {
                "query": self.text("query", draw_length(lengths.query, self.random.random())),
                "document": self.text("passage", draw_length(lengths.passage, self.random.random())),
                "hard_negative": self.text("passage", draw_length(lengths.passage, self.random.random())),
            }


def write_rows(path: Path, tokenizer, count: int, name: str, seed: int = 0) -> list[dict]:
    """Write rows as JSON lines; returns them where they are few (up to 100,000), else an empty list."""
    kept = []
    with open(path, "w", encoding="utf-8") as file:
        for row in Writer(tokenizer, seed).rows(count, name):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if count <= 100_000:
                kept.append(row)
    return kept
