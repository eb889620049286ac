"""`python -m revelio_fast.cli`: the command line without the installed script."""

from revelio_fast.cli import main

main()
