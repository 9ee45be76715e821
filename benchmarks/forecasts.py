"""What trainings said was to be expected, beside what came true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cells import label
from tables import markdown

if TYPE_CHECKING:
    from cells import Cell

_TITLE = "## Forecast and truth"


def forecasts(cells: list[Cell]) -> str:
    """A row a training that forecast its Dice: means, and how far off the classes are.

    Empty where none did.
    """
    lines, pairs = [], []
    for cell in cells:
        expected = cell.get("expected_dice") or {}
        both = [(expected[v], cell["dice"][v]) for v in expected if v in cell["dice"]]
        if not both:
            continue
        pairs += both
        off = np.array([said - true for said, true in both])
        said, true = np.mean(both, axis=0)
        row = [f"{number:.3f}" for number in (said, true, np.abs(off).mean())]
        name = f"{cell['task']}-{cell['n']}"
        lines.append([label(cell), name, str(cell["seed"]), *row, f"{off.max():+.3f}"])
    if not lines:
        return ""
    header = ["method", "task", "seed", "forecast", "true", "off", "most too high"]
    return "\n\n".join([_TITLE, markdown(header, lines), _of_all(pairs)])


def _of_all(pairs: list[tuple[float, float]]) -> str:
    from scipy.stats import spearmanr

    said, true = np.transpose(pairs)
    ranks = float(spearmanr(said, true).statistic) if len(pairs) > 2 else np.nan
    return (
        f"Of all {len(pairs)} classes the forecast is {np.abs(said - true).mean():.3f} "
        f"off in the mean; the rank correlation is {ranks:.2f}."
    )
