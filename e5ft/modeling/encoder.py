"""The encoder turns texts into unit vectors. Pooling, text format and weights travel together."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from e5ft.data.text import TextSpec, tokenize
from e5ft.errors import ConfigurationError
from e5ft.modeling import cpu
from e5ft.modeling.attention import UNPADDED, with_one_cast
from e5ft.modeling.dropout import with_cheap_masks
from e5ft.modeling.pooling import POOLINGS

# Where the first position id of a text lies: RoBERTa's family counts from its padding index + 1, BERT from 0.
_ROBERTA_FAMILY = ("xlm-roberta", "roberta", "camembert")
BATCH_TOKENS = 16384  # of one forward pass, unless given
UNPADDED_MODELS = ("bert", *_ROBERTA_FAMILY)


@dataclasses.dataclass(frozen=True)
class EncoderSpec:
    """What, beside the weights, decides a vector.

    Attributes:
        pooling: a name in `POOLINGS`; E5's is "mean".
        text: prefixes and lengths.
        origin: where these come from, in words for a run's header; no part of what they are.
    """

    pooling: str = "mean"
    text: TextSpec = TextSpec()
    origin: str = dataclasses.field(default="", compare=False)

    def __post_init__(self):
        if self.pooling not in POOLINGS:
            raise ConfigurationError(f"model.pooling={self.pooling!r}: must be one of {', '.join(POOLINGS)}")

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {"pooling": self.pooling, "text": self.text.to_dict()}

    def __str__(self) -> str:
        """Both in words: mean pooling, 'query: ' / 'passage: ', 512 tokens: recorded by the model."""
        text = self.text
        lengths = " / ".join(dict.fromkeys((str(text.query_max_length), str(text.passage_max_length))))
        words = f"{self.pooling} pooling, {text.query_prefix!r} / {text.passage_prefix!r}, {lengths} tokens"
        return f"{words}: {self.origin}" if self.origin else words


class Encoder(nn.Module):
    """A transformer encoder with pooling and L2 normalisation.

    Args:
        backbone: a BERT- or RoBERTa-style model without a head. Its pooler, which no vector uses, is taken off while
            training (DDP would wait for its gradient) and put back when saving.
        tokenizer: its fast tokenizer.
        spec: pooling and text format.
        padded: True forces the padded path; None takes the unpadded one where the model allows it.

    Raises:
        ConfigurationError: the text format asks for more tokens than the model has positions.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        spec: EncoderSpec,
        padded: bool | None = None,
    ):
        super().__init__()
        self.backbone, self.tokenizer, self.spec = backbone, tokenizer, spec
        supported = backbone.config.model_type in UNPADDED_MODELS and not _is_decoder(backbone.config)
        if padded is False and not supported:
            raise ConfigurationError(
                f"model.attention=unpadded: not supported for model type {backbone.config.model_type!r}; use model.attention=auto"
            )
        self.padded = not supported if padded is None else padded
        self.backbone.set_attn_implementation("sdpa" if self.padded else UNPADDED)
        with_cheap_masks(self.backbone)
        with_one_cast(self.backbone)
        # In a list, so that nn.Module does not register it: its parameters get no gradient, and DDP would wait for one.
        self.pooler = [getattr(backbone, "pooler", None)]
        if self.pooler[0] is not None:
            backbone.pooler = None
        self._first_position = _first_position(backbone.config)
        self._check_lengths()

    @property
    def config(self):
        """The backbone's configuration (transformers.Trainer reads it)."""
        return self.backbone.config

    @property
    def _no_split_modules(self) -> list[str]:
        """Names of the classes of which accelerate shards each module by itself."""
        return self.backbone._no_split_modules

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.backbone.parameters()).device

    @property
    def dimension(self) -> int:
        """Length of a vector, D."""
        return self.backbone.config.hidden_size

    def _check_lengths(self):
        room = positions(self.backbone.config)
        for field in ("query_max_length", "passage_max_length"):
            value = getattr(self.spec.text, field)
            if value > room:
                raise ConfigurationError(f"model.text.{field}={value}: this model has {room} positions; set it to at most {room}")

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict | None = None, **kwargs) -> None:
        """Recompute layers in the backward pass instead of keeping them (called by transformers.Trainer)."""
        activation_checkpointing_kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        self.backbone.activation_checkpointing_enable(activation_checkpointing_kwargs, **kwargs)

    def forward(self, input_ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Embed texts laid end to end.

        Args:
            input_ids: (T,) int, token ids of N texts one after another, special tokens included.
            lengths: N positive ints that sum to T, on the host.

        Returns:
            (N, D) float32 vectors of length 1, in the order of the texts.
        """
        lengths = tuple(int(n) for n in lengths)
        hidden = self._hidden_padded(input_ids, lengths) if self.padded else self._hidden_unpadded(input_ids, lengths)
        with torch.autocast(hidden.device.type, enabled=False):
            sizes = torch.tensor(lengths).to(hidden.device, non_blocking=True)
            pooled = POOLINGS[self.spec.pooling].flat(hidden.float(), sizes)  # (T, D) -> (N, D)
            return nn.functional.normalize(pooled, dim=-1)

    def _hidden_unpadded(self, input_ids, lengths):
        if self.backbone.config._attn_implementation != UNPADDED:
            # Another model may share the configuration object; any other implementation would mix the texts silently.
            raise RuntimeError(f"the backbone's attention was changed to {self.backbone.config._attn_implementation!r}")
        device = input_ids.device
        starts = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths) + self._first_position
        wide = torch.from_numpy(starts).to(device, non_blocking=True)
        borders = wide.int()
        output = self.backbone(
            input_ids=input_ids.unsqueeze(0),
            position_ids=torch.from_numpy(positions).to(device, non_blocking=True).unsqueeze(0),
            cu_seq_lens_q=borders,
            cu_seq_lens_k=borders,
            max_length_q=max(lengths),
            max_length_k=max(lengths),
            text_lengths=lengths,
            text_borders=wide,
        )
        return output.last_hidden_state[0]  # (1, T, D) -> (T, D)

    def _hidden_padded(self, input_ids, lengths):
        pieces = input_ids.split(lengths)
        padding = self.tokenizer.pad_token_id  # the tokenizer's, never the config's: mE5-small's config is wrong
        padded = nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=padding)  # (N, L)
        mask = torch.arange(padded.shape[1])[None, :] < torch.tensor(lengths)[:, None]
        mask = mask.to(padded.device)
        positions = (torch.arange(padded.shape[1], device=padded.device) + self._first_position).expand_as(padded)
        extra = {"position_ids": positions} if self.backbone.config.model_type in UNPADDED_MODELS else {}
        output = self.backbone(input_ids=padded, attention_mask=mask.long(), **extra)
        return output.last_hidden_state[mask]  # (N, L, D) -> (T, D)

    def tokenize(self, texts: Sequence[str], role: str) -> list[list[int]]:
        """Cut texts into token ids, under the text format.

        Args:
            texts: raw texts; normalised and prefixed here.
            role: "query" or "passage".

        Returns:
            A list of ids for each text, special tokens included, cut to the role's maximum length.
        """
        if role not in ("query", "passage"):
            raise ValueError(f"role={role!r}: must be 'query' or 'passage'")
        if not texts:
            return []
        text = self.spec.text
        prepare, limit = (text.query, text.query_max_length) if role == "query" else (text.passage, text.passage_max_length)
        return tokenize(self.tokenizer, [prepare(t) for t in texts], limit)["input_ids"]

    @torch.no_grad()
    def encode(self, texts: Iterable[str], role: str, *, batch_tokens: int = BATCH_TOKENS, window: int = 4096) -> np.ndarray:
        """Vectors of a list of texts, without gradient and without dropout.

        Args:
            texts: raw texts.
            role: "query" or "passage".
            batch_tokens: tokens of a forward pass (at least one text), on a CPU of those of all cores; bounds the memory.
            window: texts that are sorted by length together, so that attention runs over even lengths.

        Returns:
            (n, D) float32, in the order of the texts.
        """
        texts = list(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), window):
            tokens = self.tokenize(texts[start : start + window], role)
            vectors[start : start + window] = self.encode_tokens(tokens, batch_tokens=batch_tokens)
        return vectors

    @torch.no_grad()
    def encode_tokens(self, tokens: Sequence[Sequence[int] | np.ndarray], *, batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
        """As `encode`, of texts that `tokenize` has cut into tokens before."""
        vectors = np.empty((len(tokens), self.dimension), dtype=np.float32)
        sizes = [len(ids) for ids in tokens]
        device, on_cpu = self.device, self.device.type == "cpu"

        def work(batch: list[int]) -> None:
            """Fill in the vectors of the texts of these numbers."""
            flat = torch.from_numpy(np.concatenate([np.asarray(tokens[n], dtype=np.int64) for n in batch]))
            vectors[batch] = self(flat.to(device), [sizes[n] for n in batch]).float().cpu().numpy()

        order = sorted(range(len(tokens)), key=sizes.__getitem__, reverse=True)
        batches = pack(order, sizes, cpu.batch_tokens(sum(sizes), batch_tokens) if on_cpu else batch_tokens)
        was_training = self.training
        self.eval()
        try:
            if on_cpu:
                with cpu.packed(self.backbone, sum(sizes)):
                    cpu.on_every_core(work, list(batches))
            else:
                for batch in batches:
                    work(batch)
        finally:
            self.train(was_training)
        if on_cpu and sum(sizes) >= cpu.TOKENS:
            cpu.release_freed_memory()
        return vectors


def pack(order: Sequence[int], sizes: Sequence[int], limit: int) -> Iterable[list[int]]:
    """Cut a sequence of items into runs whose sizes sum to at most `limit` (a larger item stands alone)."""
    batch, total = [], 0
    for item in order:
        if batch and total + sizes[item] > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += sizes[item]
    if batch:
        yield batch


def positions(config) -> float:
    """How many tokens of a text a model has positions for; infinite where it counts none."""
    return (getattr(config, "max_position_embeddings", None) or math.inf) - _first_position(config)


def _first_position(config) -> int:
    return config.pad_token_id + 1 if config.model_type in _ROBERTA_FAMILY else 0


def _is_decoder(config) -> bool:
    return bool(getattr(config, "is_decoder", False) or getattr(config, "is_encoder_decoder", False))
