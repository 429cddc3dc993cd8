"""Runs the command line: ``python -m tapestry``."""

from tapestry.cli import main

main()
