"""``python -m cliplet``."""

from cliplet.cli.main import main

main()
