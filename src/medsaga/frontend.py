"""What a program around the engine needs besides: a command line, a viewer, a cluster.

These names are as stable as those of :mod:`medsaga`, and are listed in
``frontend.pyi``; their modules are imported when one is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("medsaga", __file__)
