"""Receive instances from known peers, in the order a connection passes through.

1. `scp` builds the Storage SCP of an installation and runs it until it is asked to stop.
2. `listener` accepts connections in `places`, counted by address, and looks at what a peer's `offer` holds for us; `transport`
   bounds what a peer may make us hold in memory.
3. A C-STORE does not pass through pynetdicom: `c_store` reads its command, `incoming` takes its data set to where the file will be
   written from, in `memory` that is lent. Negotiation, release, C-ECHO, Storage Commitment and requests of unusual form do.
4. `receiver` keeps what came: `header` looks at the data set without decoding pixels, the file is made durable, the row is
   committed, and only then is the instance acknowledged.
"""
