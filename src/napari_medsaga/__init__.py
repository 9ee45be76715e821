"""The napari plugin on top of the `medsaga` engine."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("napari-medsaga")
