"""The main job here and now: `run` starts the service and a PACS, sends films and tells what came of each.

`pacs` is the PACS of the demo, Orthanc where it is installed, else `stand_in_pacs`, a storage SCP of our own that the tests use too.
"""
