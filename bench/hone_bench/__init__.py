"""The driver of `bench/run`: one file a section, each a generator of rows (plain dictionaries)."""
