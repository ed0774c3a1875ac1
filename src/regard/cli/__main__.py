"""`python -m regard.cli`, for launchers that want a module."""

from regard.cli import main

main()
