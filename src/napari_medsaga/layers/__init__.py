"""napari's layers and the engine's volumes: one made of the other."""
