"""`python -m manylora` is the `manylora` command."""

from manylora.cli.main import main

main()
