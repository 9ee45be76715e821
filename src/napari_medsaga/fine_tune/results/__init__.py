"""What came of a training: what to expect, how much there is, where to look next."""
