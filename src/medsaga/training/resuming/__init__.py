"""Trainings that can go on after whatever ended them."""
