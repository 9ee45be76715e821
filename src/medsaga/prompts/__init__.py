"""Prompts: a box or clicks on a slice become a mask, without any training."""
