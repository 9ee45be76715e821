"""Fine-tune a Segment Anything model on a few annotated slices, and segment the rest.

::

    from medsaga import TrainingData, drain, fine_tune, segment

    model = drain(fine_tune(TrainingData("ct.nii.gz", "labels.nii.gz")), print)
    mask = drain(segment(model, "ct.nii.gz")).mask
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from medsaga.errors import MedsagaError
from medsaga.events import (
    Event,
    ItemEvent,
    ItemStarted,
    Notice,
    Preview,
    Progress,
    Relay,
    Saved,
    SegmentedSlice,
    Stop,
    Stream,
    Validated,
    VotedSlice,
    drain,
)
from medsaga.settings.fields import Setting, describe
from medsaga.settings.fine_tune import FineTuneSettings, SegmentSettings
from medsaga.settings.presets import PRESETS, preset

if TYPE_CHECKING:
    from medsaga.computing import describe_computer
    from medsaga.data.annotation import Annotation, annotated_slices
    from medsaga.data.classes import (
        ClassCount,
        ClassTable,
        class_table,
        count_background,
        count_classes,
    )
    from medsaga.data.files import (
        image_files,
        output_path,
        pair_files,
        read_labels,
        read_volume,
        write_volume,
    )
    from medsaga.data.formats.catalogue import viewer_endings
    from medsaga.data.identity import SliceId
    from medsaga.data.inputs import TrainingData, as_volume
    from medsaga.data.intensity import (
        WINDOWS,
        IntensityRule,
        looks_like_hounsfield,
    )
    from medsaga.data.structures import finest_width
    from medsaga.data.volume import (
        AXIS_NAMES,
        Volume,
        check_pair,
        slice_place,
        volume_from_array,
    )
    from medsaga.metrics import Scores, evaluate_files, score
    from medsaga.models.card import ModelCard, load_card
    from medsaga.models.folder import (
        TrainedModel,
        check_model_target,
        load_model,
        save_model,
    )
    from medsaga.models.kept_slices import kept_labels
    from medsaga.models.library import LibraryEntry, ModelLibrary
    from medsaga.network.backbones.catalogue import (
        missing_weights,
        offered_backbones,
    )
    from medsaga.preloading import warm_up
    from medsaga.segmentation.batch import ItemEnded, ItemResult, segment_batch
    from medsaga.segmentation.items import BatchItem, batch_items
    from medsaga.segmentation.outputs import OutputPlan, Outputs, actual_path
    from medsaga.segmentation.segment import Segmentation, segment
    from medsaga.training.fine_tune import fine_tune
    from medsaga.training.plan.speed import (
        Speed,
        TimeEstimate,
        estimate_time,
        measure_speed,
    )

__version__ = version("napari-medsaga")

# Names whose modules import torch, MONAI or nibabel: seconds, so only when asked for.
_LAZY = {
    "viewer_endings": "medsaga.data.formats.catalogue",
    "offered_backbones": "medsaga.network.backbones.catalogue",
    "TrainingData": "medsaga.data.inputs",
    "segment_batch": "medsaga.segmentation.batch",
    "batch_items": "medsaga.segmentation.items",
    "ItemResult": "medsaga.segmentation.batch",
    "ItemEnded": "medsaga.segmentation.batch",
    "BatchItem": "medsaga.segmentation.items",
    "AXIS_NAMES": "medsaga.data.volume",
    "Annotation": "medsaga.data.annotation",
    "ClassCount": "medsaga.data.classes",
    "ClassTable": "medsaga.data.classes",
    "IntensityRule": "medsaga.data.intensity",
    "LibraryEntry": "medsaga.models.library",
    "ModelCard": "medsaga.models.card",
    "ModelLibrary": "medsaga.models.library",
    "OutputPlan": "medsaga.segmentation.outputs",
    "Outputs": "medsaga.segmentation.outputs",
    "Scores": "medsaga.metrics",
    "Segmentation": "medsaga.segmentation.segment",
    "SliceId": "medsaga.data.identity",
    "Speed": "medsaga.training.plan.speed",
    "TimeEstimate": "medsaga.training.plan.speed",
    "TrainedModel": "medsaga.models.folder",
    "Volume": "medsaga.data.volume",
    "WINDOWS": "medsaga.data.intensity",
    "actual_path": "medsaga.segmentation.outputs",
    "annotated_slices": "medsaga.data.annotation",
    "as_volume": "medsaga.data.inputs",
    "check_model_target": "medsaga.models.folder",
    "check_pair": "medsaga.data.volume",
    "class_table": "medsaga.data.classes",
    "count_background": "medsaga.data.classes",
    "count_classes": "medsaga.data.classes",
    "describe_computer": "medsaga.computing",
    "estimate_time": "medsaga.training.plan.speed",
    "evaluate_files": "medsaga.metrics",
    "fine_tune": "medsaga.training.fine_tune",
    "finest_width": "medsaga.data.structures",
    "image_files": "medsaga.data.files",
    "kept_labels": "medsaga.models.kept_slices",
    "load_card": "medsaga.models.card",
    "load_model": "medsaga.models.folder",
    "looks_like_hounsfield": "medsaga.data.intensity",
    "measure_speed": "medsaga.training.plan.speed",
    "missing_weights": "medsaga.network.backbones.catalogue",
    "output_path": "medsaga.data.files",
    "pair_files": "medsaga.data.files",
    "read_labels": "medsaga.data.files",
    "read_volume": "medsaga.data.files",
    "save_model": "medsaga.models.folder",
    "score": "medsaga.metrics",
    "segment": "medsaga.segmentation.segment",
    "slice_place": "medsaga.data.volume",
    "volume_from_array": "medsaga.data.volume",
    "warm_up": "medsaga.preloading",
    "write_volume": "medsaga.data.files",
}

__all__ = [
    "AXIS_NAMES",
    "PRESETS",
    "WINDOWS",
    "Annotation",
    "BatchItem",
    "ClassCount",
    "ClassTable",
    "Event",
    "FineTuneSettings",
    "IntensityRule",
    "ItemEnded",
    "ItemEvent",
    "ItemResult",
    "ItemStarted",
    "LibraryEntry",
    "MedsagaError",
    "ModelCard",
    "ModelLibrary",
    "Notice",
    "OutputPlan",
    "Outputs",
    "Preview",
    "Progress",
    "Relay",
    "Saved",
    "Scores",
    "SegmentSettings",
    "Segmentation",
    "SegmentedSlice",
    "Setting",
    "SliceId",
    "Speed",
    "Stop",
    "Stream",
    "TimeEstimate",
    "TrainedModel",
    "TrainingData",
    "Validated",
    "Volume",
    "VotedSlice",
    "__version__",
    "actual_path",
    "annotated_slices",
    "as_volume",
    "batch_items",
    "check_model_target",
    "check_pair",
    "class_table",
    "count_background",
    "count_classes",
    "describe",
    "describe_computer",
    "drain",
    "estimate_time",
    "evaluate_files",
    "fine_tune",
    "finest_width",
    "image_files",
    "kept_labels",
    "load_card",
    "load_model",
    "looks_like_hounsfield",
    "measure_speed",
    "missing_weights",
    "offered_backbones",
    "output_path",
    "pair_files",
    "preset",
    "read_labels",
    "read_volume",
    "save_model",
    "score",
    "segment",
    "segment_batch",
    "slice_place",
    "viewer_endings",
    "volume_from_array",
    "warm_up",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LAZY[name]), name)
    return value
