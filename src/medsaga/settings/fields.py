"""Fields of settings: their bounds and help, read from a dataclass's annotations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from medsaga.errors import MedsagaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Precision = Literal["auto", "fp32", "bf16"]
Switch = Literal["auto", "on", "off"]


def number(
    low: float, high: float, step: float, group: str, tooltip: str
) -> dict[str, Any]:
    """Bounds and help of a number. A step above the minimum would round it to 0."""
    return {"min": low, "max": high, "step": step, "group": group, "tooltip": tooltip}


def choice(group: str, tooltip: str) -> dict[str, Any]:
    """Help of what is no number."""
    return {"group": group, "tooltip": tooltip}


@dataclass(frozen=True)
class Setting:
    """One field of a settings dataclass, with its type, default, bounds and help."""

    name: str
    type: type[Any]
    choices: tuple[str, ...]
    default: Any
    metadata: Mapping[str, Any]

    @property
    def help(self) -> str:
        """One sentence for a tooltip or an option's help."""
        return str(self.metadata["tooltip"])

    def check(self, value: Any) -> None:
        """Raise MedsagaError, naming the setting, unless the value is allowed."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = is_number if self.type is float else type(value) is self.type
        if not fits:
            raise MedsagaError(
                f"{self.name} is {value!r}: give a value of type {self.type.__name__}."
            )
        if self.choices and value not in self.choices:
            raise MedsagaError(
                f"{self.name} is {value!r}: choose one of {', '.join(self.choices)}."
            )
        low, high = self.metadata.get("min"), self.metadata.get("max")
        if low is not None and high is not None and not low <= value <= high:
            raise MedsagaError(
                f"{self.name} is {value}: give a value from {low} to {high}."
            )


def describe(settings_type: type) -> Iterator[Setting]:
    """Describe each field of a settings dataclass, in order."""
    # Looked at once: every card of a list is checked by it.
    return iter(_described(settings_type))


@cache
def _described(settings_type: type) -> tuple[Setting, ...]:
    return tuple(_describe(settings_type))


def _describe(settings_type: type) -> Iterator[Setting]:
    hints = get_type_hints(settings_type, include_extras=True)
    for field in fields(settings_type):
        kind, metadata = get_args(hints[field.name])[:2]
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        yield Setting(
            name=field.name,
            type=str if choices else kind,
            choices=choices,
            default=field.default,
            metadata=metadata,
        )
