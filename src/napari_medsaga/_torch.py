"""Import torch into a process that draws."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

_lock = threading.Lock()
_MAPS = Path("/proc/self/maps")


def import_engine() -> None:
    """Import torch and what a first preview needs; takes seconds the first time.

    Mesa's drivers (software rendering, AMD) bring LLVM into the process, and so does
    triton, which torch imports where it is installed: importing the second kills the
    process (seen with triton 3 after Mesa 22 on Linux). Nothing here needs triton, so
    it is declared absent where Mesa's LLVM came first.
    """
    with _lock:
        if "triton" not in sys.modules and _has_llvm():
            sys.modules["triton"] = None  # type: ignore[assignment]
        import medsaga

        medsaga.warm_up("head")


def _has_llvm() -> bool:
    try:
        return "libLLVM" in _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system, for which triton is not made
        return False
