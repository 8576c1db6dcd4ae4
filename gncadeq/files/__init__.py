"""Files that are written whole, checked when they are read, and never run code."""
