"""Live: a head that learns anew after each stroke, from features seen once a slice."""
