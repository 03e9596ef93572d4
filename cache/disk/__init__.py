"""A store in a folder: blobs as files of their own, records in `diskcache`, shared by the processes of one host.

    <path>/                     0700, ours, or it is not opened
      blobs/a/b/<62 hex>        one blob: a header, the key, the bytes; mtime is its last use
      blobs/a/b/.lock           held while a name in that folder is put, compared or removed
      blobs/incoming/<32 hex>   a blob being written; its writer holds a lock on it
      records/cache.db          diskcache: everything else
      records.lock              held while the database is opened or set aside
      records.damaged-<time>/   a database that could not be read, kept for the retention time

**Nothing read here is believed.**  A blob carries the SHA-256 of its header, key and content; a record begins
with the SHA-256 of its key and value.  What does not match is removed and reads as `None`.  So nothing needs
fsync: whatever a crash leaves behind is either whole or not there.

**Blobs are not in diskcache** because there a file cut short is returned as it is, a kill leaves files that no
limit ever counts, and on a full disk nothing can be deleted any more (docs/decisions/0001).

`store.py` is the way in and decides which thread does what; beneath it are `blob_files.py` (with `blob_format.py` for
the inside of one file and `incoming.py` for files not yet whole) and `records.py` (with `record_cache.py`, which tames
diskcache); `folder.py` and `locks.py` are what both stand on.
"""

from cache.disk.store import DiskStore, Swept

__all__ = ["DiskStore", "Swept"]
