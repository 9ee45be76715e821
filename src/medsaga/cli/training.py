"""A training from the shell: begun or gone on with, and its model kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medsaga import MedsagaError
from medsaga.cli.run import FAILED, STOPPED, Run, check_writable

if TYPE_CHECKING:
    from medsaga import Journal, ModelCard, TrainedModel
    from medsaga.events import Stream
    from medsaga.frontend import Interrupted, ModelTarget, Ranks


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training from the shell left.

    Attributes
    ----------
    model
        None where nothing was learned.
    path
        Where the model is; None where it is nowhere.
    problem
        Why it is not where it belongs; None if it is.
    """

    model: "TrainedModel | None" = None
    path: Path | None = None
    problem: str | None = None

    @property
    def card(self) -> "ModelCard | None":
        """The model's card."""
        return None if self.model is None else self.model.card


def model_target(folder: Path, *, overwrite: bool) -> "ModelTarget":
    """Choose the folder to save a model to, before time is spent on the model.

    Raises
    ------
    MedsagaError
        If something is there that may not be replaced, or nothing can be written.
    """
    from medsaga.frontend import ModelTarget

    check_writable(folder.expanduser().absolute().parent)
    return ModelTarget.choose(folder, overwrite=overwrite)


def begin(
    run: Run,
    target: "ModelTarget",
    asked: Mapping[str, Any],
    make_stream: "Callable[[Journal | None], Stream[TrainedModel | None]]",
) -> Trained:
    """Run a training whose state is written on the way, and save its model.

    Parameters
    ----------
    run
        Shows it.
    target
        Where the model is to be saved.
    asked
        What it was asked for, to know it again by.
    make_stream
        Gives the training, which writes into a journal, or none where the disk refuses
        one.
    """
    from medsaga import interrupted_trainings
    from medsaga.frontend import discard_interrupted, trainings_under_way

    if trainings_under_way(target):
        run.display.say(
            f"Another training is to be saved to {target.path} too: the model that is "
            "ready last goes beside the other, under a name with a number."
        )
    same = [e for e in interrupted_trainings() if _folder(e) == target.path]
    for entry in same:
        run.display.say(
            f"{entry.describe()}: run medsaga finetune --resume --out {target.path} to "
            "go on with it."
        )
    journal = _begin_journal(run, target, asked)
    with journal or nullcontext(), _telling_of_abort(run, journal, target):
        trained = _keep(run, journal, run.drain(make_stream(journal)), target.save)
        if trained.model is None and journal is not None:
            journal.discard()
    if trained.path is not None and trained.path != target.path and not trained.problem:
        run.display.say(
            f"Another model has come to {target.path} in the meantime: this one is "
            f"saved as {trained.path}."
        )
    if trained.model is not None and not trained.problem and not run.is_stopped:
        for entry in same:
            if entry.asked == asked:  # it has just been done
                with suppress(MedsagaError):  # unless another process goes on with it
                    discard_interrupted(entry)
    return trained


def end(*, is_stopped: bool, problem: str | None) -> None:
    """End a command by its exit code, and say why a model is not where it belongs."""
    if problem is not None:
        typer.echo(f"Error: {problem}", err=True)
        raise typer.Exit(FAILED)
    if is_stopped:
        raise typer.Exit(STOPPED)


@contextmanager
def _telling_of_abort(
    run: Run, journal: "Journal | None", target: "ModelTarget"
) -> Iterator[None]:
    """Say how to go on after a second Ctrl-C, which nothing waits for."""
    try:
        yield
    except KeyboardInterrupt:
        if journal is not None and journal.state.exists():
            run.display.say(
                "What the training had learned at its last state is kept: run medsaga "
                f"finetune --resume --out {target.path} to go on."
            )
        raise


def _begin_journal(
    run: Run, target: "ModelTarget", asked: Mapping[str, Any]
) -> "Journal | None":
    from medsaga import Journal

    try:
        return Journal.begin(target.path.name, target, asked)
    except MedsagaError as error:
        run.display.say(str(error))
        return None


def find_interrupted(
    out: Path | None, asked: Mapping[str, Any] | None
) -> "Interrupted | None":
    """Find the training to go on with.

    Parameters
    ----------
    out
        The folder that its model was to be saved to or, if only one training was
        interrupted, is to be saved to now; None for the only one.
    asked
        What it must have been asked for, None if anything.

    Returns
    -------
    Interrupted or None
        None where there is none and `asked` says what to begin with.

    Raises
    ------
    MedsagaError
        If it is not clear which one.
    """
    from medsaga import interrupted_trainings

    entries = interrupted_trainings()
    target = None if out is None else out.expanduser().absolute()
    found = [e for e in entries if target is not None and _folder(e) == target]
    if asked is not None:
        same = [entry for entry in found if entry.asked == asked]
        if found and not same:
            raise MedsagaError(
                f"{found[0].describe()}, but with other images, labels or settings: "
                f"give --resume and --out {out} alone to go on with it, or leave "
                "--resume out to begin anew."
            )
        return same[0] if same else None
    found = found or entries
    if not found:
        raise MedsagaError(
            "No training was interrupted: give an image, its labels and --out to begin "
            "one."
        )
    if len(found) > 1:
        listed = "; ".join(f"{e.describe()} ({_how_to_choose(e)})" for e in found)
        raise MedsagaError(
            f"Several trainings were interrupted: say which one by its --out. {listed}."
        )
    return found[0]


def _how_to_choose(entry: "Interrupted") -> str:
    folder = _folder(entry)
    return "in the Fine-tune dock" if folder is None else f"--out {folder}"


def go_on(
    run: Run,
    entry: "Interrupted",
    out: Path | None,
    ranks: "Ranks",
    *,
    overwrite: bool,
) -> Trained:
    """Go on with an interrupted training, and save its model.

    `out` is where to; None for where it was to be saved at first. Another model there
    is replaced if `overwrite` says so. The ranks share the steps that are left.
    """
    from medsaga import Journal, resume

    save = _saver(entry, out, overwrite=overwrite)
    run.display.say(f"{entry.describe()}: it goes on.")
    with Journal.open(entry.folder) as journal:
        if entry.model is not None:
            return _keep(run, journal, journal.read_model(), save)
        trained = _keep(run, journal, run.drain(resume(journal, ranks=ranks)), save)
    if trained.model is None:
        run.display.say("The training can still go on: run this again.")
    return trained


def _folder(entry: "Interrupted") -> Path | None:
    return None if entry.target is None else entry.target.path


def _saver(
    entry: "Interrupted", out: Path | None, *, overwrite: bool
) -> "Callable[[TrainedModel], Path]":
    """Give what saves the model: where it was to be saved, or where it is now to be."""
    from medsaga import ModelLibrary

    if out is not None and out.expanduser().absolute() != _folder(entry):
        return model_target(out, overwrite=overwrite).save
    if entry.target is not None:
        return entry.target.save
    library = ModelLibrary()
    return lambda model: library.add(model, entry.name)


def _keep(
    run: Run,
    journal: "Journal | None",
    model: "TrainedModel | None",
    save: "Callable[[TrainedModel], Path]",
) -> Trained:
    from medsaga.frontend import keep_model

    if model is None:
        run.display.say("Stopped before anything was learned: nothing is written.")
        return Trained()
    kept = keep_model(model, save, journal)
    if run.is_stopped and kept.path is not None:
        run.display.say(f"Stopped: the best model so far is saved in {kept.path}.")
    return Trained(model=model, path=kept.path, problem=kept.problem)
