"""`python -m umrgen`."""

from umrgen.cli import main

main()
