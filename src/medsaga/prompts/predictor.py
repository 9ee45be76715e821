"""A resident predictor: boxes and clicks on the slices of images to masks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from medsaga.computing import (
    FixedPrecision,
    autocast,
    computing_threads,
    pick_device,
    pick_precision,
)
from medsaga.data.canvas import physical_shape
from medsaga.data.intensity import display_limits, to_unit
from medsaga.data.sizing import resize_image
from medsaga.errors import memory_explained
from medsaga.network.backbones.pretrained import load_pretrained
from medsaga.prompts.clicks import mask_around, mend
from medsaga.prompts.network import PromptNetwork
from medsaga.prompts.prompt import Prompt, PromptedMask
from medsaga.settings.presets import preset

if TYPE_CHECKING:
    from torch import Tensor

    from medsaga.data.volume import Volume
    from medsaga.windows import Size

_CACHE_MB = 256
_NOT_ENOUGH_MEMORY = "The memory is not enough: close other programs."


@dataclass(frozen=True, eq=False)
class _SeenSlice:
    """A slice as the network has seen it.

    `array` keeps the image alive by whose identity the slice is known.
    """

    array: Any
    embedding: Tensor
    content: Size
    size: Size

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the content for each of the slice's, along rows and columns."""
        return self.content[0] / self.size[0], self.content[1] / self.size[1]


class PromptPredictor:
    """Gives masks of boxes and clicks, with a Segment Anything model as it is.

    The network is loaded when it is first needed, and stays. What it saw of a slice is
    kept, so that further prompts on it cost a few hundredths of a second; the slices
    that were used longest ago are forgotten. It may be used from several threads, one
    after the other.

    Parameters
    ----------
    backbone
        A kind of the catalogue, or the path of a SAM-format checkpoint.
    cache_mb
        Memory for what was seen.
    """

    def __init__(
        self, backbone: str = preset("balanced").backbone, *, cache_mb: int = _CACHE_MB
    ) -> None:
        self._backbone, self._cache_bytes = backbone, cache_mb * 2**20
        self._device = pick_device()
        self._network: PromptNetwork | None = None
        self._precision: FixedPrecision = "fp32"
        self._seen: OrderedDict[tuple[Any, ...], _SeenSlice] = OrderedDict()
        self._lock = threading.Lock()

    def look_at(
        self,
        image: Volume,
        axis: int = 0,
        index: int = 0,
        limits: tuple[float, float] | None = None,
    ) -> None:
        """See a slice in advance; see :meth:`predict` for the parameters."""
        with self._lock, memory_explained(_NOT_ENOUGH_MEMORY):
            self._see(image, axis, index, limits)

    def predict(
        self,
        image: Volume,
        prompt: Prompt,
        *,
        axis: int = 0,
        index: int = 0,
        limits: tuple[float, float] | None = None,
    ) -> PromptedMask:
        """Give the mask of what is pointed at.

        Parameters
        ----------
        image
            The image; it is known again by its array.
        prompt
            In pixels of the slice.
        axis, index
            Slice `index` across `axis` of (z, y, x).
        limits
            Intensities that are black and white; None takes a CT's soft tissue window,
            and percentiles of other images.

        Raises
        ------
        MedsagaError
            If the prompt says nothing of the slice, there is no such slice, or the
            weights are not there.
        """
        prompt.check(image.slice_shape(axis))
        with self._lock, memory_explained(_NOT_ENOUGH_MEMORY):
            seen = self._see(image, axis, index, limits)
            return self._mask(seen, prompt)

    def _see(
        self,
        image: Volume,
        axis: int,
        index: int,
        limits: tuple[float, float] | None,
    ) -> _SeenSlice:
        image.check_slice(axis, index)
        key = (id(image.array), axis, index, limits)
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        network = self._loaded()
        picked, size = image.slice(axis, index), image.slice_shape(axis)
        height, width = physical_shape(*size, image.slice_spacing(axis))
        factor = network.side / max(height, width)
        content = max(1, round(height * factor)), max(1, round(width * factor))
        unit = to_unit(picked, limits or display_limits(image))
        with computing_threads(), autocast(self._device, self._precision):
            embedding = network.embed(resize_image(unit, content).to(self._device))
        embedding = embedding.float()
        seen = _SeenSlice(image.array, embedding, content, size)
        self._remember(key, seen)
        return seen

    def _remember(self, key: tuple[Any, ...], seen: _SeenSlice) -> None:
        self._seen[key] = seen
        room = max(1, self._cache_bytes // seen.embedding.nbytes)
        while len(self._seen) > room:
            self._seen.popitem(last=False)

    def _loaded(self) -> PromptNetwork:
        if self._network is None:
            pretrained = load_pretrained(self._backbone)
            network = PromptNetwork(pretrained).to(self._device)
            with computing_threads():
                self._precision = pick_precision(
                    "auto", network.backbone, self._device, network.side
                )
            self._network = network
        return self._network

    def _mask(self, seen: _SeenSlice, prompt: Prompt) -> PromptedMask:
        with computing_threads():
            logits, quality = self._first_mask(seen, prompt)
            found = _at_own_size(logits, seen).cpu().numpy()
        # The first click alone has made the mask.
        for click in prompt.clicks[prompt.box is None :]:
            found = mend(found, click)
        return PromptedMask(mask=found > 0, quality=quality)

    def _first_mask(self, seen: _SeenSlice, prompt: Prompt) -> tuple[Tensor, float]:
        network, (y, x) = self._loaded(), seen.scale

        def decode(boxes: Tensor) -> tuple[Tensor, Tensor]:
            logits, qualities = network.decode(
                seen.embedding, boxes.to(self._device, torch.float32)
            )
            height, width = seen.content
            return logits[:, :height, :width], qualities

        if prompt.box is None:
            click = prompt.clicks[0]
            place = click.row * y, click.column * x
            return mask_around(decode, place, seen.content, network.side)
        top, left, bottom, right = prompt.box
        box = torch.tensor([[left * x, top * y, right * x, bottom * y]])
        (logits,), (quality,) = decode(box)
        return logits, float(quality)


def _at_own_size(logits: Tensor, seen: _SeenSlice) -> Tensor:
    planes = logits[None, None]
    return F.interpolate(planes, size=seen.size, mode="bilinear", antialias=True)[0, 0]
