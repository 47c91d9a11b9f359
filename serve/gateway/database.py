"""The database of feedback and of keys' use: SQLite in a file or in memory, or PostgreSQL by its URL.

    open_database(file, url) ──► Sqlite | Postgres ──execute("… WHERE name = :name", name=…)──► rows as dictionaries

Both understand the same SQL: parameters by name, ON CONFLICT, RETURNING. A statement outside of a transaction is
committed when `execute` returns. Calls block: run them outside the event loop.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipelines.errors import UserError
from serve.gateway.file_systems import check_is_local

CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S, LOCK_TIMEOUT_S = 10, 20, 10
PARAMETER = re.compile(r":(\w+)")
SETUP_LOCK = 7294  # of PostgreSQL's advisory locks: servers that start together make the tables one after another


class DatabaseError(Exception):
    """A statement that the database could not carry out: disk full, connection lost, …"""


class Database(Protocol):
    """A database, safe for several threads. Its methods raise DatabaseError."""

    def execute(self, statement: str, **values: Any) -> list[dict[str, Any]]: ...

    def transaction(self) -> AbstractContextManager[None]:
        """All statements within it or, where it is left by an error, none. No other thread's come between."""
        ...

    def setup(self) -> AbstractContextManager[None]:
        """A transaction that no other process's setup runs beside: for tables and columns."""
        ...

    def has_column(self, table: str, name: str) -> bool: ...

    def erase_deleted(self) -> None:
        """Removes what was deleted from the disk too, where the database does not by itself."""
        ...

    def close(self) -> None: ...


class Sqlite:
    """SQLite. file: default: in memory. synced: whether a commit returns once it is on disk, and survives a power cut
    too; without, it survives the end of the process. Processes of one machine may share a file: each waits for the
    others' locks up to LOCK_TIMEOUT_S. Raises UserError on a network's file system, DatabaseError, OSError."""

    def __init__(self, file: Path | None = None, *, synced: bool = True):
        if file is not None:
            check_is_local(file)
            file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            file or ":memory:", timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        self.execute("PRAGMA journal_mode=WAL")
        self.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
        self.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten with zeros

    def execute(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Runs a statement; returns its rows."""
        with self._lock:
            try:
                return [dict(row) for row in self._connection.execute(statement, values)]
            except sqlite3.Error as error:
                raise DatabaseError(str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that no other writes beside."""
        with self._lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.execute("ROLLBACK")
                raise
            self.execute("COMMIT")

    setup = transaction

    def has_column(self, table: str, name: str) -> bool:
        """Whether a table has a column of this name."""
        columns = "SELECT name FROM pragma_table_info(:table) WHERE name = :name"
        return bool(self.execute(columns, table=table, name=name))

    def erase_deleted(self) -> None:
        """Empties the write-ahead log, which holds earlier versions of pages."""
        if self.execute("PRAGMA wal_checkpoint(TRUNCATE)")[0]["busy"]:
            raise DatabaseError("deleted, but another program is reading the file, whose log still holds it; try again")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()


class Postgres:
    """PostgreSQL, over one connection, which is made anew where it was lost.

    url: postgresql://USER@HOST:PORT/DATABASE; a password comes from ~/.pgpass or PGPASSWORD. Raises UserError where
    psycopg is not installed, DatabaseError where no connection can be made."""

    def __init__(self, url: str):
        try:
            import psycopg  # pyright: ignore[reportMissingImports]
            import psycopg.rows  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(f"feedback in {url}: needs psycopg; install it with `pip install 'rayse[postgresql]'`, or "
                            f"leave --feedback out, and feedback is stored in a file") from None  # fmt: skip
        self._psycopg, self._rows, self._url = psycopg, psycopg.rows.dict_row, url
        self._lock, self._in_transaction = threading.RLock(), False
        self._connection = self._connect()

    def _connect(self) -> Any:
        try:
            return self._psycopg.connect(
                self._url, autocommit=True, row_factory=self._rows, connect_timeout=CONNECT_TIMEOUT_S,
                options=f"-c statement_timeout={STATEMENT_TIMEOUT_S}s",
                # ms: a statement to a host that is gone fails then, too; the timeout above is the host's
                tcp_user_timeout=STATEMENT_TIMEOUT_S * 1000,
            )  # fmt: skip
        except self._psycopg.Error as error:
            raise DatabaseError(f"{self._url}: {str(error).strip()}") from error

    def execute(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Runs a statement; returns its rows. Outside of a transaction it is tried again where the connection was
        lost: of the statements that run there, a second run changes nothing."""
        with self._lock:
            try:
                return self._run(statement, values)
            except self._psycopg.Error as error:
                if not self._connection.closed or self._in_transaction:
                    raise DatabaseError(str(error).strip()) from error
            self._connection = self._connect()
            try:
                return self._run(statement, values)
            except self._psycopg.Error as error:
                raise DatabaseError(str(error).strip()) from error

    def _run(self, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
        cursor = self._connection.execute(PARAMETER.sub(r"%(\1)s", statement), values)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction."""
        with self._lock:
            self.execute("SELECT 1")  # makes a lost connection anew
            self._in_transaction = True
            try:
                with self._connection.transaction():
                    yield
            except self._psycopg.Error as error:
                raise DatabaseError(str(error).strip()) from error
            finally:
                self._in_transaction = False

    @contextmanager
    def setup(self) -> Iterator[None]:
        """A transaction that no other process's setup runs beside."""
        with self.transaction():
            self.execute("SELECT pg_advisory_xact_lock(:lock)", lock=SETUP_LOCK)
            yield

    def has_column(self, table: str, name: str) -> bool:
        """Whether a table has a column of this name."""
        columns = "SELECT 1 AS found FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attname = :name"
        return bool(self.execute(columns, table=table, name=name))

    def erase_deleted(self) -> None:
        """Nothing: PostgreSQL's autovacuum does, in its time."""

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()


def open_database(file: Path | None, url: str | None, *, synced: bool = True) -> Database:
    """The database at a URL, else in a file, else in memory. synced: of a file, as Sqlite takes it."""
    return Postgres(url) if url else Sqlite(file, synced=synced)
