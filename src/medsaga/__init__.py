"""Fine-tune a Segment Anything model on a few annotated slices, and segment the rest.

::

    from medsaga import TrainingData, drain, fine_tune, segment

    model = drain(fine_tune(TrainingData("ct.nii.gz", "labels.nii.gz")), print)
    mask = drain(segment(model, "ct.nii.gz")).mask

These names are what a script needs. What a stream yields is in :mod:`medsaga.events`,
and what a program around the engine needs besides in :mod:`medsaga.frontend`. All are
listed in ``__init__.pyi``; a module is imported when one of its names is asked for, as
torch, MONAI and nibabel take seconds.
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("napari-medsaga")
