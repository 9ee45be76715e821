"""Trained models: their card, folder, library, and the slices kept beside them."""
