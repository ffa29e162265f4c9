"""Receive instances from known peers, in the order a connection passes through.

1. `scp` builds the Storage SCP of an installation and runs it until it is asked to stop.
2. `listener` accepts connections in `places`, counted by address; `transport` bounds what a peer may make us hold in memory.
3. `receiver` takes one C-STORE: `header` looks at the data set without decoding pixels, the file is made durable, the row is
   committed, and only then is the instance acknowledged.
"""
