"""Walk the whole loop of an installation and say what is missing, on which side (`carpus check`).

`finding` (one line of the table) <- `machine` (disk, database, broker, processes, models), `entrance` (who may call us, our own
listener), `samples` (results of a drawn film, for a test patient) <- `exits` (each PACS: association, classes, stores, proof,
query, move) <- `walk` (everything, in order).
"""
