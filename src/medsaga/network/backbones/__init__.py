"""Image encoders behind one interface, with their pretrained weights."""
