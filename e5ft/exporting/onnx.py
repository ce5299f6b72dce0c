"""ONNX and OpenVINO files beside the weights, where other servers look for them, and what these files give when they are run.

torch's own exporter writes the graph: optimum's needs transformers 4. Opset 18 and IR 8 are what ONNX Runtime reads from 1.14 on.
Inputs are input_ids, attention_mask and, of a model with several token types, token_type_ids, (N, L) int64 each; the output is
last_hidden_state, (N, L, D) float32: pooling and normalisation are the reader's.
"""

import contextlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig

from e5ft.errors import ExportError
from e5ft.exporting.settings import FILES, QUANTISED
from e5ft.files import digest_of, digest_of_file, write_json
from e5ft.modeling.checks import first_line
from e5ft.modeling.encoder import Encoder

_OPSET, _IR = 18, 8
_OUTPUT = "last_hidden_state"
_LARGEST = 2_000_000_000  # bytes of weights in one file: protobuf ends at 2 GiB
# Seven bits a weight: on CPUs without VNNI, sums of products of eight would overflow 16 bits, silently.
_QUANTISATION = {"per_channel": True, "reduce_range": True}


def write_formats(folder: Path, formats: Sequence[str]) -> None:
    """Write the files of some formats into a folder that plain transformers reads.

    Weights of more than 2 GB are in model.onnx_data beside their model.onnx, as optimum and transformers.js call it.

    Args:
        folder: with config.json and weights.
        formats: keys of `FILES`; the other two are made from the ONNX file, which is left only where it is asked for.

    Raises:
        ExportError: torch cannot write the model as a graph.
    """
    if not formats:
        return
    for name in formats:
        (folder / FILES[name]).parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _quiet():
        plain = folder / FILES["onnx"] if "onnx" in formats else Path(scratch) / "model.onnx"
        _write_onnx(folder, plain)
        if "onnx_int8" in formats:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(plain, folder / FILES["onnx_int8"], weight_type=QuantType.QInt8, **_QUANTISATION)
        if "openvino" in formats:
            import openvino

            openvino.save_model(openvino.Core().read_model(plain), folder / FILES["openvino"], compress_to_fp16=False)


def exact_graphs(folder: Path, config: PretrainedConfig) -> Iterator[tuple[str, "Graph"]]:
    """The files in a folder that must give the weights' own vectors, by their names."""
    for name in ("onnx", "openvino"):
        if (folder / FILES[name]).is_file():
            yield FILES[name], Graph(config, folder / FILES[name])


def weigh(file: Path) -> int:
    """Bytes of a file together with those beside it that hold its weights: model.onnx_data, openvino_model.bin."""
    return sum(each.stat().st_size for each in _parts(file))


def encoder_of(encoder: Encoder, file: Path) -> Encoder:
    """The encoder with a file's hidden states in the place of its own."""
    return Encoder(Graph(encoder.config, file), encoder.tokenizer, encoder.spec, padded=True).eval()


def record_quantised(encoder: Encoder, folder: Path, probes: Sequence[str]) -> None:
    """Write down how close the int8 file's vectors are to the encoder's: their cosines over probes, as query and as passage."""
    quantised = encoder_of(encoder, folder / FILES["onnx_int8"])
    cosines = np.concatenate(
        [(quantised.encode(probes, role) * encoder.encode(probes, role)).sum(axis=1) for role in ("query", "passage")]
    )
    values = {"lowest": float(cosines.min()), "mean": float(cosines.mean())}
    write_json(folder / QUANTISED, {"file": Path(FILES["onnx_int8"]).name, "weights": "int8", **_QUANTISATION, "cosine": values})


class Graph(nn.Module):
    """A file of `FILES`, called as transformers calls a model; it runs on one core of the CPU, and may run several times at once.

    Its one parameter is the file's digest, which tells two files apart where weights do elsewhere.

    Args:
        config: transformers' configuration of the model.
        file: an .onnx, or an .xml of OpenVINO.
    """

    def __init__(self, config: PretrainedConfig, file: Path):
        super().__init__()
        self.config = config
        self.names, self._run = (_openvino if file.suffix == ".xml" else _onnxruntime)(file)
        digest = digest_of(*(digest_of_file(each) for each in _parts(file)))
        self.digest = nn.Parameter(torch.tensor(list(digest.encode()), dtype=torch.float32), requires_grad=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_) -> SimpleNamespace:
        """Hidden states of a padded batch.

        Args:
            input_ids: (N, L) int64.
            attention_mask: (N, L) int64, 0 at padding.

        Returns:
            `last_hidden_state` (N, L, D), float32.
        """
        given = (input_ids, attention_mask, torch.zeros_like(input_ids))
        feed = {name: tensor.numpy() for name, tensor in zip(_INPUTS, given, strict=True) if name in self.names}
        return SimpleNamespace(last_hidden_state=torch.from_numpy(self._run(feed)))

    def set_attn_implementation(self, name: str) -> None:
        """Do nothing: a file has one, and the configuration, which the weights' own model shares, stays as it is."""


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_Runtime = tuple[list[str], Callable[[dict[str, np.ndarray]], np.ndarray]]


def _parts(file: Path) -> list[Path]:
    return sorted(file.parent.glob(f"{file.stem}.*"))


def _onnxruntime(file: Path) -> _Runtime:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return [each.name for each in session.get_inputs()], lambda feed: session.run([_OUTPUT], feed)[0]


def _openvino(file: Path) -> _Runtime:
    import openvino

    # By itself it would compute in bfloat16 where the CPU has it.
    plain = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(file, "CPU", plain)
    names = [each.get_any_name() for each in compiled.inputs]
    return names, lambda feed: np.array(compiled.create_infer_request().infer(feed)[_OUTPUT])


class _HiddenStates(nn.Module):
    """A model that takes and returns tensors alone, by name."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state


def _write_onnx(folder: Path, file: Path) -> None:
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    # Written out, attention takes a fourth fewer operators than torch's fused one taken apart.
    model = AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters and model.config.type_vocab_size > 1
    names = _INPUTS if takes_types else _INPUTS[:2]
    ids = torch.full((2, 8), 5)  # an example; both sizes are free
    example = {name: torch.zeros_like(ids) if name == "token_type_ids" else torch.ones_like(ids) for name in names}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        program = torch.onnx.export(
            _HiddenStates(model).eval(), (), kwargs={**example, "input_ids": ids}, input_names=list(names), output_names=[_OUTPUT],
            dynamic_shapes=dict.fromkeys(names, axes), opset_version=_OPSET, dynamo=True, verbose=False,
        )  # fmt: skip
    except Exception as error:  # whatever the architecture's own code trips over
        raise ExportError(
            f"formats: torch.onnx cannot write a {model.config.model_type} model ({first_line(error.__cause__ or error)})"
        ) from error
    ClearMetadataAndDocStringPass()(program.model)  # it names this machine's folders
    program.model.ir_version = _IR
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    onnx_ir.save(program.model, file, external_data=f"{file.name}_data" if size > _LARGEST else None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters tell their own authors off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
