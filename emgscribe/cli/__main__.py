"""`python -m emgscribe.cli`: the command, where it is not installed under its name."""

from emgscribe.cli import run

run()
