"""Fine-tune a Segment Anything model on a few annotated slices, and segment the rest.

::

    from medsaga import drain, fine_tune, segment

    model = drain(fine_tune("ct.nii.gz", "labels.nii.gz"), print)
    mask = drain(segment(model, "ct.nii.gz")).mask
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from medsaga.errors import MedsagaError
from medsaga.events import (
    Event,
    Notice,
    Preview,
    Progress,
    Saved,
    SegmentedSlice,
    Stop,
    Stream,
    Validated,
    drain,
)
from medsaga.settings import (
    PRESETS,
    FineTuneSettings,
    SegmentSettings,
    Setting,
    describe,
    preset,
)

if TYPE_CHECKING:
    from medsaga.data.classes import ClassTable
    from medsaga.data.files import (
        image_files,
        output_path,
        pair_files,
        read_labels,
        read_volume,
        write_volume,
    )
    from medsaga.data.volume import AXIS_NAMES, Volume, volume_from_array
    from medsaga.metrics import Scores, evaluate_files, score
    from medsaga.model_card import ModelCard, load_card
    from medsaga.model_folder import (
        TrainedModel,
        check_model_target,
        load_model,
        save_model,
    )
    from medsaga.segmentation import Segmentation, segment
    from medsaga.training.fine_tune import fine_tune

__version__ = version("napari-medsaga")

# Names whose modules import torch, MONAI or nibabel: seconds, so only when asked for.
_LAZY = {
    "AXIS_NAMES": "medsaga.data.volume",
    "ClassTable": "medsaga.data.classes",
    "ModelCard": "medsaga.model_card",
    "Scores": "medsaga.metrics",
    "Segmentation": "medsaga.segmentation",
    "TrainedModel": "medsaga.model_folder",
    "Volume": "medsaga.data.volume",
    "check_model_target": "medsaga.model_folder",
    "evaluate_files": "medsaga.metrics",
    "fine_tune": "medsaga.training.fine_tune",
    "image_files": "medsaga.data.files",
    "load_card": "medsaga.model_card",
    "load_model": "medsaga.model_folder",
    "output_path": "medsaga.data.files",
    "pair_files": "medsaga.data.files",
    "read_labels": "medsaga.data.files",
    "read_volume": "medsaga.data.files",
    "save_model": "medsaga.model_folder",
    "score": "medsaga.metrics",
    "segment": "medsaga.segmentation",
    "volume_from_array": "medsaga.data.volume",
    "write_volume": "medsaga.data.files",
}

__all__ = [
    "AXIS_NAMES",
    "PRESETS",
    "ClassTable",
    "Event",
    "FineTuneSettings",
    "MedsagaError",
    "ModelCard",
    "Notice",
    "Preview",
    "Progress",
    "Saved",
    "Scores",
    "SegmentSettings",
    "Segmentation",
    "SegmentedSlice",
    "Setting",
    "Stop",
    "Stream",
    "TrainedModel",
    "Validated",
    "Volume",
    "__version__",
    "check_model_target",
    "describe",
    "drain",
    "evaluate_files",
    "fine_tune",
    "image_files",
    "load_card",
    "load_model",
    "output_path",
    "pair_files",
    "preset",
    "read_labels",
    "read_volume",
    "save_model",
    "score",
    "segment",
    "volume_from_array",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value
