"""The network, from an image batch to class logits; it knows no data."""
