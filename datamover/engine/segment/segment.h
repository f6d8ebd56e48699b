/* One segment file of a cartridge, open. vlib_images/FORMAT.md is the specification of what lies on disk; the names here
 * are the names there.
 */
#ifndef TAPEBAY_SEGMENT_H
#define TAPEBAY_SEGMENT_H

#include "segment/record.h"
#include "segment/storage.h"

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
	uint32_t read_crc;     /* of the block that was read last, and verified by it */
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

#endif
