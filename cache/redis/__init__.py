"""A store that several machines share, on one Redis or Valkey server (6.0 or later; no cluster).

How it is laid out
------------------
Every key stands under `chiasm:`, as a plain string with an expiry, so that a server that serves others too can be told
apart by one pattern (`~chiasm:*` in an ACL) and emptied by it.  There is no index beside the keys: whatever the server
drops, by expiry, for room (`maxmemory`) or because somebody flushed it, is gone as a whole and nothing points at it.

What is believed
----------------
Nothing that comes back, until its seal is checked: a HMAC-SHA256 over key and value (`seal.py`).  What fails reads as
"no such entry" and makes room for a new one.  No script runs on the server and nothing is ever pickled.

What happens when the server is slow, gone or not what it should be
-------------------------------------------------------------------
Each call has one limit for everything it does on the wire, connecting included, and after some failures in a row the
server is left alone for some seconds (`server.py`).  The caller gets a `StoreError` and goes on without.  Nothing is
tried twice: the next request is soon enough.

Writes that depend on what is there
-----------------------------------
`add` is one `SET NX`.  `swap` is WATCH, a look, and MULTI … EXEC, which the server refuses if anybody touched the key
in between.  Renewing an idle time and clearing a damaged value go the same way, so that neither hits a newer value.
"""

from cache.redis.store import RedisStore

__all__ = ["RedisStore"]
