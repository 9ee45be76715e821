from .computing import describe_computer as describe_computer
from .computing import has_gpu as has_gpu
from .data.annotation import annotated_slices as annotated_slices
from .data.canvas import Canvas as Canvas
from .data.classes import ClassTable as ClassTable
from .data.files import possible_outputs as possible_outputs
from .data.formats.catalogue import viewer_endings as viewer_endings
from .data.identity import SliceId as SliceId
from .data.intensity import WINDOWS as WINDOWS
from .data.intensity import display_limits as display_limits
from .data.intensity import looks_like_hounsfield as looks_like_hounsfield
from .data.matching import check_pair as check_pair
from .data.survey import ClassCount as ClassCount
from .data.survey import survey_annotation as survey_annotation
from .data.volume import AXIS_NAMES as AXIS_NAMES
from .data.volume import slice_place as slice_place
from .doctor.examination import examine as examine
from .doctor.facts import Facts as Facts
from .doctor.problems import notes as notes
from .doctor.problems import problems as problems
from .metrics import distinct_values as distinct_values
from .models.kept_slices import kept_labels as kept_labels
from .models.library import LibraryEntry as LibraryEntry
from .models.run_record import RunRecord as RunRecord
from .models.run_record import run_differences as run_differences
from .models.target import ModelTarget as ModelTarget
from .network.backbones.catalogue import missing_weights as missing_weights
from .network.backbones.catalogue import offered_backbones as offered_backbones
from .network.backbones.checkpoints import weights_folder as weights_folder
from .network.backbones.weight_files import WeightFile as WeightFile
from .network.backbones.weight_files import fetch_weights as fetch_weights
from .network.backbones.weight_files import import_weights as import_weights
from .network.backbones.weight_files import verify_weights as verify_weights
from .network.backbones.weight_files import weight_files as weight_files
from .preloading import patient_threads as patient_threads
from .preloading import warm_up as warm_up
from .segmentation.batch import ItemEnded as ItemEnded
from .segmentation.cluster import connect_cluster as connect_cluster
from .segmentation.items import BatchItem as BatchItem
from .segmentation.items import batch_items as batch_items
from .segmentation.items import left_out as left_out
from .segmentation.items import left_without_partner as left_without_partner
from .segmentation.measures import ClassMeasure as ClassMeasure
from .segmentation.measures import measure_classes as measure_classes
from .settings.fields import Setting as Setting
from .settings.fields import describe as describe
from .training.plan.memory import MemoryPlan as MemoryPlan
from .training.plan.memory import plan_memory as plan_memory
from .training.plan.speed import Speed as Speed
from .training.plan.speed import TimeEstimate as TimeEstimate
from .training.plan.speed import estimate_time as estimate_time
from .training.plan.speed import measure_speed as measure_speed
from .training.ranks import Ranks as Ranks
from .training.ranks import join_ranks as join_ranks
from .training.resuming.folders import state_folder as state_folder
from .training.resuming.interrupted import Interrupted as Interrupted
from .training.resuming.interrupted import (
    discard_interrupted as discard_interrupted,
)
from .training.resuming.interrupted import (
    trainings_under_way as trainings_under_way,
)
from .training.resuming.interrupted import (
    unreadable_trainings as unreadable_trainings,
)
from .training.resuming.keeping import KeptModel as KeptModel
from .training.resuming.keeping import keep_model as keep_model
from .training.resuming.outline import KnownImage as KnownImage
from .training.resuming.outline import TrainingOutline as TrainingOutline
from .training.resuming.outline import read_outline as read_outline
from .training.sharing import follow as follow
from .wording import count as count
from .wording import duration as duration
from .wording import shown as shown
