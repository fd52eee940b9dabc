"""OpenVINO: the stateful model that optimum-intel exports, run without its Python generation loop."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from peer_comparison.records import LoadRequest, Model


@attrs.define(kw_only=True)
class OpenVinoEngine:
    """An inference request; keys and values are its state.

    Attributes:
        request: OpenVINO's `InferRequest`.
        length: tokens in the state.
    """

    request: Any
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    length: int = 0

    def begin(self, context: int) -> None:
        """Forget all tokens."""
        self.request.reset_state()
        self.length = 0

    def feed(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Continue the text: logits after the last token, float32 `[vocabulary]`."""
        last: npt.NDArray[np.float32] = self._run(tokens)[-1]
        return last

    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits after every token of a new text: float32 `[tokens, vocabulary]`."""
        self.begin(len(tokens))
        return self._run(tokens)

    def _run(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        begin, self.length = self.length, self.length + len(tokens)
        self.request.infer(
            {
                "input_ids": np.array([tokens], np.int64),
                "attention_mask": np.ones((1, self.length), np.int64),
                "position_ids": np.arange(begin, self.length, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            },
            share_inputs=True,
        )
        rows: npt.NDArray[np.float32] = self.request.get_tensor("logits").data[0]
        return rows


def prepare(model: Model, options: Mapping[str, Any]) -> None:
    """Export the float32 folder with 4-bit weights: asymmetric, groups of 32, all of them."""
    import openvino  # noqa: F401 - so that what is missing is named, and not what needs it
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    folder = _folder(model)
    if folder.is_dir():
        return
    exported = OVModelForCausalLM.from_pretrained(
        model.folder,
        export=True,
        compile=False,
        quantization_config=OVWeightQuantizationConfig(bits=4, group_size=32, sym=False, ratio=1.0),
    )
    temporary = Path(tempfile.mkdtemp(prefix=".openvino-", dir=model.work))
    try:
        exported.save_pretrained(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(request: LoadRequest) -> OpenVinoEngine:
    """Compile the exported model for the processor."""
    import openvino

    core = openvino.Core()
    model = core.read_model(_folder(request.model) / "openvino_model.xml")
    if request.purpose == "speed" and request.options["head"] == "last":
        keep_last_row(model)
    wanted = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(request.threads),
    }
    compiled = core.compile_model(model, "CPU", wanted)
    shown = (*wanted, "DYNAMIC_QUANTIZATION_GROUP_SIZE", "KV_CACHE_PRECISION")
    shown += ("INFERENCE_PRECISION_HINT",)
    return OpenVinoEngine(
        request=compiled.create_infer_request(),
        versions={name: version(name) for name in ("openvino", "optimum-intel", "nncf")},
        settings={name: _text(compiled.get_property(name)) for name in shown},
    )


def keep_last_row(model: Any) -> None:
    """Let the output head work on the last token alone, as OpenVINO GenAI does by changing the model.

    The exported model gives logits of every token, which a prompt has no use for.
    """
    from openvino import opset13 as op

    head = model.output("logits").get_node().input_value(0).get_node()
    while head.get_type_name() != "MatMul":
        head = head.input_value(0).get_node()
    last = op.slice(
        head.input_value(0),
        np.array([-1], np.int64),
        np.array([np.iinfo(np.int64).max], np.int64),
        np.array([1], np.int64),
        np.array([1], np.int64),
    )
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def _text(value: Any) -> str:
    """A setting as people know it: element types call themselves `u8` only when asked."""
    return str(value.to_string()) if hasattr(value, "to_string") else str(value)


def _folder(model: Model) -> Path:
    return model.work / "openvino-int4"
