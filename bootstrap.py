"""Set up napari-medsaga in `.venv`, then run one command with it.

    python3 bootstrap.py napari  open napari with the sample and the Fine-tune dock
    python3 bootstrap.py demo    segment the sample volume after a short fine-tuning
    python3 bootstrap.py test    run the tests
    python3 bootstrap.py lint    check style, types and who imports whom

What follows the command is handed on to it, after an optional `--`. Python with pip (or
with uv) is all that must be there; the set-up is repeated only when the project's
requirements have changed. System libraries that a window needs are installed where apt
can do that, else named. The exit code is the command's.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".venv-tools"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
OLDEST = (3, 11)
INSTALLS = {
    "napari": ["-e", ".[all]"],
    "demo": ["-e", "."],
    "test": ["-e", ".", "--group", "test"],
    "lint": ["-e", ".", "--group", "dev"],
}
# What Qt and a software-drawn OpenGL need on Linux, and Debian's packages for them.
LIBRARIES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-glx.so.0": "libxcb-glx0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-sync.so.1": "libxcb-sync1",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
    "libxcb-xkb.so.1": "libxcb-xkb1",
}
PROGRAMS = {"Xvfb": "xvfb", "xauth": "xauth"}
# A process a core, each of which takes up to 2 GB.
PARALLEL = (
    *("-n", "logical", "--maxprocesses", "4"),
    *("--dist", "loadscope", "--no-loadscope-reorder"),
)
# An editable install must be repeated when one of these changes.
INSTALLED_FROM = (
    "pyproject.toml",
    "constraints.txt",
    "hatch_build.py",
    "napari.yaml",
    "sample_data",
)


class SetUpError(Exception):
    """The set-up cannot go on, told in one sentence that says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return the exit code."""
    if not arguments or arguments[0] not in INSTALLS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    command, *rest = arguments
    if rest[:1] == ["--"]:
        del rest[0]
    try:
        set_up(command)
        if command in ("napari", "test"):
            set_up_screen(with_programs=command == "test")
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    if command == "demo":
        return run([str(SCRIPTS / "medsaga"), "demo", *rest])
    if command == "napari":
        return run([str(PYTHON), "-m", "napari_medsaga", *rest])
    os.chdir(ROOT)
    if command == "test":
        return run([str(PYTHON), "-m", "pytest", *PARALLEL, *rest])
    return lint()


def lint() -> int:
    """Run every check, and return the exit code of the first that failed."""
    checks = (
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["lint-imports", "--no-cache", "--no-logo"],
    )
    codes = [run([str(SCRIPTS / check), *options]) for check, *options in checks]
    return next((code for code in codes if code), 0)


def set_up(command: str) -> None:
    """Install the project with what `command` needs, unless that is done already."""
    stamp = VENV / f"installed-for-{command}.txt"
    fingerprint = requirements_fingerprint()
    if stamp.is_file() and stamp.read_text() == fingerprint and PYTHON.exists():
        return
    print("Setting up .venv; the first time this takes some minutes.", flush=True)
    uv = find_uv() or install_uv()
    if not PYTHON.exists():
        make_venv(uv)
    if uv:
        # As pip does; else every process of the tests compiles all that it imports.
        install = [uv, "pip", "install", "--compile-bytecode", "--python", str(PYTHON)]
    else:
        install = [str(PYTHON), "-m", "pip", "install", "--quiet"]
        run([*install, "--upgrade", "pip"])  # `--group` came with pip 25.1
    if run([*install, "-c", "constraints.txt", *INSTALLS[command]], cwd=ROOT):
        raise SetUpError(
            "The packages could not be installed: see the message above, check the "
            "network and the free disk space (8 GB), then run this again."
        )
    stamp.write_text(fingerprint)


def set_up_screen(*, with_programs: bool) -> None:
    """Install the libraries that a window needs on Linux, or say which are missing.

    With `with_programs`, also what draws into memory where there is no screen; a
    desktop has its own, so without them only a machine without one cannot go on.
    """
    if not sys.platform.startswith("linux"):
        return
    missing = [package for name, package in LIBRARIES.items() if not is_loadable(name)]
    if with_programs and "DISPLAY" not in os.environ:
        missing += [p for name, p in PROGRAMS.items() if shutil.which(name) is None]
    if not missing:
        return
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        print("Installing what a window needs:", *missing, flush=True)
        os.environ["DEBIAN_FRONTEND"] = "noninteractive"
        run([apt, "-qq", "update"])
        options = ["-qq", "-y", "--no-install-recommends"]
        if not run([apt, "install", *options, *missing]):
            return
    raise SetUpError(
        "System libraries that a window needs are missing: install (Debian's and "
        f"Ubuntu's names) {' '.join(missing)}, then run this again."
    )


def is_loadable(library: str) -> bool:
    """Whether the system's loader finds a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def requirements_fingerprint() -> str:
    """Hash of the files that decide what gets installed, and of where they lie."""
    # A copied tree brings a .venv that still points to the original: hence the folder.
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INSTALLED_FROM:
        path = ROOT / name
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def find_uv() -> str | None:
    """Path of a uv that knows dependency groups, or None."""
    for folder in (None, TOOLS / "bin", TOOLS / "Scripts"):
        uv = shutil.which("uv", path=None if folder is None else str(folder))
        if uv and "--group" in output_of([uv, "pip", "install", "--help"]):
            return uv
    return None


def install_uv() -> str | None:
    """Install uv into `TOOLS` with pip and return its path, or None without network."""
    # A plain `pip install` is refused on Debian and Ubuntu (PEP 668); --target is not,
    # and needs no python3-venv package.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    run([*pip, "--target", str(TOOLS), "uv"])
    return find_uv()


def make_venv(uv: str | None) -> None:
    """Make `.venv` with this Python, or with one that uv has when this is too old."""
    if VENV.exists():
        raise SetUpError(
            f"{VENV} is there but holds no Python that runs: delete that folder, then "
            "run this again."
        )
    new_enough = sys.version_info >= OLDEST
    if uv:
        python = sys.executable if new_enough else ">={}.{}".format(*OLDEST)
        failed = run([uv, "venv", "--quiet", "--python", python, str(VENV)])
    else:
        failed = run([sys.executable, "-m", "venv", str(VENV)]) if new_enough else 1
    if failed and not new_enough:
        raise SetUpError(
            "napari-medsaga needs Python {}.{} or newer and this is {}.{}: run this "
            "again with a newer one.".format(*OLDEST, *sys.version_info[:2])
        )
    if failed:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetUpError(
            "No virtual environment could be made: install uv or Python's venv module "
            "(Debian and Ubuntu: apt-get install python3-venv), then run this again."
        )


def output_of(command: Sequence[str]) -> str:
    """Run `command` and return what it prints, or nothing when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout


def run(command: Sequence[str], cwd: Path | None = None) -> int:
    """Run `command` and return its exit code as a shell would give it."""
    process = subprocess.Popen(command, cwd=cwd)
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # The command got the interrupt too: let it end in its own good order.
            continue
        return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
