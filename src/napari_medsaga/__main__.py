"""Open napari with the sample and the Fine-tune dock: ``python -m napari_medsaga``."""

from __future__ import annotations

import napari


def main() -> None:
    """Open the window, and return when it is closed."""
    viewer = napari.Viewer()
    viewer.open_sample("napari-medsaga", "phantom")
    viewer.window.add_plugin_dock_widget("napari-medsaga", "Fine-tune")
    napari.run()


if __name__ == "__main__":
    main()
