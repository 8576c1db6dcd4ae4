"""``python -m gncadeq`` is the command ``gncadeq``."""

from gncadeq.cli import main

if __name__ == "__main__":
    main()
