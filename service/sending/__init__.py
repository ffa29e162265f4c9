"""Talk to the PACS as a client: store results, have them confirmed, ask for earlier ones.

1. `probing` finds out whether a PACS answers, `negotiation` which SOP classes and transfer syntaxes it accepts.
2. `requestor` opens the association, `scu` stores the results over it.
3. `commitment` asks for Storage Commitment, `query` reads back what a PACS holds; `confirmer` keeps asking until every result
   is confirmed, `confirmation` records it. `safekeeping` answers the commitment requests of others for what we received.
4. `retrieval` fetches earlier objects of a patient over DIMSE, `dicomweb` over HTTP.

`proof_metrics` counts what is accepted and not yet confirmed.
"""
