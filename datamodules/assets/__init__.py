"""Data sets small enough to ship, and the scripts that made their files."""
