"""The command line: fine-tune, segment, evaluate, look at a model, see a demo."""

from medsaga.cli.commands import app, main

__all__ = ["app", "main"]
