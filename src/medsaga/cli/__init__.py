"""The command line: fine-tune, segment, evaluate, look at a model, see a demo."""

from medsaga.cli.app import main

__all__ = ["main"]
