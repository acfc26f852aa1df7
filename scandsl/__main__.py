"""`python -m scandsl`: the command line."""

from __future__ import annotations

from scandsl.cli import main

if __name__ == "__main__":
    main(prog_name="scandsl")
