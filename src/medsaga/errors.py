"""The one exception type that the engine raises for input it cannot use."""


class MedsagaError(Exception):
    """Input that cannot be used, told in one sentence that ends in what to do."""


# What torch's RuntimeErrors say: on a GPU, and on the CPU of Linux and Windows.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the computer or GPU ran out."""
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError)
