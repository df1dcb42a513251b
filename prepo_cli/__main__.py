"""`python -m prepo_cli` is `prepo`."""

from prepo_cli.main import main

main()
