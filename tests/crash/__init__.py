"""A crash test: a load of requests and streams while everything is done to the machine that can be done to one.

    python -m tests.crash --minutes 5

Processes are killed with -9, disks fill up, the database is locked, read-only or replaced by rubbish, upstreams reset,
stall and answer garbage, clients vanish. What must hold at the end: each exchange whose last byte a client received is
in the database exactly once and complete, each request that the upstream received has a row, the database is intact,
nothing is left over and memory went back.
"""
