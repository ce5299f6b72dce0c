"""Two tasks of mteb from texts of our own, without network: retrieval and STS. Importing it needs mteb."""

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from tests.conftest import WORDS

PASSAGES = {f"d{i}": {"title": WORDS[5 * i], "text": "  ".join(WORDS[5 * i + 1 : 5 * i + 6])} for i in range(12)}
QUERIES = {f"q{i}": f" {WORDS[5 * i + 2]} \t{WORDS[7 * i + 3]}" for i in range(12)}
QRELS = {f"q{i}": {f"d{i}": 1} for i in range(12)}
PAIRS = [
    (" ".join(WORDS[i : i + 4]), " ".join(WORDS[i + shift : i + shift + 4]), 4 - shift) for i in range(9) for shift in range(1, 4)
]


def described(name: str, kind: str, main_score: str) -> TaskMetadata:
    """What mteb asks of a task beside its data."""
    return TaskMetadata(
        name=name, type=kind, main_score=main_score, description="words", reference=None,
        dataset={"path": "local/words", "revision": "1"}, category="t2t", modalities=["text"], eval_splits=["test"],
        eval_langs=["kor-Hang"], date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None,
        dialect=None, sample_creation=None, bibtex_citation=None,
    )  # fmt: skip


class WordRetrieval(AbsTaskRetrieval):
    metadata = described("WordRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, **_):
        """The passages above."""
        self.corpus, self.queries, self.relevant_docs = {"test": PASSAGES}, {"test": QUERIES}, {"test": dict(QRELS)}
        self.data_loaded = True


class WordSTS(AbsTaskSTS):
    metadata = described("WordSTS", "STS", "cosine_spearman")

    def load_data(self, **_):
        """The pairs above."""
        rows = [{"sentence1": first, "sentence2": second, "score": score} for first, second, score in PAIRS]
        self.dataset = {"test": Dataset.from_list(rows)}
        self.data_loaded = True


class Unreachable(WordSTS):
    metadata = described("Unreachable", "STS", "cosine_spearman")

    def load_data(self, **_):
        """As without network."""
        raise ConnectionError("no route to the hub\nand more")
