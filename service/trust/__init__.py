"""Who may come in, and what nobody may read: keys, sealed data, certificates, accounts.

`keys` holds and rotates the keys; `pseudonyms` derives what stands for an identifier; `vault` seals the original headers under a key
per patient. `tls` builds the contexts of BCP 195, `certificates` shows what a certificate holds. `accounts` keeps the people, their
roles and the lock-out.
"""
