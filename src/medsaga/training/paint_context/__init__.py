"""Paint as context of a training: carried, shown, and weighed against the model."""
