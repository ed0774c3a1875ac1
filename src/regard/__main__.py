"""Run the command line with `python -m regard`, as launchers such as torchrun do."""

from regard.cli import main

if __name__ == "__main__":  # workers that are spawned import this file too
    main()
