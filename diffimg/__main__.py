"""``python -m diffimg`` is the command line."""

from diffimg.experiment.cli import main

main()
