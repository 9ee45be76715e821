"""SAM-format weights: what is in a file, and how it is loaded into a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from zipfile import ZipFile, is_zipfile

import torch
from torch import Tensor, nn

from medsaga.errors import MedsagaError
from medsaga.network.backbones.attention import (
    resize_positions,
    resize_relative_positions,
)
from medsaga.network.filling import alone, read_safetensors
from medsaga.wording import shown

if TYPE_CHECKING:
    from pathlib import Path


_PLAIN_TYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
_MOST_WRAPPINGS = 8
# Bytes that a tensor may have more than are stored of it, as one of equal rows has.
_LARGEST_STRETCHED = 2**28


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a SAM-format file into the CPU's memory, each its own.

    Floating-point numbers become fp32.

    Parameters
    ----------
    path
        A torch file, of which no code is ever run, or safetensors, told by its
        content. Weights inside ``{"model": ...}`` or ``{"state_dict": ...}`` are found,
        and a leading ``module.`` is dropped from their names.

    Raises
    ------
    MedsagaError
        If the file cannot be read, has no SAM image encoder in it, or a weight is no
        plain tensor or not finite.
    """
    advice = "pass a file with the weights of a Segment Anything model."
    if not path.is_file():
        raise MedsagaError(f"There is no file {path}: {advice}")
    try:
        if _is_safetensors(path):
            content: object = {
                name: tensor.clone() for name, tensor in read_safetensors(path)
            }
        else:
            _check_size(path)
            with path.open("rb") as file:  # by a path it would go by the name
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise MedsagaError(
            f"{path} cannot be read as weights, or holds more than weights: {advice}"
        ) from error
    state = {
        name.removeprefix("module."): value
        for name, value in _unwrap(content).items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    del content  # what is converted shall not be kept beside
    if not any(name.startswith("image_encoder.") for name in state):
        raise MedsagaError(f"{path} has no SAM image encoder in it: {advice}")
    for name, tensor in state.items():
        if what := _oddity(tensor):
            raise MedsagaError(f"{shown(name)} in {path} is {what}: {advice}")
    taken: set[int] = set()
    for name, tensor in state.items():
        state[name] = alone(_in_single(tensor), taken)
    check_is_finite(state, path)
    return state


def _in_single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_safetensors(path: Path) -> bool:
    """Tell it by its content: the length of a header, and the header's bracket."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def _check_size(path: Path) -> None:
    """Refuse a zip file that becomes far more than it is: torch packs nothing."""
    if not is_zipfile(path):
        return
    with ZipFile(path) as file:
        unpacked = sum(member.file_size for member in file.infolist())
    if unpacked > 2 * path.stat().st_size:
        raise ValueError(f"{unpacked} bytes")


def _oddity(tensor: Tensor) -> str | None:
    """Say what makes of a tensor something else than plain numbers, all in the file."""
    if tensor.is_meta:
        return "without its numbers"
    if tensor.is_nested or tensor.layout != torch.strided:
        return "a sparse or nested tensor"
    if tensor.is_quantized or tensor.dtype not in _PLAIN_TYPES:
        return f"of the type {tensor.dtype}"
    n_bytes = tensor.numel() * tensor.element_size()
    if n_bytes > max(tensor.untyped_storage().nbytes(), _LARGEST_STRETCHED):
        return "larger than what the file holds of it"
    return None


def check_is_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights of which a tensor holds NaN or infinity, by its name.

    Raises
    ------
    MedsagaError
        If there is one.
    """
    for name, tensor in weights.items():
        if not (tensor.is_floating_point() and tensor.numel()):
            continue
        # NaN is the least and the largest of all. That of each number is asked would
        # take as much memory again.
        ends = torch.stack(torch.aminmax(tensor))
        # The network counts in single precision, which ends earlier than double.
        if not ends.float().isfinite().all():
            raise MedsagaError(
                f"The weights in {path} are not finite (NaN or infinity) in "
                f"{shown(name)}: "
                "get the file again, or train the model anew."
            )


def _unwrap(content: object) -> Mapping[object, object]:
    """Give the mapping that holds the tensors, out of a training's own wrapping."""
    for _ in range(_MOST_WRAPPINGS):  # one may be wrapped in itself
        if not isinstance(content, Mapping):
            return {}
        inner = (content.get(key) for key in ("model", "state_dict"))
        wrapped = next((one for one in inner if isinstance(one, Mapping)), None)
        if wrapped is None:
            return content
        content = wrapped
    return {}


class Mismatch(NamedTuple):
    """A tensor whose shape in the file does not fit the model."""

    name: str
    in_file: tuple[int, ...]
    in_model: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each tensor of the model and of the file.

    Attributes
    ----------
    loaded
        Names that were loaded, those of `resized` among them.
    resized
        Position tables of another length, interpolated to fit.
    missing
        Names that the model has and the file has not.
    unused
        Names that the file has and the model has not.
    mismatched
        Tensors of another shape, left as they were in the model.
    """

    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[Mismatch, ...]

    @property
    def n_wanted(self) -> int:
        """How many tensors the model has."""
        return len(self.loaded) + len(self.missing) + len(self.mismatched)

    def describe(self) -> str:
        """One or two sentences for the user."""
        sentence = f"Loaded {len(self.loaded)} of the model's {self.n_wanted} tensors"
        if self.resized:
            sentence += f", {len(self.resized)} of them interpolated to fit"
        shapes = tuple(
            f"{name} {in_file} instead of {in_model}"
            for name, in_file, in_model in self.mismatched
        )
        remarks = [
            f"{what}: {_shorten(names)}"
            for what, names in (
                ("not in the file", self.missing),
                ("of another shape or type", shapes),
                ("in the file but not in the model", self.unused),
            )
            if names
        ]
        if not remarks:
            return f"{sentence}."
        listed = "; ".join(remarks)
        return f"{sentence}. {listed[0].upper()}{listed[1:]}."


def _shorten(names: tuple[str, ...], most: int = 3) -> str:
    listed = ", ".join(shown(name, 120) for name in names[:most])
    more = len(names) - most
    return f"{listed} and {more} more" if more > 0 else listed


def load_matching(module: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Load every tensor that fits a module in name and shape, and say which do not.

    Position embeddings and relative-position tables of another length are interpolated.

    Parameters
    ----------
    module
        Its parameters and buffers are replaced.
    state
        Tensors by the module's names for them. Where it can be, they become the
        module's own, and are not copied.
    """
    wanted = module.state_dict()
    fitted = {
        name: _fit(name, state[name], tensor)
        for name, tensor in wanted.items()
        if name in state
    }
    taken: set[int] = set()
    loaded = {
        name: alone(tensor.to(wanted[name].dtype), taken)
        for name, tensor in fitted.items()
        if tensor is not None
    }
    module.load_state_dict(loaded, strict=False, assign=True)
    return LoadReport(
        loaded=tuple(loaded),
        resized=tuple(n for n in loaded if state[n].shape != wanted[n].shape),
        missing=tuple(name for name in wanted if name not in state),
        unused=tuple(name for name in state if name not in wanted),
        mismatched=tuple(
            Mismatch(name, tuple(state[name].shape), tuple(wanted[name].shape))
            for name in fitted
            if name not in loaded
        ),
    )


def _fit(name: str, tensor: Tensor, wanted: Tensor) -> Tensor | None:
    """Give the tensor in the shape that is wanted, None if it cannot have it."""
    shape = wanted.shape
    if wanted.is_floating_point() and not tensor.is_floating_point():
        return None  # cut to whole numbers, it says nothing
    if tensor.shape == shape:
        return tensor
    is_table = 0 < tensor.dim() == len(shape) and tensor.numel() > 0
    if not is_table or tensor.shape[-1] != shape[-1]:
        return None
    if name.endswith("pos_embed") and tensor.dim() == 4:
        return resize_positions(tensor.float(), (shape[1], shape[2]))
    if name.endswith(("rel_pos_h", "rel_pos_w")):
        return resize_relative_positions(tensor.float(), shape[0])
    return None
