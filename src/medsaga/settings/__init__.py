"""Settings of a training and of a segmentation, each written once."""
