from . import events as events
from . import frontend as frontend
from .data.files import read_labels as read_labels
from .data.files import read_volume as read_volume
from .data.files import write_volume as write_volume
from .data.inputs import TrainingData as TrainingData
from .data.volume import Volume as Volume
from .data.volume import volume_from_array as volume_from_array
from .errors import MedsagaError as MedsagaError
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .events import Stop as Stop
from .events import drain as drain
from .live.predictor import LivePredictor as LivePredictor
from .live.suggest import suggest as suggest
from .metrics import Scores as Scores
from .metrics import score as score
from .models.card import ModelCard as ModelCard
from .models.card import load_card as load_card
from .models.folder import TrainedModel as TrainedModel
from .models.folder import save_model as save_model
from .models.library import ModelLibrary as ModelLibrary
from .models.loading import load_model as load_model
from .prompts.predictor import PromptPredictor as PromptPredictor
from .prompts.prompt import Box as Box
from .prompts.prompt import Click as Click
from .prompts.prompt import Prompt as Prompt
from .prompts.prompt import PromptedMask as PromptedMask
from .propagation.propagate import Propagation as Propagation
from .propagation.propagate import propagate as propagate
from .segmentation.advice import Advice as Advice
from .segmentation.advice import advise as advise
from .segmentation.batch import ItemResult as ItemResult
from .segmentation.batch import segment_batch as segment_batch
from .segmentation.result import Segmentation as Segmentation
from .segmentation.segment import segment as segment
from .settings.fine_tune import FineTuneSettings as FineTuneSettings
from .settings.presets import PRESETS as PRESETS
from .settings.presets import preset as preset
from .settings.segment import SegmentSettings as SegmentSettings
from .training.fine_tune import fine_tune as fine_tune
from .training.fine_tune import resume as resume
from .training.resuming.interrupted import (
    interrupted_trainings as interrupted_trainings,
)
from .training.resuming.journal import Journal as Journal

__version__: str
