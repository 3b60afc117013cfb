"""`python -m serving.cli`."""

from serving.cli.app import main

main()
