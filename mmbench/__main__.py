"""`python -m mmbench` is the command `mmbench`."""

from mmbench.cli import main

main()
