"""Who sent, who saw, what left, who changed the configuration: the audit trail of PS3.15 A.5.

1. `messages` states an event as the XML that PS3.15 A.5 defines.
2. `trail` keeps it in a table, each record chained to the one before by its hash, the chain sealed under a key that is not in the database.
3. `syslog` sends records to the hospital's audit repository (RFC 5424 over TLS, RFC 5425).
4. `follower` states what was received and sent from the system of record itself, seals the chain and forwards it;
   `refusals` states who was refused an association.
"""
