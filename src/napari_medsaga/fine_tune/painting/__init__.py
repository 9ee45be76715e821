"""Help in painting: boxes and clicks that become masks, suggestions, where to go."""
