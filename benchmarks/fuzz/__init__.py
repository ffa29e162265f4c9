"""Throw broken input at every entry of the service, for a stated time, and say what came of it.

    python -m benchmarks.fuzz --minutes 30 --seeds ../shared/data/dicom --output benchmarks/fuzz.json

In the order of the files: `seeds` are well-formed data sets and messages, `mutations` breaks them (drawn by hypothesis),
`receiver` sends them to a real `carpus scp`, `films` gives them to the steps that come after the reception, in a process of their
own, and `campaign` runs both for a time and counts. A finding is a crash, a hang, an unexpected error, a leak, or a peer that is not
answered meanwhile.
"""
