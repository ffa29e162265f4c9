"""Measure the whole: `end_to_end` through real sockets, `real_films` on films from a folder, `accuracy/` holds the problems' results.

Each ends with one line of JSON; `results` writes the tables of `benchmarks/README.md` from the stored lines.
"""
