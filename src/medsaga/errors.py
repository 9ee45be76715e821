"""What the engine raises for input it cannot use, and for a lack of memory."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from medsaga.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterator


_LONGEST_SENTENCE = 2000


class MedsagaError(Exception):
    """Input that cannot be used, told in one sentence that ends in what to do.

    What it repeats of files, such as their names, is plain text in it.
    """

    def __init__(self, sentence: object = "") -> None:
        super().__init__(shown(sentence, _LONGEST_SENTENCE))


class OutOfMemory(MedsagaError):
    """The memory of the computer or GPU does not suffice."""


# What torch's RuntimeErrors say: on a GPU, and on the CPU of Linux and Windows.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def memory_explained(sentence: str) -> Iterator[None]:
    """Raise :class:`OutOfMemory` in the place of whatever says that memory ran out.

    `sentence` says so, and what to do.
    """
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(sentence) from error
    except RuntimeError as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise OutOfMemory(sentence) from error
        raise
