"""Open napari with the sample and the Fine-tune dock: ``python -m napari_medsaga``."""

from __future__ import annotations

import napari

from napari_medsaga.fine_tune.panel import FineTunePanel

# As napari's menu calls it, so that the menu finds it rather than opening another.
_DOCK_NAME = "Fine-tune (MedSAGa)"


def main() -> None:
    """Open the window, and return when it is closed."""
    viewer = napari.Viewer()
    viewer.open_sample("napari-medsaga", "phantom")
    viewer.window.add_dock_widget(FineTunePanel(viewer), name=_DOCK_NAME)
    napari.run()


if __name__ == "__main__":
    main()
