"""Where an interrupted training stands: safetensors and JSON, each written whole, never unpickled."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import torch
from torch import Tensor

from gemcore.errors import FormatError, UsageError
from gemcore.experts.files import map_tensors, new_folder
from gemcore.formats.json_file import read_object
from gemcore.formats.safetensors_writer import write_safetensors

if TYPE_CHECKING:
    from torch import nn

STATE_VERSION = 1
_STATE, _TENSORS = "state.json", "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


@attrs.frozen(kw_only=True)
class Standing:
    """What a training has done so far, beside its tensors.

    Attributes:
        step: optimizer steps done.
        passes: passes of the domain's texts read.
        multipliers: see `gem_experts.training.preservation`.
        before: what was measured before the first step.
        history: a record for each step that was logged.
    """

    step: int = 0
    passes: int = 0
    multipliers: Mapping[str, float] = attrs.field(factory=dict)
    before: Mapping[str, Any] = attrs.field(factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


def settings_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of what a training depends on; one with another digest is not the same training."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def save_state(
    folder: Path,
    digest: str,
    standing: Standing,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write where the training stands; `folder` is replaced by a whole new one.

    Raises:
        GemError: it cannot be written.
    """
    tensors: dict[str, Any] = {}
    for name, parameter in parameters.items():
        tensors[name] = parameter.detach().numpy()
        for moment in _MOMENTS:
            held = optimizer.state.get(parameter, {}).get(moment)
            if held is not None:
                tensors[f"{name}:{moment}"] = held.numpy()
    with new_folder(folder) as temporary:
        write_safetensors(temporary / _TENSORS, tensors)
        values = {"format_version": STATE_VERSION, "settings": digest, **attrs.asdict(standing)}
        (temporary / _STATE).write_text(json.dumps(values), encoding="utf-8")


def load_state(
    folder: Path,
    digest: str,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Standing | None:
    """Go back to where a training stood; None where there is nothing to go back to.

    Raises:
        UsageError: it was another training.
        FormatError: a file is malformed or truncated.
    """
    path = folder / _STATE
    if not path.is_file():
        return None
    values = read_object(path)
    if values.get("settings") != digest or values.get("format_version") != STATE_VERSION:
        raise UsageError(
            f"{folder} holds an unfinished training with other settings, data or versions: give the "
            "same command as then, or --restart"
        )
    tensors = map_tensors(folder / _TENSORS, ("F32",))
    try:
        fields = {name: values[name] for name in attrs.fields_dict(Standing)}
        standing = Standing(**{**fields, "history": tuple(fields["history"])})
        for name, parameter in parameters.items():
            _copy(parameter.data, tensors[name])
            if standing.step:
                moments = {
                    moment: _copy(torch.empty_like(parameter), tensors[f"{name}:{moment}"])
                    for moment in _MOMENTS
                }
                step = torch.tensor(float(standing.step))
                optimizer.state[parameter] = {"step": step, **moments}
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{folder} cannot be used: {error}; give --restart") from error
    return standing


def clear_state(folder: Path) -> None:
    """Forget an unfinished training."""
    shutil.rmtree(folder, ignore_errors=True)


def _copy(into: Tensor, values: np.ndarray[Any, Any]) -> Tensor:
    if tuple(into.shape) != values.shape:
        raise ValueError(f"a tensor has shape {list(values.shape)}, not {list(into.shape)}")
    # A copy: the file is mapped read-only.
    return into.detach().copy_(torch.from_numpy(np.array(values)))
