"""What learns, and how: optimiser, strategies, losses, averages."""
