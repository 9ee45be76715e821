"""Volumes and labels: what they are, and how files are read and written."""
