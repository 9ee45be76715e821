"""Feature maps of the frozen encoder, computed once and kept within a budget."""
