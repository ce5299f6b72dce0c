"""A GGUF file of the model, for llama.cpp and what is built on it (Ollama, LM Studio)."""

import os
from collections.abc import Iterator

import numpy as np

from e5ft.errors import ConfigurationError
from e5ft.exporting.xlm_roberta import SPECIAL, as_xlm_roberta, xlm_roberta_pieces
from e5ft.modeling.charsmap import recomposing
from e5ft.modeling.encoder import Encoder, positions

_ASKED = "formats=[gguf]"


def write_gguf(encoder: Encoder, file: str | os.PathLike) -> None:
    """Write weights (matrices in float16, the rest in float32), tokenizer and pooling.

    The table of characters in it recomposes NFD. Prefixes have no place in the format: whoever asks puts them on.

    Args:
        encoder: XLM-R, or a BertModel with XLM-R's pieces.
        file: to write.

    Raises:
        ConfigurationError: any other model.

    Source:
        conversion/bert.py (XLMRobertaModel) of ggml-org/llama.cpp, whose converter writes the same keys and tensors.
    """
    import gguf  # `settings.check_packages` has found it

    encoder = as_xlm_roberta(encoder, _ASKED)
    config = encoder.backbone.config
    if config.hidden_act != "gelu":
        raise ConfigurationError(f"{_ASKED}: the model's hidden_act={config.hidden_act!r}, must be gelu; leave it out")
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.BERT])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(int(positions(config)))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[encoder.spec.pooling.upper()])
    pieces, charsmap = xlm_roberta_pieces(encoder.tokenizer, _ASKED)
    kinds = dict.fromkeys((*SPECIAL, "<mask>"), gguf.TokenType.CONTROL) | {"<unk>": gguf.TokenType.UNKNOWN}
    writer.add_tokenizer_model("t5")  # llama.cpp's name for SentencePiece's Unigram
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece for piece, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([kinds.get(piece, gguf.TokenType.NORMAL) for piece, _ in pieces])
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(recomposing(charsmap))
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_sep_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_mask_token_id(len(pieces) - 1)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config.num_hidden_layers)
    for name, tensor in _tensors(encoder, len(pieces)):
        half = tensor.ndim == 2 and not name.startswith(("embeddings.position", "embeddings.token_type"))
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), tensor.astype(np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(encoder: Encoder, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """The weights by transformers' names, without what no token reaches: positions of padding, rows beyond the pieces."""
    first = encoder.backbone.config.pad_token_id + 1
    rows = {"embeddings.position_embeddings.weight": slice(first, None), "embeddings.word_embeddings.weight": slice(size)}
    for name, tensor in encoder.backbone.state_dict().items():
        yield name, tensor[rows.get(name, slice(None))].float().cpu().numpy()
