"""Break everything that can break while films come in, and count what is lost, doubled or left behind.

    python -m benchmarks.chaos --films 100 --seeds 2

`pacs` (a PACS with moods) and `load` (films, DCMTK senders) <- `house` (one installation under test, and what must hold of it) <-
`faults` (what goes wrong, one table) <- `__main__` (runs, results, the table of docs/reliability.md). Inference is a stub process
that returns a known Reading; everything else is what a hospital runs.
"""
