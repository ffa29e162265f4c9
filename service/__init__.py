"""DICOM in, DICOM out: the path of one study, file by file.

1. `receiving` takes an instance from a known peer (`scp`), `storage` keeps it durably, `queue` records it; only then is it
   acknowledged.
2. `intake` sees that a film has landed and calls `pipeline.prepare`: `routing` decides what is read and says why not for the
   rest, `deidentification` and `trust` write the copy that inference may see.
3. `tasks` carries a job's primary key through Redis to a worker, which calls `pipeline.infer`: `models`, with the `bundle` of the
   settings, returns a Reading.
4. `pipeline.deliver` re-attaches the identity of the original header and `reporting` builds the results: Structured Report,
   Segmentation, Presentation State, Secondary Capture. `uids` derives every identifier they carry.
5. `sending` stores them to the PACS and has it prove that it keeps them; `web` shows the queue, `metrics` counts it, `supervisor`
   keeps the processes of `carpus serve` alive.
6. `auditing` states who sent, who saw and what left; `retention` removes both copies by age and disk use.

`queue` is the system of record for every step; `trust` holds keys, certificates and accounts; `associations` repairs those of
pynetdicom for `receiving` and `sending`. `__main__` is the `carpus` command,
`commands` its subcommands, the only place that wires objects together.
"""
