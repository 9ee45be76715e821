"""Import torch into a process that draws, without holding up its window."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medsaga import frontend

if TYPE_CHECKING:
    from collections.abc import Iterator

_lock = threading.Lock()
_imported: set[str] = set()
_MAPS = Path("/proc/self/maps")


def import_engine(stage: Literal["head", "galore"] = "head") -> None:
    """Import torch and what a stage of a training needs; takes seconds the first time.

    Mesa's drivers (software rendering, AMD) bring LLVM into the process, and so does
    triton, which torch imports where it is installed: importing the second kills the
    process (seen with triton 3 after Mesa 22 on Linux). Nothing here needs triton, so
    it is declared absent where Mesa's LLVM came first.
    """
    with _lock:
        if stage in _imported:
            return
        if "triton" not in sys.modules and _has_llvm():
            sys.modules["triton"] = None  # type: ignore[assignment]
        with _without_collecting(), frontend.patient_threads():
            if "torch" not in sys.modules:
                _load_torch()
            frontend.warm_up(stage)
        _imported.add(stage)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Keep the garbage collector from running inside the block.

    The imports make a million objects that stay. Looking through them again and again
    takes a quarter of the time, and Python's lock for up to half a second at once.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Puts everything into the oldest generation unseen: else the next
            # collection of the youngest would go through all of it.
            gc.freeze()
            gc.unfreeze()
        if was_enabled:
            gc.enable()


def _load_torch() -> None:
    """Load torch's libraries, so that importing it has only to find them.

    An import keeps Python's lock while the linker works, a third of a second; a foreign
    function called through ctypes does not. Where this fails, the import does it all.
    """
    torch = find_spec("torch")
    if sys.platform != "linux" or torch is None or torch.origin is None:
        return
    library = Path(torch.origin).parent / "lib" / "libtorch_python.so"
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    load(os.fsencode(library), os.RTLD_NOW)


def _has_llvm() -> bool:
    try:
        return "libLLVM" in _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, for which triton is not made
        return False
