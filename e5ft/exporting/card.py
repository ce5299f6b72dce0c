"""The model card: front matter as the hub reads it, how to use the model without e5ft, its results, and how it was trained.

Names in it may be anybody's: in the front matter they are values of a YAML writer, in the body text and never markup.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import EvalResult, ModelCardData

from e5ft.data.lines import printable
from e5ft.exporting.snippets import snippets
from e5ft.formatting import inline, markdown_table, portable
from e5ft.settings import HUB_NAME

if TYPE_CHECKING:
    from e5ft.exporting.origin import Base
    from e5ft.modeling.encoder import Encoder

# As MTEB's results are named on the hub, in per cent.
_HUB_METRICS = {"ndcg": "ndcg", "recall": "recall", "mrr": "mrr", "map": "map", "hit": "hit_rate"}
_TAG = "e5ft"
# Of training.*: what decides the weights. The rest is about logs, checkpoints and machines.
_TRAINING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps", "lr_scheduler_type"),
    *("warmup_steps", "max_grad_norm", "bf16", "fp16"),
)


def is_ours(card: str) -> bool:
    """Whether a card was written by this module."""
    return f"\n- {_TAG}\n" in card


def language_of(texts: Iterable[str]) -> str | None:
    """The hub's code for what texts are written in, by their letters: ko, multilingual for a mix with Korean, None for others.

    Args:
        texts: a sample; a letter is Korean if it is Hangul, in syllables or jamo.
    """
    counts = Counter(unicodedata.name(c, "").startswith("HANGUL") for text in texts for c in text if c.isalpha())
    share = counts[True] / max(counts.total(), 1)
    return "ko" if share >= 0.5 else "multilingual" if share >= 0.05 else None


def hub_sets(names: object) -> list[str]:
    """Those of a setting's sources that are data sets on the hub, each once: OWNER/NAME that is no local path, or a hf:// address.

    Args:
        names: one name, a list of them, or None.
    """
    found = {}
    for name in names if isinstance(names, list | tuple) else [names]:
        if isinstance(name, str) and name.startswith("hf://datasets/"):
            name = "/".join(name.removeprefix("hf://datasets/").partition("@")[0].split("/")[:2])
        elif isinstance(name, str) and Path(name).exists():
            continue
        if isinstance(name, str) and "/" in name and HUB_NAME.fullmatch(name):
            found[name] = None
    return list(found)


def plain_card(
    title: str,
    encoder: "Encoder",
    base: "Base",
    *,
    language: str | Sequence[str] | None = None,
    datasets: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> str:
    """A model card up to how the model is used: what the vectors are, where it comes from, and how each library reads it.

    Args:
        title: of the model.
        encoder: the model.
        base: what it was made from.
        language: the hub's codes; None: the base's.
        datasets: names on the hub of what it was trained on.
        results: for the hub's own table.
    """
    language = language or list(base.language) or None
    data = ModelCardData(
        base_model=base.hub,
        base_model_relation="finetune" if base.hub else None,
        language=language,
        license=base.licence,
        datasets=list(datasets) or None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "sentence-similarity", "text-embeddings-inference", _TAG],
        model_name=printable(title) if results else None,
        eval_results=list(results) or None,
    )
    text, revision = encoder.spec.text, f" at revision {inline(base.revision)}" if base.revision else ""
    origin = base.hub if base.hub == base.name or base.hub is None else f"{base.hub} ({base.name})"
    facts = [
        f"base model: {inline(origin or base.name)}{revision}",
        f"licence: {base.licence}, the base model's" if base.licence else "licence: the base model's, which is not known here",
        f"language: {', '.join([language] if isinstance(language, str) else language) if language else 'not known here'}",
        f"vectors: {encoder.dimension} dimensions, {encoder.spec.pooling} pooling, length 1: compare them by dot product",
        f"at most {text.query_max_length} tokens of a query and {text.passage_max_length} of a passage are read",
    ]
    prefixes = json.dumps({"query": text.query_prefix, "document": text.passage_prefix}, ensure_ascii=False)
    # In JSON, not in a code span: there, an HTML entity would be read as it is written, and the prefix copied wrong.
    prefixes = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in prefixes)
    return f"""---
{data.to_yaml()}
---
# {inline(title)}, fine-tuned with e5ft

{chr(10).join(f"- {fact}" for fact in facts)}

**Prefixes are part of the model.** Queries and passages (documents) begin with, as JSON strings:

```json
{prefixes}
```

Texts are read in Unicode NFC, to which `tokenizer.json`, `sentencepiece.bpe.model` and a GGUF file bring others by themselves.
Elasticsearch must be sent NFC, and so must transformers 5 where the folder has a `sentencepiece.bpe.model`.

`golden.json` has texts and the vectors that they must give: `python -m e5ft check target=URL golden=PATH` compares a server's.

## How to use it

PATH is this folder or its name on the hub; `queries` and `passages` are lists of texts.
{_usage(encoder)}"""


def _usage(encoder: "Encoder") -> str:
    """A section a snippet."""
    parts = []
    for snippet in snippets(encoder.spec, encoder.dimension).values():
        note = f"\n{snippet.note}\n" if snippet.note else ""
        parts.append(f"\n### {snippet.title}\n\n```{snippet.language}\n{snippet.code}\n```\n{note}")
    return "".join(parts)


def model_card(encoder: "Encoder", base: "Base", settings: Mapping, summary: Mapping, told: Mapping) -> str:
    """The README.md of a run's model: the plain card, its scores, what it cost elsewhere, and how it was trained.

    Args:
        encoder: the model.
        base: before training.
        settings: of the run as plain values, without secrets.
        summary: as summary.json holds it.
        told: what the run's end says of it: "metrics", those of the table; "verdict", a line; "threshold", a line or None; "leaks"
            and "caveats", sentences; "keep", the rows of the table of the sets that must not get worse, its head first, or none.
    """
    data = settings["data"]
    files = [data["train_file"], *(source["train_file"] for source in (data["mix"] or {"sources": ()})["sources"])]
    files = [name for each in files for name in (each if isinstance(each, list | tuple) else [each])]
    card = plain_card(
        base.name,
        encoder,
        base,
        language=summary["data"]["language"],
        datasets=hub_sets(files),
        results=_results(settings, summary, told["metrics"]),
    )
    scores = [["", *told["metrics"]]]
    for entry in summary["scores"].values():
        figures = ((entry["metrics"][name], *entry["intervals"][name]) for name in told["metrics"])
        scores.append([entry["label"], *(f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, low, high in figures)])
    optimistic = " (the set that chose the checkpoint: a little optimistic)" if summary["chosen_on_test"] else ""
    notes = [f"Trained on the test: {sentence}." for sentence in told["leaks"]] + told["caveats"]
    if told["threshold"]:
        notes.append(f"From which score the first passage may be shown as the answer: {told['threshold']}.")
    card += f"""
## Scores

Of {inline(summary["test_set"])}, {summary["queries"]:,} queries among {summary["passages"]:,} passages, with 95 % intervals over queries{optimistic}.

{markdown_table(scores)}

{inline(told["verdict"])}
{"".join(f"{chr(10)}{inline(note)}{chr(10)}" for note in notes)}"""
    if told["keep"]:
        card += f"""
## What it cost elsewhere

Before and after training, with the paired difference and its interval over queries (95 %, of several sets together); kept means that it includes 0, undecided that there are too few queries, or that they chose the weights.

{markdown_table(told["keep"], text_columns=2)}
"""
    return card + _training(settings, summary)


def _training(settings: Mapping, summary: Mapping) -> str:
    """The section on how it was trained: rows, steps, which weights, and the settings that decide them."""
    training, best = summary["training"], summary["best"]
    merged = ""
    if best["alpha"] != 1:
        merged = f", {best['alpha']:g} x, and of the model before training, {1 - best['alpha']:g} x (a keep set refuted alpha 1)"
    groups = {name: settings[name] for name in ("loss", "step", "matryoshka", "keep", "optimizer")}
    groups["training"] = {name: settings["training"].get(name) for name in _TRAINING}
    groups["model"] = {"freeze": settings["model"]["freeze"]}
    if settings["model"]["lora"]["rank"] is not None:
        groups["model"]["lora"] = settings["model"]["lora"]
    rows = [["setting", "value"], *_flat(groups), ["seed", settings["seed"]]]
    return f"""
## Training

{summary["data"]["train_rows"]:,} rows of {inline(Path(str(summary["data"]["source"])).name)}; {training["steps"]:,} steps of {training["queries_per_step"]:,} queries; the weights are of step {best["step"]:,}{merged}.

{markdown_table(rows, text_columns=2)}
"""


def _flat(values: Mapping, prefix: str = "") -> list[list[str]]:
    """A row a setting that is set, by its full name."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            rows.append([prefix + name, portable(value) if isinstance(value, str) else value])
    return rows


def _results(settings: Mapping, summary: Mapping, metrics: Sequence[str]) -> list[EvalResult]:
    """The test set's scores as the hub's tables hold them: MTEB's task and names, in per cent."""
    folder, name = settings["data"]["eval_dir"], printable(summary["test_set"])
    kind = next(iter(hub_sets(folder)), None) or re.sub(r"[^\w.-]+", "-", name).strip("-") or "own"
    results = []
    for metric in metrics:
        measure, _, cutoff = metric.partition("@")
        results.append(
            EvalResult(
                task_type="Retrieval",
                dataset_type=kind,
                dataset_name=name,
                dataset_split=None if folder is None else settings["data"]["eval_split"],
                metric_type=f"{_HUB_METRICS.get(measure, measure)}_at_{cutoff}",
                metric_name=metric,
                metric_value=round(100 * summary["scores"]["after"]["metrics"][metric], 3),
            )
        )
    return results
