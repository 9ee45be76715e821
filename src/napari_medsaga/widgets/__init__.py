"""Parts that several docks are built of."""
