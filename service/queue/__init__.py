"""What is done, what is to be done, by whom and until when: the database is the system of record, Redis only carries messages.

1. `reception` keeps the row of a received instance; `jobs` opens a job and moves it from state to state by conditional claims.
2. `outbox` holds what must be sent once the transaction stands; `turns` decides whose job comes first, `queues` which kinds of work rest.
3. A worker's `steps` claim a job under a lease of `leases`; `sendings` keeps what was handed to a PACS; `causes` says what an error
   means and when to try again; `breakers` stop asking a PACS that does not answer.
4. `sweeper` re-queues what a dead worker left, `watchdog` restarts a worker that stalls, `messages` drops what the broker
   hands out and is no message.

`job_listing` and `queue_metrics` show it, `reliability` writes the tables of docs/reliability.md.
"""
