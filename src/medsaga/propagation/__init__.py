"""Paint carried from the painted slices of a volume to the others, without learning."""
