"""Runs the command line: ``python -m medsaga``."""

from medsaga.cli import main

if __name__ == "__main__":
    main()
