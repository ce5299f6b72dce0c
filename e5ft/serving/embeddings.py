"""`/v1/embeddings` in OpenAI's form: a request's values in, the response's values out.

Texts come with the prefix that the client chose: none is added here.

Source: OpenAI's API reference, Create embeddings (https://platform.openai.com/docs/api-reference/embeddings/create).
"""

import base64
import json

import numpy as np

from e5ft.data.text import normalise, tokenize
from e5ft.modeling.encoder import Encoder, EncoderSpec
from e5ft.settings import shown

MOST_TEXTS = 2048  # of one request, as OpenAI has it


class RefusedRequestError(Exception):
    """A request that cannot be answered.

    Args:
        message: for the client.
        parameter: the field that is wrong; None: the request as a whole.
        status: of the HTTP response.
        code: OpenAI's word for the fault, where clients look for one.
    """

    def __init__(self, message: str, parameter: str | None = None, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.message, self.parameter, self.status, self.code = message, parameter, status, code


def error_values(
    message: str, parameter: str | None = None, code: str | None = None, kind: str = "invalid_request_error"
) -> dict:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}


def embed(encoder: Encoder, name: str, body: bytes) -> dict:
    """Answer a request.

    Args:
        encoder: the model.
        name: under which it is served.
        body: JSON {input, model, encoding_format, dimensions, user}; only input must be there.

    Returns:
        The response's values: unit vectors in the order of the texts, as lists or as base64 of little-endian float32, and the
        tokens that were read.

    Raises:
        RefusedRequestError: a field is missing, unknown or wrong.
    """
    values = _values(body)
    texts = _texts(values["input"])
    form, size = values.get("encoding_format") or "float", values.get("dimensions")
    if form not in ("float", "base64"):
        raise RefusedRequestError(f"encoding_format={shown(form)}: must be float or base64", "encoding_format")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= encoder.dimension):
        raise RefusedRequestError(f"dimensions={shown(size)}: must be a whole number from 1 to {encoder.dimension}", "dimensions")
    if values.get("model") not in (None, "", name):
        message = f"model={shown(values['model'])}: must be {name!r}, or left out"
        raise RefusedRequestError(message, "model", 404, "model_not_found")
    text = encoder.spec.text
    length = max(text.query_max_length, text.passage_max_length)  # servers know one length, not one a role
    tokens = tokenize(encoder.tokenizer, [_as_sent(each, encoder.spec) for each in texts], length)["input_ids"]
    vectors = encoder.encode_tokens(tokens)
    if size is not None:
        cut = vectors[:, :size]
        vectors = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
    shape = _base64 if form == "base64" else np.ndarray.tolist
    data = [{"object": "embedding", "index": index, "embedding": shape(vector)} for index, vector in enumerate(vectors)]
    read = sum(map(len, tokens))
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": read, "total_tokens": read}}


def _values(body: bytes) -> dict:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise RefusedRequestError(f"the body must be a JSON object, not {shown(values)}")
    unknown = values.keys() - {"input", "model", "encoding_format", "dimensions", "user"}
    if unknown:
        raise RefusedRequestError(f"{min(unknown)}: no such field", min(unknown))
    if "input" not in values:
        raise RefusedRequestError("input: must be given, a string or a list of strings", "input")
    return values


def _texts(given: object) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not 1 <= len(texts) <= MOST_TEXTS:
        raise RefusedRequestError(f"input: must be a string or a list of 1 to {MOST_TEXTS:,} strings", "input")
    for number, text in enumerate(texts):
        place = f"input[{number}]"
        if isinstance(text, int | list):
            what = "are another tokenizer's tokens; must be text (LangChain: check_embedding_ctx_length=False)"
            raise RefusedRequestError(f"{place}: {what}", "input")
        if not isinstance(text, str) or not text:
            raise RefusedRequestError(f"{place}: must be a string that is not empty", "input")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise RefusedRequestError(f"{place}: holds half of a surrogate pair, which is no character", "input")
    return texts


def _as_sent(text: str, spec: EncoderSpec) -> str:
    """A text as it was sent, normalised behind the prefix that it carries: an instruction's line end is part of it."""
    for prefix in (spec.text.query_prefix, spec.text.passage_prefix):
        if prefix and text.startswith(prefix):
            return prefix + normalise(text.removeprefix(prefix))
    return normalise(text)


def _base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
