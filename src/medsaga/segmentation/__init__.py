"""A trained model over images, and what is made of its masks."""
