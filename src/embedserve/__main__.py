"""``python -m embedserve``."""

from embedserve.cli import main

main()
