/* Writing a segment's log. It only ever grows, so every prefix of it is a state that the partition once had. */
#include "segment/index.h"
#include "segment/log.h"

#include <errno.h>
#include <stdlib.h>

#define BUFFER_BYTES (1u << 20)            /* small records gather here */
#define CHUNK_BYTES (256u << 10)           /* writes end on multiples: the page cache then works in large folios */
#define DIRECT_BYTES (64u << 10)           /* payload from here on is written without another copy, up to a chunk's end */
#define WRITEBACK_BYTES (32u << 20)        /* dirty bytes after which writeback is asked for */
#define ALLOCATE_MIN_BYTES (1u << 20)      /* space is claimed ahead in steps that grow with the segment */
#define ALLOCATE_MAX_BYTES (32u << 20)
#define ALLOCATE_SLACK_BYTES (64u << 10)   /* sync marks and the trailer */

static const unsigned char padding[RECORD_ALIGNMENT];

/* ---- space and file -------------------------------------------------------------------------------------------- */

/* How much is claimed next, where `needed` is more than there is: no more than a full segment uses. */
static uint64_t claim_step(const struct segment *segment, uint64_t needed)
{
	uint64_t step = segment->allocated, full = segment->limit_bytes + ALLOCATE_SLACK_BYTES + index_encoded_bytes(segment);

	step = step < ALLOCATE_MIN_BYTES ? ALLOCATE_MIN_BYTES : step > ALLOCATE_MAX_BYTES ? ALLOCATE_MAX_BYTES : step;
	if (segment->allocated + step > full)
		step = full > segment->allocated ? full - segment->allocated : 0;
	return segment->allocated + step > needed ? step : needed - segment->allocated;
}

/* Claims space for the log up to `end` and for the tables behind it before a record is accepted, so that what was
 * accepted never meets a full disk later. -ENOSPC: nothing has changed. */
static int claim_space(struct segment *segment, uint64_t end)
{
	uint64_t step, needed = end + ALLOCATE_SLACK_BYTES + index_encoded_bytes(segment);
	int rc;

	if (!segment->allocates || needed <= segment->allocated)
		return 0;
	step = claim_step(segment, needed);
	rc = storage_allocate(&segment->file, segment->allocated, step);
	if (rc == -ENOSPC) {
		step = needed - segment->allocated;
		rc = storage_allocate(&segment->file, segment->allocated, step);
	}
	if (rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -EINVAL) {
		segment->allocates = false; /* this file system cannot promise: a full disk shows when we write */
		return 0;
	}
	if (!rc)
		segment->allocated += step;
	return rc;
}

/* Appends to the file what is buffered and `length` bytes at `data`. On an error nothing has changed. */
static int write_out(struct segment *segment, const void *data, size_t length)
{
	struct iovec parts[2] = { { segment->buffer, segment->buffered }, { (void *)data, length } };
	int rc = storage_writev(&segment->file, parts, 2, segment->flushed);

	if (rc) {
		/* No torn bytes stay behind the log; if even this fails, the next write or the next scan sees to it. */
		(void)storage_truncate(&segment->file, segment->flushed);
		segment->allocated = segment->flushed;
		return rc;
	}
	segment->flushed += segment->buffered + length;
	segment->buffered = 0;
	length = segment->flushed - segment->written_back;
	if (length >= WRITEBACK_BYTES && writeback_start(&segment->file, segment->written_back, length))
		segment->written_back = segment->flushed;
	return 0;
}

int segment_flush(struct segment *segment)
{
	return segment->buffered ? write_out(segment, NULL, 0) : 0;
}

void segment_release_buffer(struct segment *segment)
{
	free(segment->buffer);
	segment->buffer = NULL;
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

/* How much the buffer takes until it ends where a chunk ends; never 0, since a full buffer is written at once. */
static size_t buffer_room(const struct segment *segment)
{
	return BUFFER_BYTES - segment->flushed % CHUNK_BYTES - segment->buffered;
}

bool segment_append_blocks(const struct segment *segment, size_t length)
{
	uint64_t record = length + 2 * RECORD_HEADER_BYTES;

	return length >= LIMIT_GIL_BYTES || record >= buffer_room(segment) ||
	       (segment->allocates &&
		segment_end(segment) + record + ALLOCATE_SLACK_BYTES + index_encoded_bytes(segment) > segment->allocated);
}

static int put_buffered(struct segment *segment, const unsigned char *data, size_t length)
{
	if (!segment->buffer && !(segment->buffer = malloc(BUFFER_BYTES)))
		return -ENOMEM;
	while (length) {
		size_t room = buffer_room(segment), take = length < room ? length : room;

		memcpy(segment->buffer + segment->buffered, data, take);
		segment->buffered += (uint32_t)take;
		data += take;
		length -= take;
		if (take == room) {
			int rc = segment_flush(segment);

			if (rc)
				return rc;
		}
	}
	return 0;
}

/* Adds bytes to the log: a large piece leaves together with the buffer up to a chunk's end, the rest is buffered. */
static int put(struct segment *segment, const void *data, size_t length)
{
	uint64_t end = segment_end(segment), boundary = (end + length) & ~(uint64_t)(CHUNK_BYTES - 1);
	size_t direct = length >= DIRECT_BYTES && boundary > end ? (size_t)(boundary - end) : 0;
	int rc = direct ? write_out(segment, data, direct) : 0;

	return rc ? rc : put_buffered(segment, (const unsigned char *)data + direct, length - direct);
}

/* Takes back what was put from `end` on. What was buffered before and has been written stays written. */
static void take_back(struct segment *segment, uint64_t end)
{
	if (segment->flushed <= end) {
		segment->buffered = (uint32_t)(end - segment->flushed);
		return;
	}
	segment->flushed = end;
	segment->buffered = 0;
	(void)storage_truncate(&segment->file, end); /* else the next record overwrites it */
	segment->allocated = end;
}

static int emit(struct segment *segment, struct record *record, const void *extension, const void *payload)
{
	unsigned char prefix[RECORD_HEADER_BYTES + 255 * RECORD_ALIGNMENT];
	size_t prefix_bytes = record_prefix_bytes(record);
	uint64_t end = segment_end(segment);
	int rc = segment->failure ? -segment->failure : claim_space(segment, end + record_bytes(record));

	if (rc)
		return rc;
	if (record->extension_units)
		memcpy(prefix + RECORD_HEADER_BYTES, extension, prefix_bytes - RECORD_HEADER_BYTES);
	record_encode(record, segment->seed, end, extension, prefix);
	rc = put(segment, prefix, prefix_bytes);
	if (!rc)
		rc = put(segment, payload, record->stored_length);
	if (!rc)
		rc = put(segment, padding, -record->stored_length % RECORD_ALIGNMENT);
	if (rc)
		take_back(segment, end);
	return rc;
}

static bool is_full(const struct segment *segment, const struct record *record)
{
	uint32_t objects = segment->tables[TABLE_OBJECTS].count;

	return objects >= segment->limit_objects ||
	       (objects && segment_end(segment) + record_bytes(record) > segment->limit_bytes);
}

/* Appends a block or filemark. kind, form, lengths and CRCs are the caller's, the rest is filled in here.
 * SEGMENT_FULL or an error: nothing was accepted. */
int segment_append(struct segment *segment, struct record *record, const void *extension, const void *payload)
{
	struct table *objects = &segment->tables[TABLE_OBJECTS];
	bool filemark = record->kind == RECORD_FILEMARK;
	uint64_t offset;
	int rc;

	if (is_full(segment, record))
		return SEGMENT_FULL;
	if (index_reserve(segment, TABLE_OBJECTS, 1) || (filemark && index_reserve(segment, TABLE_FILEMARKS, 1)))
		return -ENOMEM;
	record->epoch = segment->epoch;
	record->object = objects->count;
	record->filemarks = segment->tables[TABLE_FILEMARKS].count;
	offset = segment_end(segment);
	rc = emit(segment, record, extension, payload);
	if (rc)
		return rc;
	if (filemark)
		index_push(segment, TABLE_FILEMARKS, objects->count);
	index_push(segment, TABLE_OBJECTS, ENTRY_MAKE(offset, filemark));
	return 0;
}

/* Appends a sync mark, a seal, or the record of a truncation that the index already shows. */
int segment_append_control(struct segment *segment, enum record_kind kind)
{
	struct record record = {
		.kind = (uint8_t)kind,
		.epoch = segment->epoch,
		.object = segment->tables[TABLE_OBJECTS].count,
		.filemarks = segment->tables[TABLE_FILEMARKS].count,
	};

	return emit(segment, &record, NULL, NULL);
}

/* Objects from `object` on are gone; the log says so and goes on. At most RECORD_EPOCH_MAX times in a segment. */
int segment_truncate(struct segment *segment, uint32_t object)
{
	struct record record = { .kind = RECORD_TRUNCATE, .epoch = (uint8_t)(segment->epoch + 1), .object = object };
	int rc;

	if (segment->epoch == RECORD_EPOCH_MAX)
		return SEGMENT_FULL;
	/* Everything that can fail comes first, so that log and index change together or not at all. */
	rc = index_filemarks_before(segment, object, &record.filemarks);
	if (!rc)
		rc = index_reserve(segment, TABLE_DEAD, 2);
	if (!rc)
		rc = emit(segment, &record, NULL, NULL);
	if (rc)
		return rc;
	segment->epoch++;
	return index_truncate(segment, object, segment_end(segment), &record.filemarks);
}

/* ---- durability -------------------------------------------------------------------------------------------------- */

/* Everything appended is durable when this returns 0. After a failed fdatasync nothing may be written again: the
 * kernel may have dropped the pages and would report success the next time. */
int segment_sync(struct segment *segment)
{
	int rc = segment->failure ? -segment->failure : segment_flush(segment);

	if (rc || segment->marked == segment_end(segment))
		return rc;
	rc = storage_sync(&segment->file);
	if (rc) {
		segment->failure = -rc;
		return rc;
	}
	segment->written_back = segment->flushed;
	if (segment->sealed) {
		segment->marked = segment->flushed;
		segment_give_back(segment);
		return 0;
	}
	/* The mark leaves for the file now, so that it survives the end of this process. It is no part of the promise:
	 * where it cannot be written it waits in the buffer, and the next write meets the error. */
	if (!segment_append_control(segment, RECORD_MARK)) {
		(void)segment_flush(segment);
		segment->marked = segment_end(segment);
	}
	return 0;
}

/* What was claimed ahead of the log and is not used. It is space only: where this fails, deleting the file frees it. */
void segment_give_back(struct segment *segment)
{
	uint64_t length = segment->flushed;

	if (segment->allocated > length && !segment->failure && (!segment->sealed || !storage_size(&segment->file, &length)))
		(void)storage_truncate(&segment->file, length);
	segment->allocated = 0;
}

/* What is claimed beyond the tables stays until the sync: giving it back makes a file system that is mounted with
 * `discard` wait for the disk, behind all that is being written, and the stream with it. */
static int write_tables(struct segment *segment)
{
	size_t length = index_encoded_bytes(segment);
	unsigned char *data = malloc(length);
	struct iovec part = { data, length };
	uint64_t end;
	int rc;

	if (!data)
		return -ENOMEM;
	index_encode(segment, data);
	rc = storage_writev(&segment->file, &part, 1, segment->flushed);
	if (!rc)
		rc = storage_size(&segment->file, &end);
	if (!rc && end > segment->flushed + length) /* torn bytes of a write that failed */
		rc = storage_truncate(&segment->file, segment->flushed + length);
	free(data);
	return rc;
}

/* Ends the log: SEAL record, tables, trailer. The segment is immutable and paged from then on; not yet synced.
 * On an error the log is as it was before and goes on. */
int segment_seal(struct segment *segment)
{
	uint64_t end = segment_end(segment);
	int rc = segment_append_control(segment, RECORD_SEAL);

	if (!rc)
		rc = segment_flush(segment);
	if (!rc)
		rc = write_tables(segment);
	if (rc) {
		take_back(segment, end);
		return rc;
	}
	segment->sealed = true;
	segment->writable = false;
	segment_release_buffer(segment);
	index_forget(segment);
	return 0;
}

/* Cuts the file at `object` and seals it there, in place. Only for a cut that the manifest already shows: a crash in
 * the middle leaves a segment whose tables are rebuilt from the log within the manifest's bounds. */
int segment_shorten(struct segment *segment, uint32_t object)
{
	uint64_t end, used_bytes;
	uint32_t filemarks;
	struct table *dead = &segment->tables[TABLE_DEAD];
	int rc = index_make_resident(segment);

	if (!rc)
		rc = segment_flush(segment);
	end = segment->sealed ? segment->flushed - RECORD_HEADER_BYTES : segment->flushed;
	if (!rc && object < segment->tables[TABLE_OBJECTS].count) {
		uint64_t log_end = end;

		rc = index_cut_point(segment, object, &end, &filemarks, &used_bytes);
		if (!rc)
			rc = index_truncate(segment, object, log_end, &filemarks);
		if (!rc && end < log_end)
			dead->count -= 2; /* what is dead behind the cut is gone */
	}
	if (!rc)
		rc = storage_truncate(&segment->file, end);
	if (rc)
		return rc;
	segment->flushed = segment->allocated = end;
	segment->marked = 0;
	segment->sealed = false;
	segment->writable = true;
	return segment_seal(segment);
}
