"""The rows that choose the image and the Labels layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Image, Labels
from qtpy.QtWidgets import QFormLayout, QHBoxLayout, QLabel, QPushButton, QWidget

from napari_medsaga.layers.parts import has_parts, shown_part
from napari_medsaga.widgets.convert_button import ConvertButton
from napari_medsaga.widgets.layer_choice import LayerChoice

if TYPE_CHECKING:
    from napari import Viewer


def labelled(text: str, control: QWidget) -> QLabel:
    """Make the label of a control, with its mnemonic and its help."""
    label = QLabel(text)
    label.setBuddy(control)
    label.setToolTip(control.toolTip())
    return label


class LayerRows(QFormLayout):
    """Image and Labels, each with a button that turns one into the other.

    An image of four axes has one that makes a layer of the part of it that is shown.

    Parameters
    ----------
    viewer
        Whose layers are offered.

    Attributes
    ----------
    image, labels
        The choices.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.image = LayerChoice(viewer, Image)
        self.labels = LayerChoice(viewer, Labels)
        self._to_labels = ConvertButton(viewer, self.image)
        self._to_image = ConvertButton(viewer, self.labels)
        self._take_part = QPushButton("Take the shown time point or channel")
        self._describe()
        for text, choice, button in (
            ("&Image", self.image, self._to_labels),
            ("La&bels", self.labels, self._to_image),
        ):
            row = QHBoxLayout()
            row.addWidget(choice, 1)
            row.addWidget(button)
            self.addRow(labelled(text, choice), row)
        self.insertRow(1, self._take_part)
        self._take_part.clicked.connect(self._on_part_clicked)

    def set_running(self, running: bool) -> None:
        """Decide whether other layers can be chosen."""
        for control in (self.image, self.labels, self._to_labels, self._to_image):
            control.setEnabled(not running)

    def follow(self, image: Image | None) -> None:
        """Offer to take a part of the chosen image, if it has any."""
        self._take_part.setVisible(has_parts(image))

    def disconnect_viewer(self) -> None:
        """Stop following the viewer."""
        self.image.disconnect_viewer()
        self.labels.disconnect_viewer()

    def _describe(self) -> None:
        self.image.setObjectName("image")
        self.image.setToolTip("The image layer that the model learns from.")
        self.labels.setObjectName("labels")
        self.labels.setToolTip(
            "The Labels layer with the painted slices; a training never writes to it. "
            "Choose a predicted layer to train on with your corrections of it."
        )
        self._to_labels.setObjectName("to_labels")
        self._to_labels.setText("→ Lab&els")
        self._to_labels.setToolTip("Turn the chosen image layer into a Labels layer.")
        self._take_part.setObjectName("take_part")
        self._take_part.setToolTip(
            "The image has four axes: make a layer of the part of it that is shown, "
            "along the first."
        )
        self._to_image.setObjectName("to_image")
        self._to_image.setText("→ I&mage")
        self._to_image.setToolTip("Turn the chosen Labels layer into an image layer.")

    def _on_part_clicked(self) -> None:
        image = self.image.layer()
        if has_parts(image):
            data, options, _ = shown_part(self._viewer, image)
            self.image.choose(self._viewer.add_image(data, **options))
