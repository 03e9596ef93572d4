"""What only the store on disk has: other processes, a folder that anybody may have touched, and an end of space."""

# ruff: noqa: ASYNC240 (a test may touch files on the loop: it runs nothing else)

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import pickle
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cache.disk import DiskStore, Swept
from cache.disk.record_cache import RecordCache
from cache.open import open_store
from cache.store import StoreError

pytestmark = pytest.mark.anyio

ROOM = 256 * 2**20
HANG = 60
"""Seconds that nothing here comes near; only there so that a hang is a failure."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[DiskStore]:
    opened = DiskStore(folder, max_bytes=ROOM)
    yield opened
    await opened.close()


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process that can import the project; killed at the end if it still runs."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()


async def start_together(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert await asyncio.to_thread(line_from, process) == "ready"
    for process in processes:
        tell(process, "go")


def blob_files(folder: Path) -> list[Path]:
    """Blobs only: not locks, not what is being written."""
    return sorted(path for path in (folder / "blobs").glob("?/?/*") if path.name != ".lock")


def unfinished(folder: Path) -> list[Path]:
    return list((folder / "blobs" / "incoming").glob("*"))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def alter_database(folder: Path, statement: str, *arguments: object) -> None:
    with closing(sqlite3.connect(folder / "records" / "cache.db", isolation_level=None)) as connection:
        connection.execute(statement, arguments)


async def all_keys(store: DiskStore, prefix: str = "") -> list[str]:
    return sorted([key async for key in store.keys(prefix)])


# --- planted entries


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


async def test_planted_pickles_are_never_executed_as_value_or_key(folder: Path, tmp_path: Path) -> None:
    fuse = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(fuse))
    pickle.loads(bomb)
    assert fuse.exists(), "the bomb must be live, or this test shows nothing"
    fuse.unlink()
    file = tmp_path / "store" / "records" / "bomb.val"

    async with closing_store(folder) as store:
        for name in ("inline", "in a file", "untouched"):
            await store.put(f"table/t/{name}", b"x")
    file.write_bytes(bomb)
    plant = "UPDATE Cache SET mode = 4, filename = ?, value = ? WHERE key = ?"
    alter_database(folder, plant, None, bomb, "table/t/inline")
    alter_database(folder, plant, "bomb.val", None, "table/t/in a file")
    insert = "INSERT INTO Cache (key, raw, store_time, mode, value) VALUES (?, 0, 0, ?, ?)"
    alter_database(folder, insert, bomb, 1, b"x")
    alter_database(folder, insert, b"another" + bomb, 4, bomb)

    async with closing_store(folder) as store:
        assert await store.get("table/t/inline") is None
        assert await store.get("table/t/in a file") is None
        assert await store.swap("table/t/inline", b"x", b"y") is False
        assert "table/t/untouched" in await all_keys(store)
        await store.sweep()
        assert await store.delete("table/t/in a file") is False
        assert await store.add("table/t/inline", b"new") is True
        assert await store.get("table/t/inline") == b"new"
        assert await store.get("table/t/untouched") == b"x"
    assert not fuse.exists()


async def test_no_way_of_listing_keys_unpickles_one(store: DiskStore, folder: Path, tmp_path: Path) -> None:
    fuse = tmp_path / "executed"
    await store.put("table/t/1", b"x")
    insert = "INSERT INTO Cache (key, raw, store_time, mode, value) VALUES (?, 0, 0, 4, ?)"
    alter_database(folder, insert, pickle.dumps(Bomb(fuse)), b"x")
    with closing(RecordCache(folder / "records", size_limit=ROOM)) as cache:
        assert list(cache) == ["table/t/1", None]
        assert sorted(map(str, cache.iterkeys())) == ["None", "table/t/1"]
    assert not fuse.exists()


@pytest.mark.parametrize("filename", ["../secret", "records/../../secret", "{absolute}", "inside"])
@pytest.mark.parametrize("mode", [2, 3])
async def test_a_row_that_names_a_file_reads_as_none_and_the_file_stays(folder: Path, filename: str, mode: int) -> None:
    async with closing_store(folder) as store:
        await store.put("table/t/1", b"x")
        await store.put("table/t/2", b"x")
    outside, inside = folder / "secret", folder / "records" / "inside"
    outside.write_bytes(b"secret")
    inside.write_bytes(b"secret")
    filename = filename.format(absolute=outside)
    alter_database(folder, "UPDATE Cache SET mode = ?, filename = ?, value = NULL", mode, filename)

    async with closing_store(folder) as store:
        assert await store.get("table/t/1") is None
        await store.put("table/t/1", b"new")
        assert await store.get("table/t/1") == b"new"
        assert await store.delete("table/t/2") is False
    assert outside.read_bytes() == b"secret"
    assert inside.read_bytes() == b"secret"


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 40, "text", 7, 1.5, None])
async def test_a_record_altered_in_the_database_reads_as_none(folder: Path, value: object) -> None:
    async with closing_store(folder) as store:
        await store.put("table/t/1", b"x")
    alter_database(folder, "UPDATE Cache SET value = ?", value)
    async with closing_store(folder) as store:
        assert await store.get("table/t/1") is None
        assert await store.add("table/t/1", b"new") is True


async def test_a_value_moved_to_another_key_reads_as_none(folder: Path) -> None:
    async with closing_store(folder) as store:
        await store.put("table/alice/1", b"of alice")
        await store.put("blob/alice/1", b"of alice")
        (file,) = blob_files(folder)
        await store.put("blob/bob/1", b"of bob")
        (other,) = set(blob_files(folder)) - {file}
    alter_database(folder, "UPDATE Cache SET key = 'table/bob/1'")
    shutil.copy(file, other)
    async with closing_store(folder) as store:
        assert await store.get("table/bob/1") is None
        assert await store.get("blob/bob/1") is None
        assert await store.get("blob/alice/1") == b"of alice"


@pytest.mark.parametrize("name", ["_directory", "set", "disk_nonsense"])
async def test_a_planted_setting_does_not_become_an_attribute(folder: Path, name: str) -> None:
    async with closing_store(folder) as store:
        await store.put("table/t/1", b"x")
    alter_database(folder, "INSERT INTO Settings VALUES (?, ?)", name, str(folder.parent))
    async with closing_store(folder) as store:
        await store.put("table/t/1", b"new")
        assert await store.get("table/t/1") == b"new"
    assert not (folder.parent / "cache.db").exists()
    assert list(folder.glob("records.damaged-*"))


# --- the folder


def closing_store(folder: Path, **settings: Any) -> Closing:
    return Closing(DiskStore(folder, **{"max_bytes": ROOM, **settings}))


class Closing:
    def __init__(self, store: DiskStore) -> None:
        self.store = store

    async def __aenter__(self) -> DiskStore:
        return self.store

    async def __aexit__(self, *_: object) -> None:
        await self.store.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
async def test_folders_are_for_the_owner_alone_whatever_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = DiskStore(folder, max_bytes=ROOM)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await store.close()


async def test_everything_inside_is_closed_to_others(folder: Path) -> None:
    before = os.umask(0)
    try:
        async with closing_store(folder) as store:
            await store.put("blob/t/1", b"x")
            await store.put("table/t/1", b"x")
            for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
                assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
            for path in blob_files(folder):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    finally:
        os.umask(before)


async def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("disk", "~/deep/below/store", "", 1, 1)
    await store.put("blob/t/1", b"x")
    await store.close()
    assert blob_files(tmp_path / "deep" / "below" / "store")


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777])
async def test_a_folder_that_others_can_write_is_refused_with_the_remedy(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(StoreError, match=f"{mode:04o}.*chmod 700 '{folder}'"):
        DiskStore(folder, max_bytes=ROOM)
    folder.chmod(0o700)
    await DiskStore(folder, max_bytes=ROOM).close()


async def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    with pytest.raises(StoreError, match=f"belongs to uid {stranger - 1}, this process is uid {stranger}"):
        DiskStore(folder, max_bytes=ROOM)


async def test_a_link_made_by_another_user_is_refused_and_one_of_ours_is_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    await DiskStore(folder, max_bytes=ROOM).close()

    real = Path.lstat

    def made_by_a_stranger(path: Path) -> os.stat_result:
        status = real(path)
        return os.stat_result((*status[:4], os.geteuid() + 1, *status[5:10])) if path == folder else status

    monkeypatch.setattr(Path, "lstat", made_by_a_stranger)
    with pytest.raises(StoreError, match="symbolic link made by another user"):
        DiskStore(folder, max_bytes=ROOM)


async def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(StoreError, match="not a folder"):
        DiskStore(folder, max_bytes=ROOM)


async def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        DiskStore(tmp_path / "file" / "store", max_bytes=ROOM)


async def test_a_folder_deleted_under_the_store_is_made_again(store: DiskStore, folder: Path) -> None:
    for _ in range(2):
        await store.put("blob/t/1", b"x")
        await store.put("table/t/1", b"x")
        shutil.rmtree(folder)
        assert await store.get("blob/t/1") is None
        assert await store.get("table/t/1") is None
    await store.put("blob/t/1", b"new")
    await store.put("table/t/1", b"new")
    async with closing_store(folder) as other:
        assert await other.get("blob/t/1") == b"new"
        assert await other.get("table/t/1") == b"new"


# --- damage


@pytest.mark.parametrize("length", [0, 10, 59, 60, 75, -1])
async def test_a_blob_cut_short_reads_as_none_and_is_removed(store: DiskStore, folder: Path, length: int) -> None:
    await store.put("blob/t/1", b"content" * 100)
    (file,) = blob_files(folder)
    os.truncate(file, length if length >= 0 else file.stat().st_size - 1)
    assert await store.get("blob/t/1") is None
    assert blob_files(folder) == []


async def test_a_blob_cut_short_does_not_stand_in_the_way_of_add(store: DiskStore, folder: Path) -> None:
    await store.put("blob/t/1", b"content" * 100)
    (file,) = blob_files(folder)
    os.truncate(file, file.stat().st_size - 1)
    assert await store.add("blob/t/1", b"content" * 100) is True
    assert await store.get("blob/t/1") == b"content" * 100


async def test_a_blob_altered_at_any_byte_reads_as_none_and_is_removed(store: DiskStore, folder: Path) -> None:
    await store.put("blob/t/1", b"content", ttl=3600)
    (file,) = blob_files(folder)
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert await store.get("blob/t/1") is None, at
        assert blob_files(folder) == [], at
    for longer in (whole + b"\0", whole + whole):
        file.write_bytes(longer)
        assert await store.get("blob/t/1") is None
    file.write_bytes(whole)
    assert await store.get("blob/t/1") == b"content"


async def test_a_link_or_pipe_in_place_of_a_blob_is_not_followed(
    store: DiskStore, folder: Path, tmp_path: Path
) -> None:
    await store.put("blob/t/1", b"content")
    (file,) = blob_files(folder)
    moved = tmp_path / "moved"
    file.rename(moved)
    file.symlink_to(moved)
    assert await store.get("blob/t/1") is None
    file.unlink()
    os.mkfifo(file)
    async with asyncio.timeout(HANG):
        assert await store.get("blob/t/1") is None
        await store.put("blob/t/1", b"again")
        assert await store.get("blob/t/1") == b"again"


@pytest.mark.parametrize("spoil", ["garbage", "cut", "page", "empty folder"])
async def test_a_damaged_database_is_set_aside_with_a_warning_and_the_blobs_stay(
    folder: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with closing_store(folder) as store:
        for number in range(200):
            await store.put(f"table/t/{number}", b"x" * 1000)
        await store.put("blob/t/1", b"content")
    file = folder / "records" / "cache.db"
    whole = file.read_bytes()
    match spoil:
        case "garbage":
            file.write_bytes(b"garbage" * 10_000)
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "page":
            file.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
        case "empty folder":
            file.unlink()
    with caplog.at_level(logging.WARNING, "cache.disk"):
        async with closing_store(folder) as store:
            await store.put("table/t/0", b"new")
            assert await store.get("table/t/0") == b"new"
            assert await store.get("table/t/1") is None
            assert await store.get("blob/t/1") == b"content"
    aside = list(folder.glob("records.damaged-*"))
    if spoil == "empty folder":
        assert not aside
    else:
        assert len(aside) == 1
        assert "damaged" in caplog.text
        assert aside[0].name in caplog.text


async def test_a_database_damaged_while_open_costs_one_answer(store: DiskStore, folder: Path) -> None:
    for number in range(200):
        await store.put(f"table/t/{number}", b"x" * 1000)
    file = folder / "records" / "cache.db"
    alter_database(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(file.stat().st_size - 4096))
    answers: list[bool | None] = []
    for number in range(200):
        try:
            answers.append(await store.swap(f"table/t/{number}", b"x" * 1000, b"y"))
        except StoreError:
            answers.append(None)
    assert answers.count(None) <= 2
    await store.put("table/t/1", b"new")
    assert await store.get("table/t/1") == b"new"


async def test_a_database_set_aside_is_kept_for_the_retention_time(folder: Path) -> None:
    old, fresh = folder / "records.damaged-1", folder / "records.damaged-2"
    for aside in (old, fresh):
        aside.mkdir(parents=True)
        (aside / "cache.db").write_bytes(b"garbage")
    folder.chmod(0o700)
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    async with closing_store(folder, retention_seconds=3600) as store:
        await store.sweep()
    assert not old.exists()
    assert fresh.exists()


# --- other processes


WRITER = """
    import asyncio, hashlib, itertools, os, sys
    from cache.disk import DiskStore

    async def main():
        store = DiskStore(sys.argv[1], max_bytes=2**28)
        await store.put("table/ready", b"")
        print("ready", flush=True)

        async def write(kind, size):
            contents = [os.urandom(size) for _ in range(3)]
            sealed = [hashlib.sha256(content).digest() + content for content in contents]
            for number in itertools.count():
                await store.put(f"{kind}/t/{number % 7}", sealed[number % 3])

        await asyncio.gather(write("blob", 3_000_000), write("blob", 500_000), write("table", 5_000))

    asyncio.run(main())
"""


async def test_a_writer_killed_in_the_middle_leaves_nothing_wrong(folder: Path) -> None:
    for turns in range(6):
        with child(WRITER, folder) as process:
            assert await asyncio.to_thread(line_from, process) == "ready"
            await asyncio.sleep(turns * 0.03)
            await asyncio.to_thread(in_a_write, process, folder)
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, HANG)
        assert unfinished(folder)
        async with closing_store(folder) as store:
            keys = await all_keys(store)
            assert "table/ready" in keys
            for key in keys:
                value = await store.get(key)
                if key != "table/ready":
                    assert value is not None, "what is under its name is whole"
                    assert hashlib.sha256(value[32:]).digest() == value[:32]
            await store.sweep()
            assert unfinished(folder) == []
            for kind in ("table", "blob"):
                await store.put(f"{kind}/u/{turns}", b"writable")
                assert await store.get(f"{kind}/u/{turns}") == b"writable"
                assert await store.delete(f"{kind}/u/{turns}") is True


def in_a_write(process: subprocess.Popen[str], folder: Path) -> None:
    """Stops it where something that it writes is not whole."""
    end = time.monotonic() + HANG
    while True:
        assert time.monotonic() < end, "it writes nothing"
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)  # all of its threads
        if unfinished(folder):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)


async def test_a_sweep_leaves_alone_what_a_living_process_is_writing(store: DiskStore, folder: Path) -> None:
    script = """
        import sys
        from pathlib import Path
        from cache.disk.incoming import Incoming
        with Incoming(Path(sys.argv[1])).written([b"being written"]) as path:
            print(path, flush=True)
            sys.stdin.readline()
    """
    with child(script, folder) as process:
        being_written = Path(await asyncio.to_thread(line_from, process))
        dead = being_written.with_name("0" * 32)
        dead.write_bytes(b"left by a kill")
        assert (await store.sweep()).unfinished == 1
        assert unfinished(folder) == [being_written]
        process.kill()
        await asyncio.to_thread(process.wait, HANG)
    await store.sweep()
    assert unfinished(folder) == []


COUNTER = """
    import asyncio, sys
    from cache.disk import DiskStore
    from cache.store import StoreError

    async def main(path, key):
        store = DiskStore(path, max_bytes=2**28)
        await store.get(key)
        print("ready", flush=True)
        sys.stdin.readline()
        done = 0
        while done < 200:
            try:
                old = await store.get(key)
                done += await store.swap(key, old, str(int(old) + 1).encode())
            except StoreError as error:
                print("busy", error, file=sys.stderr)
        await store.close()
        print(done, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("key", ["table/t/count", "blob/t/count"])
async def test_two_processes_count_to_four_hundred_by_swap(store: DiskStore, folder: Path, key: str) -> None:
    await store.put(key, b"0")
    with child(COUNTER, folder, key) as one, child(COUNTER, folder, key) as two:
        async with asyncio.timeout(HANG):
            await start_together(one, two)
            assert await asyncio.to_thread(line_from, one) == "200"
            assert await asyncio.to_thread(line_from, two) == "200"
    assert await store.get(key) == b"400"


ADDER = """
    import asyncio, sys
    from cache.disk import DiskStore

    async def main(path, kind, name):
        store = DiskStore(path, max_bytes=2**28)
        await store.get(kind + "/t/0")
        print("ready", flush=True)
        sys.stdin.readline()
        print(*[number for number in range(100) if await store.add(f"{kind}/t/{number}", name.encode())], flush=True)
        await store.close()

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["table", "blob"])
async def test_of_two_processes_adding_one_wins_each_key(store: DiskStore, folder: Path, kind: str) -> None:
    with child(ADDER, folder, kind, "one") as one, child(ADDER, folder, kind, "two") as two:
        await start_together(one, two)
        won = [(await asyncio.to_thread(line_from, process)).split() for process in (one, two)]
    assert sorted(map(int, won[0] + won[1])) == list(range(100))
    for name, numbers in zip((b"one", b"two"), won, strict=True):
        for number in numbers:
            assert await store.get(f"{kind}/t/{number}") == name


LOCKER = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    sys.stdin.readline()
    connection.execute("ROLLBACK")
    print("free", flush=True)
    sys.stdin.readline()
"""


async def test_a_database_locked_elsewhere_fails_soon_and_blocks_neither_loop_nor_blobs(
    store: DiskStore, folder: Path
) -> None:
    await store.put("table/t/1", b"old")
    with child(LOCKER, folder / "records" / "cache.db") as process:
        assert await asyncio.to_thread(line_from, process) == "locked"
        writers = [asyncio.create_task(store.put("table/t/1", b"new")) for _ in range(50)]
        turns = 0
        async with asyncio.timeout(HANG):
            while not writers[0].done():
                await asyncio.sleep(0.01)
                await store.put("blob/t/1", b"meanwhile")
                turns += 1
            outcomes = await asyncio.gather(*writers, return_exceptions=True)
        assert turns > 3
        assert all(isinstance(outcome, StoreError) and "locked" in str(outcome) for outcome in outcomes)
        assert await store.get("table/t/1") == b"old"
        # A store opened meanwhile does not wait either.
        async with asyncio.timeout(HANG), closing_store(folder) as other:
            with pytest.raises(StoreError, match="locked"):
                await other.get("table/t/1")
            assert await other.get("blob/t/1") == b"meanwhile"

        tell(process, "let go")
        assert await asyncio.to_thread(line_from, process) == "free"
        await store.put("table/t/1", b"new")
        assert await store.get("table/t/1") == b"new"


async def test_opening_the_database_gives_up_on_a_lock_too(store: DiskStore, folder: Path) -> None:
    await store.put("table/t/1", b"x")
    with child(LOCKER, folder / "records" / "cache.db") as process:
        assert await asyncio.to_thread(line_from, process) == "locked"
        opening = asyncio.to_thread(RecordCache, folder / "records", size_limit=ROOM)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await asyncio.wait_for(opening, HANG / 2)  # diskcache alone would try for a minute


async def test_fifty_writers_behind_a_lock_do_not_wait_one_after_another(
    store: DiskStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("table/t/1", b"old")
    waits = 0
    begun = store._records.put

    def counted(key: str, value: bytes, ttl: float | None) -> None:
        nonlocal waits
        waits += 1
        begun(key, value, ttl)

    monkeypatch.setattr(store._records, "put", counted)
    with child(LOCKER, folder / "records" / "cache.db") as process:
        assert await asyncio.to_thread(line_from, process) == "locked"
        await asyncio.gather(*(store.put("table/t/1", b"new") for _ in range(50)), return_exceptions=True)
    assert waits == 1


# --- the quota


@pytest.mark.parametrize("size", [500_000, 70_000])
async def test_the_store_stays_under_its_limit_and_the_least_recently_used_blobs_go(folder: Path, size: int) -> None:
    limit = 8 * 2**20
    last = 2 * limit // size
    async with closing_store(folder, max_bytes=limit) as store:
        for number in range(last + 1):
            await store.put(f"blob/t/{number}", os.urandom(size))
            assert bytes_in(folder) <= limit
            assert await store.get("blob/t/0") is not None, "used all along, so never the least recently used"
        kept = sorted(int(key.rpartition("/")[2]) for key in await all_keys(store, "blob/"))
    assert kept[0] == 0
    assert kept[1:] == list(range(last + 2 - len(kept), last + 1))
    assert len(kept) > 5


async def test_an_add_that_finds_the_blob_counts_as_use(folder: Path) -> None:
    async with closing_store(folder, max_bytes=8 * 2**20) as store:
        for number in range(40):
            await store.put(f"blob/t/{number}", os.urandom(500_000))
            assert await store.add("blob/t/0", b"other") is False


async def test_a_value_larger_than_the_store_is_refused_and_nothing_goes_for_it(folder: Path) -> None:
    async with closing_store(folder, max_bytes=2**20) as store:
        await store.put("blob/t/1", b"x")
        with pytest.raises(StoreError, match=r"larger than the whole store.*max_gib"):
            await store.put("blob/t/2", b"x" * 2**20)
        assert await store.get("blob/t/1") == b"x"


def let_time_pass(folder: Path, seconds: float) -> None:
    """Make everything in the store as old as if `seconds` had passed."""
    alter_database(folder, "UPDATE Cache SET expire_time = expire_time - ?", seconds)
    for file in blob_files(folder):
        last_use = file.stat().st_mtime - seconds
        os.utime(file, (last_use, last_use))


async def test_what_lay_idle_for_the_retention_time_goes_and_what_was_read_stays(folder: Path) -> None:
    async with closing_store(folder, retention_seconds=3600) as store:
        for kind in ("blob", "table"):
            await store.put(f"{kind}/t/read", b"x")
            await store.put(f"{kind}/t/added", b"x")
            await store.put(f"{kind}/t/idle", b"x")
        for _ in range(5):
            let_time_pass(folder, 1000)
            for kind in ("blob", "table"):
                assert await store.get(f"{kind}/t/read") == b"x"
                assert not await store.add(f"{kind}/t/added", b"other")
        swept = await store.sweep()
        assert (swept.blobs, swept.records) == (1, 1)
        assert await all_keys(store) == ["blob/t/added", "blob/t/read", "table/t/added", "table/t/read"]


async def test_a_record_that_cannot_be_renewed_now_is_read_all_the_same(folder: Path) -> None:
    async with closing_store(folder, retention_seconds=3600) as store:
        await store.put("table/t/1", b"x")
        let_time_pass(folder, 1000)
        with child(LOCKER, folder / "records" / "cache.db") as process:
            assert await asyncio.to_thread(line_from, process) == "locked"
            assert await store.get("table/t/1") == b"x"
            assert await store.get("table/t/1") == b"x"


async def test_reading_does_not_lengthen_a_ttl(folder: Path) -> None:
    async with closing_store(folder, retention_seconds=3600) as store:
        await store.put("table/t/1", b"x", ttl=1500)
        let_time_pass(folder, 1000)
        assert await store.get("table/t/1") == b"x"
        let_time_pass(folder, 1000)
        assert await store.get("table/t/1") is None


async def test_a_shorter_retention_time_holds_for_what_is_there_already(folder: Path) -> None:
    async with closing_store(folder, retention_seconds=3600) as store:
        await store.put("table/t/1", b"x")
    async with closing_store(folder, retention_seconds=0.1) as store:
        await store.sweep()
        await asyncio.sleep(0.2)
        assert await store.get("table/t/1") is None


async def test_fresh_records_are_not_evicted_while_there_is_room(folder: Path) -> None:
    async with closing_store(folder, max_bytes=8 * 2**20) as store:
        for number in range(80):
            await store.put(f"table/t/{number}", os.urandom(60_000))
        assert len(await all_keys(store, "table/")) == 80
        with pytest.raises(StoreError, match="larger than the whole store"):
            await store.put("table/t/large", b"x" * 9 * 2**20)
        assert len(await all_keys(store, "table/")) == 80


async def test_many_records_are_bounded_too(folder: Path) -> None:
    limit = 8 * 2**20
    async with closing_store(folder, max_bytes=limit) as store:
        for number in range(200):
            await store.put(f"table/t/{number}", os.urandom(60_000))
        swept = await store.sweep()
        assert swept == Swept(0, swept.records, 0, swept.bytes_kept)
        assert await store.get("table/t/0") is None
        assert await store.get("table/t/199") is not None
    assert bytes_in(folder) <= limit


# --- the end of space


@pytest.mark.parametrize("kind", ["blob", "table"])
async def test_a_full_disk_is_a_store_error_and_over_as_soon_as_there_is_room(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
        import asyncio, resource, sys
        from cache.disk import DiskStore
        from cache.store import StoreError

        async def main(path, kind):
            store = DiskStore(path, max_bytes=2**28)
            await store.put(f"{kind}/t/old", b"old" * 1000)
            unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, unlimited[1]))
            failed = 0
            for number in range(5):
                try:
                    await store.put(f"{kind}/t/{number}", b"x" * 400_000)
                except StoreError as error:
                    assert "failed" in str(error), error
                    failed += 1
                assert await store.get(f"{kind}/t/old") == b"old" * 1000
                assert await store.get(f"{kind}/t/{number}") is None
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            await store.put(f"{kind}/t/0", b"x" * 400_000)
            assert await store.get(f"{kind}/t/0") == b"x" * 400_000
            assert await store.delete(f"{kind}/t/old") is True
            await store.close()
            print(failed, flush=True)

        asyncio.run(main(*sys.argv[1:]))
    """
    with child(script, folder, kind) as process:
        async with asyncio.timeout(HANG):
            assert await asyncio.to_thread(line_from, process) == "5"
    assert unfinished(folder) == []
    async with closing_store(folder) as store:
        assert await store.get(f"{kind}/t/0") == b"x" * 400_000


async def test_a_blob_that_finds_no_space_leaves_nothing_behind(
    store: DiskStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("blob/t/1", b"old")
    real = os.write
    written = 0

    def full_after_a_while(descriptor: int, data: bytes) -> int:
        nonlocal written
        if written > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += 65_536
        return real(descriptor, data[:65_536])

    monkeypatch.setattr(os, "write", full_after_a_while)
    with pytest.raises(StoreError, match=r"No space left on device.*check free space"):
        await store.put("blob/t/1", b"x" * 400_000)
    monkeypatch.undo()
    assert unfinished(folder) == []
    assert await store.get("blob/t/1") == b"old"
    await store.put("blob/t/1", b"x" * 400_000)
    assert await store.get("blob/t/1") == b"x" * 400_000


async def test_short_writes_still_make_a_whole_blob(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1000]))
    await store.put("blob/t/1", bytes(range(256)) * 100)
    monkeypatch.undo()
    assert await store.get("blob/t/1") == bytes(range(256)) * 100


async def test_messages_say_where_and_what_to_do(folder: Path) -> None:
    store = open_store("disk", str(folder), "", 1, 1)
    await store.close()
    with pytest.raises(StoreError) as failure:
        await store.get("table/t/1")
    assert str(folder) in str(failure.value)
