"""`python -m tinyfaces`, which torchrun needs."""

from tinyfaces.cli import main

main()
