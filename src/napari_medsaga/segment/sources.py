"""What is segmented: a list of open image layers to tick, or files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_medsaga.widgets.layer_choice import is_offered
from napari_medsaga.widgets.plain_text import tip

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari import Viewer
    from napari.layers import Layer

NO_IMAGE = (
    "No image is open: drop a file onto napari or use File > Open Sample, or choose "
    "Files on disk above."
)
_TICKED, _UNTICKED = Qt.CheckState.Checked, Qt.CheckState.Unchecked


@dataclass(frozen=True, kw_only=True)
class FileTarget:
    """Where the results of image files go.

    Attributes
    ----------
    folder
        It is made where there is none.
    replaces
        Whether results that are there already are written again.
    """

    folder: Path
    replaces: bool


class LayerChecklist(QWidget):
    """The open image layers, each with a tick that it keeps.

    Ticked at first are the selected images, or the only one.
    """

    def __init__(self, viewer: Viewer, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layers: list[Layer] = []

        self._list = QListWidget(self)
        self._empty = QLabel(NO_IMAGE, self)
        self._all = QPushButton("&All", self)
        self._none = QPushButton("&None", self)

        self._lay_out()
        self._describe()

        events = viewer.layers.events
        self._connections: list[Any] = [
            events.inserted,
            events.removed,
            events.reordered,
        ]
        for emitter in self._connections:
            emitter.connect(self._on_layers_changed)
        self._all.clicked.connect(self._on_all_clicked)
        self._none.clicked.connect(self._on_none_clicked)
        self._on_layers_changed()
        selected = [layer for layer in self._layers if layer in viewer.layers.selection]
        self.tick(self._layers if len(self._layers) == 1 else selected)

    def layers(self) -> list[Layer]:
        """Give the ticked layers, in the order of the list."""
        return [
            layer
            for index, layer in enumerate(self._layers)
            if self._list.item(index).checkState() == _TICKED
        ]

    def tick(self, layers: Iterable[Layer], *, ticked: bool = True) -> None:
        """Tick or untick layers."""
        wanted = list(layers)
        for index, layer in enumerate(self._layers):
            if layer in wanted:
                item = self._list.item(index)
                item.setCheckState(_TICKED if ticked else _UNTICKED)

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        for emitter in self._connections:
            emitter.disconnect(self._on_layers_changed)
        self._connections.clear()
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layer_renamed)

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self._all)
        row.addWidget(self._none)
        row.addStretch(1)
        layout = QVBoxLayout(self)
        layout.addWidget(self._empty)
        layout.addWidget(self._list)
        layout.addLayout(row)

    def _describe(self) -> None:
        self._list.setObjectName("images")
        self._list.setToolTip(
            "Tick the images to segment. One that is done is unticked: tick it again "
            "to segment it once more, into a new layer."
        )
        self._list.setMinimumHeight(70)
        self._list.setMaximumHeight(160)
        self._empty.setObjectName("no_image")
        self._empty.setWordWrap(True)
        self._empty.setToolTip("What to do first.")
        self._all.setObjectName("all")
        self._all.setToolTip("Tick all open images.")
        self._none.setObjectName("none")
        self._none.setToolTip("Tick no image.")

    def _on_layers_changed(self, _: object = None) -> None:
        # As in the viewer, the topmost first.
        layers = [
            layer
            for layer in reversed(self._viewer.layers)
            if isinstance(layer, Image) and is_offered(layer)
        ]
        self._empty.setVisible(not layers)
        self._list.setVisible(bool(layers))
        if layers == self._layers:
            return
        ticked = self.layers()
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layer_renamed)
        self._layers = layers
        self._list.clear()
        for layer in self._layers:
            layer.events.name.connect(self._on_layer_renamed)
            item = QListWidgetItem(layer.name)
            item.setCheckState(_TICKED if layer in ticked else _UNTICKED)
            self._list.addItem(item)

    def _on_layer_renamed(self, _: object) -> None:
        for index, layer in enumerate(self._layers):
            self._list.item(index).setText(layer.name)

    def _on_all_clicked(self) -> None:
        self.tick(self._layers)

    def _on_none_clicked(self) -> None:
        self.tick(self._layers, ticked=False)


class FileChooser(QWidget):
    """Image files or a folder of them, and the folder for the results."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._paths: list[Path] = []
        self._proposed = ""

        self._images = QLineEdit(self)
        self._folder = QPushButton("Fol&der…", self)
        self._files = QPushButton("F&iles…", self)
        self._target = QLineEdit(self)
        self._choose_target = QPushButton("&Results in…", self)
        self._replaces = QCheckBox("R&eplace results that are there already", self)

        self._lay_out()
        self._describe()

        self._folder.clicked.connect(self._on_folder_clicked)
        self._files.clicked.connect(self._on_files_clicked)
        self._choose_target.clicked.connect(self._on_target_clicked)

    def paths(self) -> list[Path]:
        """Give the chosen folder or files."""
        return list(self._paths)

    def set_paths(self, paths: Sequence[Path]) -> None:
        """Choose a folder or files; results go into a new folder there by default."""
        self._paths = list(paths)
        if not self._paths:
            self._images.clear()
            return
        first = self._paths[0]
        n, here = len(self._paths), first if first.is_dir() else first.parent
        self._images.setText(str(first) if n == 1 else f"{n} from {here}")
        self._images.setToolTip(tip("\n".join(map(str, self._paths[:20]))))
        if self._target.text() in ("", self._proposed):
            self._proposed = str(here / "segmented")
            self._target.setText(self._proposed)

    def target(self) -> FileTarget | None:
        """Give where the results go; None where nothing is given."""
        folder = self._target.text().strip()
        if not folder:
            return None
        return FileTarget(
            folder=Path(folder).expanduser(), replaces=self._replaces.isChecked()
        )

    def dragEnterEvent(self, event: Any) -> None:
        """Accept files and folders."""
        if _dropped(event):
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        """Choose what is dropped here."""
        self.set_paths(_dropped(event))
        event.acceptProposedAction()

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.addWidget(self._images, 0, 0, 1, 2)
        grid.addWidget(self._folder, 1, 0)
        grid.addWidget(self._files, 1, 1)
        grid.addWidget(self._target, 2, 0)
        grid.addWidget(self._choose_target, 2, 1)
        grid.addWidget(self._replaces, 3, 0, 1, 2)
        grid.setRowStretch(4, 1)

    def _describe(self) -> None:
        self.setAcceptDrops(True)
        self.setToolTip("Drop image files or a folder of them here.")
        self._images.setObjectName("paths")
        self._images.setReadOnly(True)
        # A drop is for the whole page, not a text for the line.
        self._images.setAcceptDrops(False)
        self._images.setPlaceholderText("Choose or drop a folder or image files")
        self._images.setToolTip("The images that are segmented.")
        self._folder.setObjectName("folder")
        self._folder.setToolTip("Choose a folder: all images directly in it.")
        self._files.setObjectName("files")
        self._files.setToolTip("Choose one or more image files.")
        self._target.setObjectName("target")
        self._target.setAcceptDrops(False)
        self._target.setPlaceholderText("Folder for the results")
        self._target.setToolTip(
            "Folder for the masks, which get the images' names and lie in the images' "
            "space. It is made if it is missing."
        )
        self._choose_target.setObjectName("choose_target")
        self._choose_target.setToolTip("Choose the folder for the results.")
        self._replaces.setObjectName("replaces")
        self._replaces.setToolTip(
            "If not ticked, an image whose result is there is left out, so that a run "
            "that was stopped goes on where it was."
        )

    def _on_folder_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of images")
        if folder:
            self.set_paths([Path(folder)])

    def _on_files_clicked(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Images to segment")
        if files:
            self.set_paths([Path(file) for file in files])

    def _on_target_clicked(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder for the results")
        if folder:
            self._target.setText(folder)


def _dropped(event: Any) -> list[Path]:
    urls = event.mimeData().urls()
    return [Path(url.toLocalFile()) for url in urls if url.isLocalFile()]
