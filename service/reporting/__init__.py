"""Build what goes back to the PACS from a source header and a Reading, in the order a result passes through.

1. `source` normalises a copy of the film's header and carries the identity undecoded; `results` holds what every object shares.
2. `sr` writes the Structured Report with the groups of `measurement_report`; `seg`, `presentation` and `secondary_capture` the
   overlays, the last with the picture of `overview`; `wording` says it all in English and Chinese.
3. `codes` is the one table of concepts; `sr_html` shows a report as a page. Identifiers come from `service.uids`.
"""
