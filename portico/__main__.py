"""``python -m portico`` is ``portico``."""

from portico.cli.main import main

main()
