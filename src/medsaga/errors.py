"""The one exception type that the engine raises for input it cannot use."""


class MedsagaError(Exception):
    """Input that cannot be used, told in one sentence that ends in what to do."""
