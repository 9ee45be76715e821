"""Options: those made from settings, and what the others' text means."""

import functools
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from medsaga import PRESETS, MedsagaError, preset
from medsaga.frontend import Setting, describe

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document instead of text."),
]
Axis = Annotated[
    str | None,
    typer.Option(
        help="Axis that the slices are cut across: axial, coronal, sagittal, or "
        "0, 1, 2.",
        show_default="the one with the fewest labelled slices",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what is there already.")
]
_ON_GPU = preset("balanced", on_gpu=True)
PRESET_HELP = (
    f"Settings to start from, changed by others: {', '.join(PRESETS)}. On a GPU all "
    f"but paper see images at up to {_ON_GPU.max_long_side} pixels, "
    f"{_ON_GPU.batch_size} in a step."
)
PresetName = Annotated[str, typer.Option("--preset", help=PRESET_HELP)]

Command = Callable[..., None]


def settings_options(
    settings_type: type, presets: Mapping[str, Any], default: str
) -> Callable[[Command], Command]:
    """Give a command an option for every field of a settings dataclass.

    Parameters
    ----------
    settings_type
        The dataclass, with bounds and help on its fields.
    presets
        Settings by name, whose values the help shows.
    default
        The preset that applies unless another one is asked for.

    Returns
    -------
    Callable
        Decorator. The command gets, as its argument `given`, the values of the options
        that were given.
    """
    added = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(setting, presets, default),
        )
        for setting in describe(settings_type)
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> None:
            values = {p.name: arguments.pop(p.name) for p in added}
            given = {n: _plain(v) for n, v in values.items() if v is not None}
            command(**arguments, given=given)

        own = inspect.signature(command).parameters.values()
        parameters = [*(p for p in own if p.name != "given"), *added]
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


def _annotation(setting: Setting, presets: Mapping[str, Any], default: str) -> Any:
    """Give the type and the option of a setting, for typer."""
    flag = setting.name.replace("_", "-")
    kind: Any = _choices(setting) if setting.choices else setting.type
    # What no preset has on need not be switched off; both names side by side leave the
    # help of a narrow terminal no room for either.
    is_on = setting.type is bool and any(
        getattr(values, setting.name) for values in presets.values()
    )
    option = typer.Option(
        f"--{flag}/--no-{flag}" if is_on else f"--{flag}",
        help=setting.help,
        min=setting.metadata.get("min"),
        max=setting.metadata.get("max"),
        show_default=_defaults(setting.name, presets, default),
        rich_help_panel=setting.metadata["group"],
    )
    return Annotated[kind | None, option]


def _choices(setting: Setting) -> Any:
    members = {choice: choice for choice in setting.choices}
    return StrEnum(setting.name, members)


def _defaults(name: str, presets: Mapping[str, Any], default: str) -> str:
    """Say the default, and that of the other presets where it differs."""
    usual = getattr(presets[default], name)
    others = {preset: getattr(p, name) for preset, p in presets.items()}
    differing = [f"{p}: {_text(v)}" for p, v in others.items() if v != usual]
    return "; ".join([_text(usual), *differing])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value


def parse_axis(text: str | None) -> int | None:
    """Give the axis for 0, 1, 2, axial, coronal or sagittal.

    Raises
    ------
    MedsagaError
        If it is something else.
    """
    from medsaga.frontend import AXIS_NAMES

    if text is None:
        return None
    axes = AXIS_NAMES | {str(axis): axis for axis in AXIS_NAMES.values()}
    if text.lower() not in axes:
        raise MedsagaError(f"There is no axis {text!r}: choose {', '.join(axes)}.")
    return axes[text.lower()]


def parse_slices(texts: list[str] | None, option: str) -> list[int] | None:
    """Give the slice indices that texts such as ``3,9,15-20`` stand for, sorted.

    Raises
    ------
    MedsagaError
        If a part is neither a number nor a range of two.
    """
    if not texts:
        return None
    indices: set[int] = set()
    for part in ",".join(texts).split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        last = last if dash else first
        if not (_is_number(first) and _is_number(last) and int(first) <= int(last)):
            raise MedsagaError(
                f"{option} has {part.strip()!r}: give numbers and ranges, such as "
                "3,9,15-20."
            )
        indices.update(range(int(first), int(last) + 1))
    return sorted(indices)


def parse_names(texts: list[str] | None) -> dict[int, str]:
    """Give the class names that texts such as ``1=liver`` stand for, by label value.

    Raises
    ------
    MedsagaError
        If one has no number before the sign or nothing behind it, or a number comes
        twice.
    """
    names: dict[int, str] = {}
    for text in texts or []:
        value, _, name = (piece.strip() for piece in text.partition("="))
        if not _is_number(value.removeprefix("-")) or not name:
            raise MedsagaError(
                f"--name has {text!r}: give a label value and its name, such as "
                "1=liver."
            )
        if int(value) in names:
            raise MedsagaError(f"--name names the label {value} twice: keep one.")
        names[int(value)] = name
    return names


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
