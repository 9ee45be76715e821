"""Where real images are, for tests that use them where they are."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(
    os.environ.get("MEDSAGA_TEST_DATA") or Path(__file__).parents[2] / "shared/data"
)
