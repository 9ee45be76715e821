"""What `medsaga` and `python -m medsaga` run."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback, also this early."""
    try:
        from medsaga.cli import main as run
        from medsaga.frontend import patient_threads

        with patient_threads():
            run()
    except KeyboardInterrupt:
        sys.stderr.write("Aborted.\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
