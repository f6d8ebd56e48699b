/* What the segment_*.c and storage.c files share: one segment file of a cartridge. vlib_images/FORMAT.md is the
 * specification of what lies on disk; the names here are the names there.
 */
#ifndef TAPEBAY_SEGMENT_H
#define TAPEBAY_SEGMENT_H

#include "engine.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

/* ---- storage.c: every byte of a cartridge goes through here, so that faults can be injected and writes recorded -- */

struct storage_file {
	int fd;
	char *path;
};

/* All return 0 (or a count) or a negative errno. None needs the GIL. */
/* Only a regular file of its own folder: -ELOOP, -ENXIO or -EMLINK for a link, a pipe or device, and, to be written, for
 * a file that has other names. */
int storage_open(struct storage_file *file, const char *path, int flags);
/* Another descriptor of an open file, which has no path. */
int storage_adopt(struct storage_file *file, int fd);
void storage_close(struct storage_file *file);
ssize_t storage_read(const struct storage_file *file, void *data, size_t length, uint64_t offset);
ssize_t storage_readv(const struct storage_file *file, const struct iovec *parts, int count, uint64_t offset);
int storage_writev(const struct storage_file *file, struct iovec *parts, int count, uint64_t offset);
int storage_allocate(const struct storage_file *file, uint64_t offset, uint64_t length);
int storage_truncate(const struct storage_file *file, uint64_t length);
int storage_sync(const struct storage_file *file);
int storage_size(const struct storage_file *file, uint64_t *length);
/* With the GIL: sets the OSError of a negative errno; returns NULL. */
PyObject *storage_os_error(int rc, const char *path);

/* ---- writeback.c: hints to the disk ------------------------------------------------------------------------------ */

/* Asks for these bytes of the file to be written to the disk soon. False: too much is waiting, ask again later. */
bool writeback_start(const struct storage_file *file, uint64_t offset, uint64_t length);
/* Takes back what was asked for; when it returns, nothing uses the file's descriptor. storage_close() calls it. */
void writeback_forget(const struct storage_file *file);

/* ---- segment_record.c: the record header ------------------------------------------------------------------------- */

#define SEGMENT_HEADER_BYTES 128u
#define RECORD_HEADER_BYTES 32u
#define RECORD_ALIGNMENT 8u
#define RECORD_EPOCH_MAX 255u

enum record_kind { RECORD_BLOCK = 1, RECORD_FILEMARK, RECORD_TRUNCATE, RECORD_MARK, RECORD_SEAL };

struct record {
	uint8_t kind, form, extension_units, epoch;
	uint32_t object;         /* logical objects before this record, from the segment's first */
	uint32_t filemarks;      /* filemarks among them */
	uint32_t logical_length; /* bytes the initiator wrote */
	uint32_t stored_length;  /* bytes of payload in the record */
	uint32_t stored_crc;     /* CRC32C of the payload */
	uint32_t logical_crc;    /* CRC32C of what the initiator wrote */
};

static inline uint32_t get32(const unsigned char *p)
{
	uint32_t value;
	memcpy(&value, p, sizeof(value));
	return le32toh(value);
}

static inline void put32(unsigned char *p, uint32_t value)
{
	value = htole32(value);
	memcpy(p, &value, sizeof(value));
}

static inline uint64_t get64(const unsigned char *p)
{
	uint64_t value;
	memcpy(&value, p, sizeof(value));
	return le64toh(value);
}

static inline void put64(unsigned char *p, uint64_t value)
{
	value = htole64(value);
	memcpy(p, &value, sizeof(value));
}

static inline uint32_t record_prefix_bytes(const struct record *record)
{
	return RECORD_HEADER_BYTES + record->extension_units * RECORD_ALIGNMENT;
}

static inline uint64_t record_bytes(const struct record *record)
{
	uint64_t length = record_prefix_bytes(record) + (uint64_t)record->stored_length;
	return (length + RECORD_ALIGNMENT - 1) & ~(uint64_t)(RECORD_ALIGNMENT - 1);
}

/* Encodes the header into `header`; `extension` holds record->extension_units * 8 bytes. */
void record_encode(const struct record *record, uint32_t seed, uint64_t offset, const void *extension,
		   unsigned char header[RECORD_HEADER_BYTES]);

/* Whether the bytes at `data` could begin a record: cheap, before the CRC is computed. */
bool record_plausible(const unsigned char *data);

/* Decodes and verifies the header (and extension) that was read at `offset`; `available` bytes are at `data`. */
bool record_decode(struct record *record, uint32_t seed, uint64_t offset, const unsigned char *data, size_t available);

/* ---- segment_index.c: where each object's record begins ---------------------------------------------------------- */

/* An entry of the object table: (offset / 8) << 1 | filemark. These two mean an object that damage made unreadable. */
#define ENTRY_LOST_BLOCK 0xFFFFFFFEu
#define ENTRY_LOST_FILEMARK 0xFFFFFFFFu
#define ENTRY_IS_LOST(entry) ((entry) >= ENTRY_LOST_BLOCK)
#define ENTRY_IS_FILEMARK(entry) ((entry)&1u)
#define ENTRY_OFFSET(entry) ((uint64_t)((entry) >> 1) * RECORD_ALIGNMENT)
#define ENTRY_MAKE(offset, filemark) ((uint32_t)((offset) / RECORD_ALIGNMENT) << 1 | (filemark))

#define TABLE_PAGE_BYTES 4096u
#define TABLE_PAGE_ENTRIES 1023u
#define TRAILER_BYTES 64u

enum table_kind { TABLE_OBJECTS, TABLE_FILEMARKS, TABLE_DEAD, TABLE_KINDS };

struct table {
	uint32_t count;
	uint32_t room;         /* entries allocated, when resident */
	uint32_t *entries;     /* resident form */
	unsigned char *page;   /* paged form: the one page that was read last */
	uint32_t page_number;
};

struct segment {
	PyObject_HEAD
	struct storage_file file;
	bool in_use;           /* a thread is inside a method without the GIL */
	bool writable, sealed, resident;
	int failure;           /* errno of a failed sync: nothing may be written any more */
	uint32_t seed;
	uint8_t epoch;         /* TRUNCATE records so far */
	uint64_t flushed;      /* log bytes that are in the file; for a sealed segment, up to and with the SEAL record */
	uint64_t allocated;    /* file bytes that the file system has promised */
	bool allocates;        /* ... if it can promise */
	uint64_t written_back; /* file bytes whose writeback was started */
	uint64_t marked;       /* log bytes up to and with the last sync mark */
	uint64_t limit_bytes;
	uint32_t limit_objects;
	unsigned char *buffer; /* log bytes that are not in the file yet, from `flushed` on */
	uint32_t buffered;
	struct table tables[TABLE_KINDS];
	unsigned char *window; /* read-ahead: file bytes from window_start */
	uint64_t window_start;
	uint32_t window_length, read_ahead;
	uint32_t damaged;      /* objects lost to damage that the scan found */
	uint64_t cut_bytes;    /* bytes of torn tail that the scan cut off */
	bool complete;         /* the scan found the SEAL record */
};

static inline uint64_t segment_end(const struct segment *segment)
{
	return segment->flushed + segment->buffered;
}

/* Results beside 0 and negative errno. */
#define SEGMENT_FULL 1
#define SEGMENT_DAMAGED 2

int index_reserve(struct segment *segment, enum table_kind kind, uint32_t more);
void index_push(struct segment *segment, enum table_kind kind, uint32_t entry);
int index_get(struct segment *segment, enum table_kind kind, uint32_t position, uint32_t *entry);
int index_filemarks_before(struct segment *segment, uint32_t object, uint32_t *filemarks);
int index_filemark_run(struct segment *segment, uint32_t number, bool backwards, uint64_t wanted, int64_t *previous,
		       uint64_t *length);
uint64_t index_dead_bytes(const struct segment *segment);
int index_truncate(struct segment *segment, uint32_t object, uint64_t log_end, uint32_t *filemarks);
/* Where a cut at `object` would end the log, and what would be left: filemarks, and live bytes of log. */
int index_cut_point(struct segment *segment, uint32_t object, uint64_t *end, uint32_t *filemarks, uint64_t *used_bytes);
int index_make_resident(struct segment *segment);
size_t index_encoded_bytes(const struct segment *segment);
void index_encode(const struct segment *segment, unsigned char *data);
int index_decode(struct segment *segment, const unsigned char *data, size_t length);
void index_forget(struct segment *segment);

/* ---- segment_scan.c: reads a log whose index is not at hand ---------------------------------------------------- */

/* What the manifest last said about a segment that is still written: the log had got at least so far. */
struct promise {
	unsigned long long bytes;
	unsigned int objects, filemarks, epoch;
};

struct scan_bounds {
	uint64_t start;         /* first byte to look at; the index covers what is before */
	uint64_t limit;         /* first byte not to look at */
	uint64_t durable;       /* bytes known to be durable: what is unreadable before is damage, not a torn tail */
	struct promise promise; /* zeros: none */
};

int segment_scan(struct segment *segment, const struct scan_bounds *bounds);
int segment_fill_lost(struct segment *segment, uint32_t objects, uint32_t filemarks);

/* ---- segment_append.c, segment_read.c ---------------------------------------------------------------------------- */

int segment_append(struct segment *segment, struct record *record, const void *extension, const void *payload);
int segment_append_control(struct segment *segment, enum record_kind kind);
int segment_truncate(struct segment *segment, uint32_t object);
int segment_flush(struct segment *segment);
int segment_sync(struct segment *segment);
int segment_seal(struct segment *segment);
int segment_shorten(struct segment *segment, uint32_t object);
void segment_release_buffer(struct segment *segment);
/* Whether appending `length` bytes may have to wait for the file system. */
bool segment_append_blocks(const struct segment *segment, size_t length);

#define READ_FILEMARK -1
#define READ_ENCODED -2
#define READ_END -3
#define READ_DAMAGED -4

/* Whether an object's record is in memory and small: reading it will not wait for the file system. */
bool segment_at_hand(const struct segment *segment, uint32_t object);

/* The header (and extension, up to `room` bytes into `extension`) of an object's record and where the record is. */
int segment_describe(struct segment *segment, uint32_t object, struct record *record, uint64_t *offset,
		     unsigned char *extension);
/* One object into `into` (`room` bytes): *result becomes the logical length of a block, READ_FILEMARK or READ_ENCODED. */
int segment_read(struct segment *segment, uint32_t object, void *into, size_t room, int64_t *result);
/* A block's payload as it is stored, whatever its form; `room` must hold stored_length. */
int segment_read_stored(struct segment *segment, uint32_t object, void *into, size_t room, struct record *record,
			unsigned char *extension);
int segment_verify(struct segment *segment, uint32_t object, uint64_t *bytes);

/* ---- segment.c: entering and leaving a method, with the GIL held ------------------------------------------------ */

/* False: an exception is set. The segment is in use until WITHOUT_GIL is through, or in_use is cleared. */
bool segment_enter(struct segment *segment);
bool segment_enter_writable(struct segment *segment);
/* Sets the exception for a result below 0, or SEGMENT_DAMAGED; returns NULL. */
PyObject *segment_fail(const struct segment *segment, int rc, uint32_t object);
bool segment_has_object(const struct segment *segment, unsigned long object, bool or_end);

#define WITHOUT_GIL(segment, statement)                                                                                \
	do {                                                                                                           \
		Py_BEGIN_ALLOW_THREADS                                                                                 \
		statement;                                                                                             \
		Py_END_ALLOW_THREADS                                                                                   \
		(segment)->in_use = false;                                                                             \
	} while (0)

/* ---- segment_blocks.c: methods ------------------------------------------------------------------------------------ */

/* False: ValueError is set. */
bool segment_check_block_length(Py_ssize_t length);
/* Appends a block as the initiator wrote it; `crc` is its CRC32C. As segment_append(). */
int segment_append_plain(struct segment *segment, const void *data, size_t length, uint32_t crc);

/* Reads blocks of exactly block_length; *result says what the first object that was none is. With a method of logical
 * block protection (0: none) its information follows each block. */
int segment_read_many(struct segment *segment, uint32_t object, char *into, size_t block_length, uint32_t count,
		      int method, uint32_t *done, int64_t *result);
/* One object as segment_read() gives it, and behind a block as much of its protection information as `room` holds. */
int segment_read_protected(struct segment *segment, uint32_t object, char *into, size_t room,
			   enum protection_method method, int64_t *result);

PyObject *segment_py_append(PyObject *self, PyObject *data);
PyObject *segment_py_append_many(PyObject *self, PyObject *args);
PyObject *segment_py_append_encoded(PyObject *self, PyObject *args);
PyObject *segment_py_append_filemarks(PyObject *self, PyObject *args);
PyObject *segment_py_read(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *segment_py_read_many(PyObject *self, PyObject *args);
PyObject *segment_py_read_stored(PyObject *self, PyObject *args);
PyObject *segment_py_verify(PyObject *self, PyObject *args);
PyObject *segment_py_describe(PyObject *self, PyObject *args);
PyObject *segment_py_filemarks_before(PyObject *self, PyObject *args);
PyObject *segment_py_filemark(PyObject *self, PyObject *args);
PyObject *segment_py_filemark_run(PyObject *self, PyObject *args);
PyObject *segment_py_cut_point(PyObject *self, PyObject *args);
PyObject *segment_py_checkpoint(PyObject *self, PyObject *unused);

/* ---- segment_protected.c: methods for blocks with protection information ---------------------------------------- */

PyObject *segment_py_append_protected(PyObject *self, PyObject *args);
PyObject *segment_py_read_protected(PyObject *self, PyObject *args);
PyObject *segment_py_read_many_protected(PyObject *self, PyObject *args);

#endif
