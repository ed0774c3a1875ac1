"""Run the command line with `python -m regard.cli`, as launchers do."""

from regard.cli import main

main()
