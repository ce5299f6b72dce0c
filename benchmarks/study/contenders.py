"""sentence-transformers on the same rows, weights and epochs: as its documentation trains retrievers, and tuned on dev."""

import dataclasses
from pathlib import Path

from benchmarks.study.factors import Recipe

SAVED = {"query": "query: ", "document": "passage: "}  # without them the folder would be measured without prefixes
PROMPTS = {"anchor": SAVED["query"], "positive": SAVED["document"], "negative": SAVED["document"]}


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to train with sentence-transformers.

    Attributes:
        loss: MNRL (MultipleNegativesRankingLoss) or CachedGIST (CachedGISTEmbedLoss, guided by the base). Both: warm-up over a
            tenth of the steps, linear decay, no duplicates in a batch.
        temperature: what cosines are divided by, the inverse of MNRL's scale.
        queries: of a batch.
        lr: the learning rate at its height.
    """

    loss: str
    temperature: float
    queries: int
    lr: float

    @property
    def name(self) -> str:
        """Every field: one folder a contender."""
        return f"{self.loss},step={self.queries},lr={self.lr:g},t={self.temperature:g}"


DOCUMENTED = {"MNRL": Contender("MNRL", 0.05, 16, 2e-5), "CachedGIST": Contender("CachedGIST", 0.01, 128, 2e-5)}
# What dev chooses from beside it: the temperature and the rate that suit E5 by our own study. MNRL with 32 texts of 512 tokens a
# batch takes more than 24 GB.
TUNED = {
    "MNRL": (Contender("MNRL", 0.01, 16, 6e-5), Contender("MNRL", 0.01, 16, 2e-5)),
    "CachedGIST": (Contender("CachedGIST", 0.01, 128, 6e-5), Contender("CachedGIST", 0.01, 32, 6e-5)),
}


def train(contender: Contender, base: Path, rows: list[dict], recipe: Recipe, output: Path, bf16: bool) -> None:
    """Train and save one contender.

    Args:
        contender: loss, temperature, batch and rate.
        base: the model before training.
        rows: {"query", "document"} and, where they were mined, "hard_negative".
        recipe: whose epochs and seed are taken.
        output: the folder to write.
        bf16: as ours.
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.training_args import BatchSamplers

    model, cached = SentenceTransformer(str(base), prompts=SAVED, device="cpu"), contender.loss == "CachedGIST"
    model.max_seq_length = min(model.max_seq_length or 512, 512)
    columns = {"anchor": [row["query"] for row in rows], "positive": [row["document"] for row in rows]}
    if "hard_negative" in rows[0]:
        columns["negative"] = [row["hard_negative"] for row in rows]
    if cached:
        guide = SentenceTransformer(str(base), device="cpu")
        loss = losses.CachedGISTEmbedLoss(model, guide, temperature=contender.temperature, mini_batch_size=16)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=1 / contender.temperature)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output) + ".work", num_train_epochs=recipe.epochs, per_device_train_batch_size=contender.queries,
        learning_rate=contender.lr, warmup_steps=0.1, bf16=bf16, use_cpu=True, seed=recipe.seed, save_strategy="no", report_to="none",
        batch_sampler=BatchSamplers.NO_DUPLICATES, prompts={column: PROMPTS[column] for column in columns}, disable_tqdm=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss).train()
    model.save_pretrained(str(output))
