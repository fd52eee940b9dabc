"""`python -m gemcore` is the command `gem`."""

from __future__ import annotations

from gemcore.cli.main import main

if __name__ == "__main__":
    main()
