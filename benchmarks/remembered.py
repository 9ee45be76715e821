"""What took long to find out about files is found out once."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from medsaga.data.formats.atomic import replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def remembered(kind: str, files: Sequence[Path], find_out: Callable[[], Any]) -> Any:
    """Give what `find_out` gives, from the last time if the files are the same.

    Every cell of a benchmark is a process of its own: each would look through the
    labels of hundreds of patients again.

    Parameters
    ----------
    kind
        What is found out; another kind is kept apart.
    files
        What it depends on: their paths, sizes and times of change tell them apart.
    find_out
        Gives something that JSON can hold.
    """
    stats = [(str(file.resolve()), file.stat()) for file in files]
    stamp = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    digest = hashlib.sha256(stamp.encode()).hexdigest()[:16]
    kept = user_cache_path("medsaga") / "benchmark" / f"{kind}-{digest}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    found = find_out()
    with replacing(kept) as temporary:
        temporary.write_text(json.dumps(found), encoding="utf-8")
    return found
