"""The engine's streams in threads, and the engine made ready for them."""
