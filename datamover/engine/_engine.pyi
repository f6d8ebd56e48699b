"""The C engine, typed: this stub is the contract. Import its names from datamover.engine.

Threads: every object here may be used from any thread. Calls that can block, or that move more than a few KiB, release
the GIL.
"""

from typing import Final, final

from typing_extensions import Buffer

# ---- CRC32C ----------------------------------------------------------------------------------------------------------

crc32c_implementation: Final[str]
"""The variant that `crc32c` and the whole engine use on this CPU: the first of `crc32c_implementations`."""

crc32c_implementations: Final[tuple[str, ...]]
"""Every variant this CPU can run, the fastest first; the last is always "portable"."""

def crc32c(data: Buffer, crc: int = 0, /) -> int:
    """CRC32C (Castagnoli; RFC 7143 13.1) of a buffer, continued from `crc`."""

def crc32c_with(implementation: str, data: Buffer, crc: int = 0, /) -> int:
    """The same by one named variant of `crc32c_implementations`. ValueError: this CPU has no such variant."""

def crc32c_combine(crc_first: int, crc_second: int, length_second: int, /) -> int:
    """CRC32C of two adjoining pieces from their own CRCs; `length_second` is the second piece's length in bytes."""

def crc32c_blocks(data: Buffer, crc: int, block_length: int, filled: int, open_crc: int, /) -> tuple[int, int, bytes]:
    """In one pass: the CRC32C of `data` continued from `crc`, and those of the blocks of block_length bytes that it
    fills, the first of which has `filled` bytes already, with the CRC32C open_crc. Returns the first, that of what is
    left in the block begun last, and the blocks' as native 32-bit numbers."""

def crc32c_join(crc: int, checksums: Buffer, block_length: int, /) -> int:
    """CRC32C of adjoining blocks of one length from their own, native 32-bit numbers, continued from `crc`."""

# ---- buffers ---------------------------------------------------------------------------------------------------------

LIMIT_TRANSFER_BYTES: Final[int]
"""The largest buffer, and so the largest Data-Out of one command, in bytes."""

class PoolExhausted(Exception):
    """The pool's bound is reached: answer TASK SET FULL, or wait until buffers come back."""

@final
class DataBuffer:
    """Engine memory: a writable buffer (`memoryview(buffer)`), page-aligned. Not zeroed: it holds what its last user
    left, so fill what you send. The memory goes back to its pool when the object and every view of it are gone."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class BufferPool:
    """A bounded store of reused memory in power-of-two size classes."""

    def __init__(self, capacity_bytes: int) -> None:
        """ValueError: `capacity_bytes` is not positive."""

    def acquire(self, length: int) -> DataBuffer:
        """A buffer of `length` bytes (0 is allowed). PoolExhausted: the bound is reached. ValueError: `length` is
        negative or over LIMIT_TRANSFER_BYTES."""

    @property
    def capacity_bytes(self) -> int: ...
    @property
    def in_use_bytes(self) -> int:
        """What buffers hold now, each counted with its whole size class."""

# ---- ranges of bytes -------------------------------------------------------------------------------------------------

def first_difference(one: Buffer, other: Buffer, /) -> int:
    """Index of the first byte that differs, -1 when there is none. ValueError: the lengths differ."""

def or_into(target: Buffer, source: Buffer, /) -> None:
    """target |= source, byte by byte. ValueError: the lengths differ."""

# ---- files -----------------------------------------------------------------------------------------------------------

def write_in_pieces(descriptor: int, data: Buffer, offset: int, /) -> None:
    """Writes the whole buffer at `offset`, in pieces that the page cache takes best. OSError: any part of it may have
    been written."""

# ---- what a file holds, saved before it is changed -------------------------------------------------------------------

SAVER_ZEROS: Final = 0
"""It is all zeros, and was not stored."""
SAVER_STORED: Final = 1
"""It is in memory, and on its way to its slot."""
SAVER_FULL: Final = 2
"""It is not all zeros, and no slot was given."""
SAVER_FAILED: Final = 3
"""The store failed, now or before: `failure` says how."""
SAVER_CLOSED: Final = 4

@final
class ChunkSaver:
    """Saves chunks of files to a store, on two threads of its own that need no GIL: one reads, and then save() comes
    back; the other writes what was read to the store."""

    def __init__(self, store: int, chunk_bytes: int, buffers: int, /) -> None:
        """store: a descriptor, which it duplicates; slot N is at byte N * chunk_bytes. ValueError, OSError."""

    def save(self, descriptor: int, offset: int, length: int, slot: int, timeout_seconds: float, /) -> int:
        """A SAVER_* outcome for `length` (<= chunk_bytes) bytes of a file. slot: a free one; negative: there is none.
        TimeoutError: it was not read by then, whatever hangs. OSError: it cannot be read."""

    def read_into(self, buffer: Buffer, slot: int, offset: int, /) -> bool:
        """Fills the buffer from `offset` of a slot that is still in memory; False: the store has it."""

    def forget(self, slot: int, /) -> bool:
        """The slot is not wanted any more. False: it is being written now, so nobody else may have it yet; ask
        again."""

    def close(self) -> None:
        """Every save() comes back with SAVER_CLOSED. The threads end, and the duplicate is closed, when they come out
        of what they do."""

    @property
    def failure(self) -> int:
        """errno of the store; 0: none."""
    @property
    def threads(self) -> int:
        """How many of its threads have not ended."""

# ---- the iSCSI connection, full feature phase ------------------------------------------------------------------------

DATA_ERROR_NONE: Final[int]
"""All Data-Out that the initiator announced is in `data_out`."""
DATA_ERROR_DIGEST: Final[int]
"""A Data-Out PDU failed its data digest and was rejected: "Protocol Service CRC error", 0Bh 47h/05h (11.4.7.2)."""
DATA_ERROR_SEQUENCE: Final[int]
"""DataSN or Buffer Offset out of order, which implies a lost PDU (RFC 7143 7.9): the same sense as a digest error."""
DATA_ERROR_UNEXPECTED: Final[int]
"""Unsolicited data that was not negotiated: "Unexpected unsolicited data", 0Bh 0Ch/0Ch."""
DATA_ERROR_AMOUNT: Final[int]
"""More data than announced or asked for, or a sequence that ended short: "Incorrect amount of data", 0Bh 0Ch/0Dh."""
DATA_ERROR_NO_BUFFER: Final[int]
"""The pool had no memory even for the oldest command: TASK SET FULL."""
DATA_ERROR_TOO_LARGE: Final[int]
"""The expected data transfer length is over LIMIT_TRANSFER_BYTES; no data was asked for."""

class ConnectionClosed(Exception):
    """The connection is over: the peer closed it, shutdown() was called, or the peer stopped reading; str() says."""

class ProtocolError(Exception):
    """The peer broke RFC 7143 beyond what a Reject can mend. str() is one line for the log; close the connection."""

@final
class ScsiCommand:
    """One SCSI Command PDU (RFC 7143 11.3) with its Data-Out. It holds a place in the command window until respond() or
    discard(); an object that dies unanswered is discarded."""

    @property
    def initiator_task_tag(self) -> int: ...
    @property
    def lun(self) -> int:
        """The 8-byte LUN field as a big-endian integer."""
    @property
    def cdb(self) -> bytes:
        """16 bytes; longer with an Extended CDB AHS."""
    @property
    def cmd_sn(self) -> int: ...
    @property
    def immediate(self) -> bool: ...
    @property
    def task_attribute(self) -> int:
        """RFC 7143 11.3.1: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA."""
    @property
    def read(self) -> bool: ...
    @property
    def write(self) -> bool: ...
    @property
    def expected_data_transfer_length(self) -> int: ...
    @property
    def bidirectional_read_length(self) -> int:
        """From the Bidirectional Read Expected Data Transfer Length AHS; 0 without one."""
    @property
    def data_out(self) -> DataBuffer | None:
        """All `expected_data_transfer_length` bytes of a write; None when there are none or `data_error` is set."""
    @property
    def data_error(self) -> int:
        """A DATA_ERROR_* constant."""

@final
class Pdu:
    """Any other PDU of the initiator: NOP-Out, Task Management, Text, Logout, SNACK."""

    @property
    def bhs(self) -> bytes:
        """The 48 bytes of the basic header segment."""
    @property
    def data(self) -> bytes:
        """The data segment, without padding."""
    @property
    def opcode(self) -> int:
        """Without the immediate bit."""
    @property
    def immediate(self) -> bool: ...
    @property
    def initiator_task_tag(self) -> int: ...
    @property
    def cmd_sn(self) -> int: ...

@final
class Connection:
    """The full feature phase of one iSCSI connection (RFC 7143), ErrorRecoveryLevel 0, data in order.

    It belongs to the thread that calls receive() (until then: that made it). No other thread reads from or writes to
    the socket: what others answer is left to that thread, which is woken, so they never wait for the peer."""

    def __init__(
        self,
        descriptor: int,
        pool: BufferPool,
        *,
        stat_sn: int,
        exp_cmd_sn: int,
        header_digest: bool,
        data_digest: bool,
        max_recv_data_segment_length: int,
        max_send_data_segment_length: int,
        first_burst_length: int,
        max_burst_length: int,
        initial_r2t: bool,
        immediate_data: bool,
        max_outstanding_r2t: int,
        command_window: int,
        buffer_budget_bytes: int,
        send_timeout_seconds: float,
        data_timeout_seconds: float,
        discovery: bool,
    ) -> None:
        """Takes the socket over: from here on the engine owns `descriptor` and closes it when the object dies, so give
        it `socket.detach()`. When the constructor raises, the descriptor is still the caller's.

        stat_sn: the StatSN of the next response. exp_cmd_sn: the CmdSN expected next. max_recv_...: what we declared;
        max_send_...: what the peer declared. command_window: places for commands that wait or run, 1 to 4096; fewer
        when the budget does not hold a FirstBurstLength for each. buffer_budget_bytes: the Data-Out memory of this
        connection until it is answered; only the oldest command may go over it, alone. Beside it each connection has
        its share of the pool. send_timeout_seconds: for a send as a whole (at most 4 MiB and a PDU), however the peer
        reads. data_timeout_seconds: within that time, and a second for each MiB that is awaited, a sequence of Data-Out
        must have come whole, and so must a PDU. discovery: SCSI commands are rejected (RFC 7143 4.3).
        ValueError: a parameter is out of RFC 7143's range, which the text names. OSError: not a socket."""

    def receive(self, timeout_seconds: float | None = None) -> ScsiCommand | Pdu | None:
        """The next thing for Python to decide on, or None when nothing came in time or wake() was called. One thread
        calls it; it sends what respond() left queued, its own before it waits, that of other threads at once.

        SCSI commands come in CmdSN order, each with its Data-Out whole, immediate ones at once. Task management comes
        as soon as all earlier CmdSNs have arrived, other PDUs in CmdSN order behind the commands before them.
        Raises ConnectionClosed, ProtocolError."""

    def respond(
        self,
        command: ScsiCommand,
        status: int,
        sense: Buffer = b"",
        data_in: Buffer | None = None,
        data_length: int = -1,
    ) -> None:
        """Ends a command: Data-In PDUs, then the status (RFC 7143 11.4, 11.7). From any thread; the PDUs leave at the
        next receive() or flush() of the connection's own, at once when it waits in receive().

        sense: without the SenseLength, which the engine adds; at most 252 bytes. data_in: clipped to what the initiator
        expects; not copied, so it must not be changed until it is sent (buffers of a pool: drop them and acquire anew).
        data_length: how many bytes the command wanted to move, for residual overflow and underflow; -1 takes the
        length of `data_in`, or for a write all that was expected.
        Answering a discarded command does nothing, so that a worker may lose that race. ValueError: a command of
        another connection, or answered already. ConnectionClosed: the connection is gone."""

    def discard(self, command: ScsiCommand) -> None:
        """An aborted command: no response; its place in the window is free again. Harmless when it was answered."""

    def abort(
        self, *, initiator_task_tag: int | None = None, lun: int | None = None, before_cmd_sn: int | None = None
    ) -> list[int]:
        """Drops commands that receive() has not handed out, whether their data is still arriving or whole: all of
        them, or those with that tag, of that LUN (the 8-byte field), with a CmdSN before that one. Returns their tags.
        Data-Out still on its way for them is ignored."""

    def plug(self, cmd_sn: int) -> bool:
        """Counts a CmdSN that never came as received, as ABORT TASK of a command unknown here asks for with its
        RefCmdSN (RFC 7143 11.6.1). False: it is outside the window or came already."""

    def set_max_send_data_segment_length(self, length: int, /) -> None:
        """The peer declared another MaxRecvDataSegmentLength, in bytes (RFC 7143 13.12): what is sent from now on keeps
        to it. ValueError: it is not in 512 to 16777215."""

    def send_pdu(self, bhs: Buffer, data: Buffer = b"") -> None:
        """Sends a PDU that Python made, from the connection's own thread only; flushed as respond() is. The engine
        fills in TotalAHSLength (0), DataSegmentLength, StatSN, ExpCmdSN, MaxCmdSN and the digests, and advances StatSN,
        except for a NOP-In with Initiator Task Tag FFFFFFFFh (RFC 7143 11.19.2). ValueError: `bhs` is not 48 bytes, or
        `data` is longer than the peer takes. RuntimeError: another thread."""

    def flush(self) -> None:
        """Sends now what is queued; from another thread it only makes receive() do so. ConnectionClosed: the connection
        is gone."""

    def acquire(self, length: int, /) -> DataBuffer:
        """Memory for Data-In of `length` bytes, as BufferPool.acquire() gives it. PoolExhausted: the pool is used up,
        or answers of other threads that the peer has not read yet hold this connection's share. From any thread."""

    def wake(self) -> None:
        """Makes receive() return None soon. From any thread; never waits."""

    def shutdown(self) -> None:
        """Ends the connection from any thread: a blocked receive(), respond() or flush() raises ConnectionClosed."""

    def settled(self) -> tuple[int, int] | None:
        """Of a connection that is over: the StatSN and the CmdSN that would have come next. None: a request that had
        come, or begun to come, was not answered; or the connection is not over. Whether the answers arrived only the
        initiator knows: by its ExpStatSN."""

    @property
    def commands(self) -> int:
        """SCSI commands handed out."""
    @property
    def bytes_in(self) -> int:
        """Bytes read from the socket."""
    @property
    def bytes_out(self) -> int: ...
    @property
    def pdus_in(self) -> int: ...
    @property
    def pdus_out(self) -> int: ...
    @property
    def heard_at_microseconds(self) -> int:
        """When the last byte came from the peer, by the clock of time.monotonic(); until then, when this was made."""

# ---- logical block protection ----------------------------------------------------------------------------------------

def reed_solomon_crc(data: Buffer, crc: int = 0, /) -> int:
    """The Reed-Solomon CRC of logical block protection (SSC-5 method 01h), continued from `crc`.

    Behind a block it stands most significant byte first.
    """

PROTECTION_REED_SOLOMON: Final = 1
PROTECTION_CRC32C: Final = 2
PROTECTION_BYTES: Final = 4

class ProtectionMismatch(Exception):
    """What stands behind a block is not its protection information."""

def protection_information(data: Buffer, method: int, /) -> bytes:
    """The 4 bytes that protect a block: CRC32C least significant byte first, Reed-Solomon CRC most significant first.

    ValueError: no such method."""

def protection_check(data: Buffer, method: int, /) -> int:
    """Check a block by the 4 bytes behind it; returns the block's CRC32C.

    ProtectionMismatch: they are not its protection information. ValueError: no such method, or no block before them."""

# ---- decompression of foreign tapes ----------------------------------------------------------------------------------

def lzo_decompress(data: Buffer, length: int, /) -> bytes:
    """An LZO1X stream that makes exactly `length` bytes. ValueError: it does not."""

# ---- cartridge segments (vlib_images/FORMAT.md is the specification) -------------------------------------------------

class SegmentDamaged(Exception):
    """An object cannot be read; args[0] is its number in the segment."""

READ_FILEMARK: Final = -1
READ_ENCODED: Final = -2
READ_END: Final = -3
READ_DAMAGED: Final = -4

@final
class Segment:
    """One segment file. Object numbers are relative to the segment. One thread at a time, else RuntimeError.

    place: its path, or a descriptor of a file that is open for reading and writing, which stays the caller's.

    Every method raises OSError when storage fails, SegmentDamaged when an object cannot be read, IndexError when there
    is no such object, ValueError when the segment is closed, or sealed and asked to write.
    """

    @classmethod
    def create(cls, place: str | int, header: Buffer, limit_bytes: int, limit_objects: int) -> Segment:
        """A new file, or one that is empty, with its 128-byte header. The limits are where append() says that the
        segment is full."""

    @classmethod
    def open_sealed(
        cls,
        place: str | int,
        seed: int,
        data_bytes: int,
        objects: int,
        filemarks: int,
        dead: int,
        writable: bool = False,
    ) -> Segment:
        """A sealed segment, described by its manifest entry; nothing is read. `writable` is for shorten()."""

    @classmethod
    def recover(
        cls,
        place: str | int,
        seed: int,
        limit_bytes: int,
        limit_objects: int,
        writable: bool,
        index: Buffer,
        promised_bytes: int,
        promised_objects: int,
        promised_filemarks: int,
        promised_epoch: int,
    ) -> Segment:
        """A segment that may be unsealed: its log is scanned from the end of `index` (a checkpoint, or b"").

        promised_*: how far the manifest says that the log had got; what is missing of that is damage, not a torn tail.
        A torn tail is cut off, in the file too if writable.
        """

    def append(self, data: Buffer, /) -> bool:
        """Append one block of 1 to 2**24 - 1 bytes. False: the segment is full, nothing was taken."""

    def append_many(
        self, data: Buffer, offset: int, block_length: int, count: int, checksums: Buffer | None = None, /
    ) -> int:
        """Append `count` blocks of block_length from data[offset:]. Returns how many were taken; fewer: it is full.

        checksums: their CRC32C as native 32-bit numbers, made when the bytes came; they are stored as they are, so that
        what changed meanwhile is found when the block is read."""

    def append_file(
        self, descriptor: int, offset: int, block_length: int, count: int, checksums: Buffer, one: Buffer,
        other: Buffer, /,
    ) -> tuple[int, bool]:  # fmt: skip
        """Append `count` blocks of block_length out of a file, from byte `offset` on, by two threads that take turns.
        How many were taken, and whether the segment is full. Fewer, and not full: the next block would
        have to be waited for, or one more call would have failed, and does not say how; append_many() of it does.

        checksums: a writable buffer for their CRC32C as native 32-bit numbers. one, other: writable memory, of a block
        at least; 1 MiB is best."""

    def append_encoded(
        self, stored: Buffer, logical_length: int, logical_crc: int, form: int, extension: Buffer, /
    ) -> bool:
        """Append a block whose payload is not what the initiator wrote. False: the segment is full."""

    def append_protected(self, data: Buffer, offset: int, block_length: int, count: int, method: int, /) -> int:
        """Append `count` blocks of block_length from data[offset:], each followed by protection information, which is
        checked and not stored; the block's CRC32C is computed once for both. Returns how many were taken; fewer: the
        segment is full, or the next one's protection information is wrong, and the next call says so.

        ProtectionMismatch: that of the first one is wrong; nothing was taken."""

    def append_filemarks(self, count: int, /) -> int:
        """Append filemarks. Returns how many were taken; fewer: the segment is full."""

    def truncate(self, object: int, /) -> bool:
        """Drop this object and all behind it by a TRUNCATE record. False: too many of them in this segment already."""

    def shorten(self, object: int, /) -> None:
        """Cut the file at this object and seal it there; for a cut that the manifest already shows."""

    def read(self, object: int, into: Buffer, /) -> int:
        """One object. A block's true length (as much of it as fits is in `into`), READ_FILEMARK, or READ_ENCODED."""

    def read_many(
        self, object: int, into: Buffer, offset: int, block_length: int, count: int, checksums: Buffer | None = None, /
    ) -> tuple[int, int]:
        """Blocks of exactly block_length into into[offset:]. How many, and what the first that was none is: its length,
        READ_FILEMARK, READ_ENCODED, READ_END (the segment ends) or READ_DAMAGED; block_length when all were read.

        checksums: a writable buffer for the CRC32C of each, by which it was verified, as native 32-bit numbers."""

    def read_protected(self, object: int, into: Buffer, method: int, /) -> int:
        """As read(); behind the block stands as much of its protection information as fits. It is made from the CRC32C
        that was stored with the block, or from the bytes that were read and verified by it. READ_ENCODED: nothing was
        read."""

    def read_many_protected(
        self, object: int, into: Buffer, offset: int, block_length: int, count: int, method: int, /
    ) -> tuple[int, int]:
        """As read_many(), with protection information behind each block: into[offset:] gets block_length + 4 bytes for
        each."""

    def read_stored(self, object: int, into: Buffer, /) -> tuple[int, int, int, int, bytes]:
        """A block's payload as stored: (form, logical_length, stored_length, logical_crc, extension)."""

    def verify(self, object: int, count: int, /) -> tuple[int, int]:
        """Check up to `count` objects as reading them would. How many were whole before the first damaged one, and the
        bytes of their records."""

    def describe(self, object: int, /) -> tuple[int, int, int, int, int, int, bytes]:
        """(kind, form, logical_length, stored_length, logical_crc, offset of the record, extension)."""

    def filemarks_before(self, object: int, /) -> int:
        """How many of the segment's filemarks come before this object (which may be the end)."""

    def filemark(self, number: int, /) -> int:
        """The object that is the filemark with this number, from 0."""

    def filemark_run(self, number: int, previous: int, length: int, wanted: int, backwards: bool, /) -> tuple[int, int]:
        """Looks for `wanted` filemarks in a row, from filemark `number` on: (last object of the run, its length) where
        it is found or the segment ends. previous and length: the same of the segment before, the object relative to
        this segment; length 0: there is none."""

    def cut_point(self, object: int, /) -> tuple[int, int, int]:
        """What a cut at this object would leave: (bytes of log, filemarks, live bytes of log)."""

    def checkpoint(self) -> bytes:
        """The index of an unsealed segment, for recover()."""

    def flush(self) -> None:
        """Hand everything to the file system."""

    def sync(self) -> None:
        """Everything appended is durable when this returns. After a failure the segment takes no writes any more."""

    def seal(self) -> None:
        """End the log and write the tables; the segment is immutable from now on. Not synced."""

    def close(self) -> None:
        """Close the file; what was not flushed is lost."""

    @property
    def objects(self) -> int: ...
    @property
    def filemarks(self) -> int: ...
    @property
    def end(self) -> int:
        """Bytes of log, buffered ones included."""

    @property
    def used_bytes(self) -> int:
        """Live bytes of log."""

    @property
    def dead_entries(self) -> int: ...
    @property
    def damaged(self) -> int:
        """Objects that recover() found lost."""

    @property
    def cut_bytes(self) -> int:
        """Bytes of torn tail that recover() left out."""

    @property
    def marked(self) -> int:
        """Log bytes known to be durable."""

    @property
    def epoch(self) -> int:
        """Truncations in the log."""

    @property
    def complete(self) -> bool:
        """recover() found the SEAL record."""

    @property
    def sealed(self) -> bool: ...

def storage_replace(directory: str, name: str, data: Buffer, spare: bool = False, mode: int = -1, /) -> None:
    """Replace a small file, durably: a crash leaves the old one or the new one. OSError; ELOOP where `directory` itself
    is a symbolic link. What lies under the temporary name, .NAME.new, and is no file of this name alone stays as it is.

    spare: keep the blocks of what was replaced for the next time, so that it works on a full disk too.
    mode: permissions of the file; -1: what the umask leaves of 0640.
    """

def storage_unlink(path: str, /) -> None:
    """Delete a file; durable after storage_sync_directory(). OSError."""

def storage_sync_directory(path: str, /) -> None:
    """Make the names in a directory durable. OSError."""

def storage_sync_file_system(path: str, /) -> None:
    """Make everything on the file system of a directory durable (syncfs). OSError."""

def storage_put_off_syncs(put_off: bool, /) -> None:
    """Whether storage_replace() and storage_sync_directory() leave it to a later storage_sync_file_system() to make
    durable what they do; for the calling thread alone."""

def storage_fault(operation: str, error: int, after: int = 0, times: int = 1, partial: int = 0, path: str = "") -> None:
    """For tests: let `after` operations of this kind on paths containing `path` pass, then fail `times` with an errno.

    operation: open, read, write, allocate, truncate, sync, rename, unlink, sync_directory, exchange, sync_file_system.
    partial: bytes that a failing write writes all the same.
    """

def storage_faults_clear() -> None:
    """For tests: no more faults."""

def storage_trace(path: str | None, /) -> None:
    """For tests: record every change of storage in a file (None: stop)."""
