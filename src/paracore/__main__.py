"""``python -m paracore``."""

from __future__ import annotations

from paracore.cli import main

if __name__ == "__main__":
    main()
