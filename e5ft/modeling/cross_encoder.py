"""A cross-encoder: reads query and passage together and says with one number how well the passage answers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from e5ft.data.text import normalise
from e5ft.errors import ConfigurationError, NonFiniteError
from e5ft.modeling.checks import first_line, refuse_adapter


class CrossEncoder:
    """A sequence-classification model from a local folder, in float32.

    Args:
        path: the folder, with one label (its logit is the score) or two (the score is the log-odds of label 1).
        device: where it runs.
        max_length: tokens of query and passage together, special tokens included; the longer of the two is cut. Never
            more than the model has positions.
        batch_size: pairs a forward pass.

    Raises:
        ConfigurationError: no such folder, another number of labels, or weights that lack the classifier: transformers
            would fill it with random numbers, and its verdicts would be noise.
    """

    def __init__(self, path: str, *, device: torch.device | str = "cpu", max_length: int = 512, batch_size: int = 64):
        if not Path(path).is_dir():
            raise ConfigurationError(f"cross_encoder.path={path}: no such folder")
        self.device, self.batch_size = torch.device(device), batch_size
        self._model, self._tokenizer = _load(path, self.device)
        positions = getattr(self._model.config, "max_position_embeddings", None) or max_length
        if self._model.config.model_type in ("xlm-roberta", "roberta", "camembert"):
            positions -= self._model.config.pad_token_id + 1  # this family's positions begin there
        self.max_length = min(max_length, positions)

    @torch.inference_mode()
    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Scores of pairs.

        Args:
            queries: n raw texts.
            passages: n raw texts.

        Returns:
            (n,) float32; larger means a better answer.

        Raises:
            NonFiniteError: a score is NaN or infinite.
        """
        scores = np.empty(len(queries), dtype=np.float32)
        # By length, so that a batch holds little padding. In characters: exact lengths are not worth tokenising twice.
        order = np.argsort([-len(query) - len(passage) for query, passage in zip(queries, passages, strict=True)], kind="stable")
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            scores[chosen] = self._forward([queries[i] for i in chosen], [passages[i] for i in chosen])
        if not np.isfinite(scores).all():
            raise NonFiniteError("cross_encoder.path: a score is NaN or infinite: the model is broken")
        return scores

    def _forward(self, queries: list[str], passages: list[str]) -> np.ndarray:
        batch = self._tokenizer(
            [normalise(query) for query in queries],
            [normalise(passage) for passage in passages],
            truncation="longest_first",
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        logits = self._model(**batch).logits.float()  # (n, 1 or 2)
        scores = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return scores.cpu().numpy()


def _load(path: str, device: torch.device):
    refuse_adapter(path)
    local = dict(trust_remote_code=False, local_files_only=True)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **local)
    except Exception as error:  # broken files raise a dozen kinds, tokenizers' own a bare Exception
        raise ConfigurationError(f"cross_encoder.path={path}: not a usable model folder: {first_line(error)}") from error
    if model.config.num_labels not in (1, 2):
        raise ConfigurationError(f"cross_encoder.path={path}: {model.config.num_labels} labels; must have one or two")
    if report["missing_keys"]:
        raise ConfigurationError(
            f"cross_encoder.path={path}: its weights lack {len(report['missing_keys'])} of the model's tensors, the first "
            f"{sorted(report['missing_keys'])[0]}; must be a fine-tuned sequence-classification model"
        )
    return model.to(device).eval(), tokenizer
