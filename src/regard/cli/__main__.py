"""Run the command line with `python -m regard.cli`, as launchers do."""

from regard.cli import main

if __name__ == "__main__":  # workers that are spawned import this file too
    main()
