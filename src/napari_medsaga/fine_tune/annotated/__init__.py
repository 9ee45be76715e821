"""What is annotated: the layers that train, their slices and classes."""
