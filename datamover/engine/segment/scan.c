/* Reading a log whose index is not at hand: after a crash, or when the index is damaged. FORMAT.md, "Recovery".
 *
 * The one question is what an unreadable record means. A sync mark is written after the fdatasync that it records, so
 * everything before the last mark was durable: an unreadable record there is damage, and the log goes on behind it.
 * Behind the last mark nothing was promised: an unreadable record there is a torn write, and the log ends at it.
 */
#include "segment/index.h"
#include "segment/log.h"

#include <errno.h>
#include <stdlib.h>

#define SCAN_WINDOW_BYTES (256u << 10)
#define SCAN_JUMP_BYTES 4096u
#define PREFIX_MAX_BYTES (RECORD_HEADER_BYTES + 255u * RECORD_ALIGNMENT)

struct cursor {
	struct segment *segment;
	unsigned char *data;
	uint64_t start, limit;
	size_t length;       /* bytes of the file in `data`, from `start` */
	uint64_t unreadable; /* where the farthest bytes end that did not read; 0: all read */
};

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* Reads page by page where the whole does not read: a bad sector must not hide its neighbours. */
static void fill_piecewise(struct cursor *cursor, uint64_t offset, size_t length)
{
	for (size_t done = 0; done < length; done += SCAN_JUMP_BYTES) {
		size_t piece = length - done < SCAN_JUMP_BYTES ? length - done : SCAN_JUMP_BYTES;

		if (storage_read(&cursor->segment->file, cursor->data + done, piece, offset + done) == (ssize_t)piece)
			continue;
		memset(cursor->data + done, 0, piece);
		if (offset + done + piece > cursor->unreadable)
			cursor->unreadable = offset + done + piece;
	}
}

static void fill(struct cursor *cursor, uint64_t offset, size_t length)
{
	if (length > cursor->limit - offset)
		length = (size_t)(cursor->limit - offset);
	if (storage_read(&cursor->segment->file, cursor->data, length, offset) != (ssize_t)length)
		fill_piecewise(cursor, offset, length);
	cursor->start = offset;
	cursor->length = length;
}

/* Bytes at `offset`, at least `wanted` unless the limit comes first. Far jumps read little, near ones read ahead. */
static const unsigned char *fetch(struct cursor *cursor, uint64_t offset, size_t wanted, size_t *available)
{
	uint64_t end = cursor->start + cursor->length;

	if (wanted > cursor->limit - offset)
		wanted = (size_t)(cursor->limit - offset);
	if (offset < cursor->start || offset + wanted > end)
		fill(cursor, offset, offset < cursor->start || offset > end ? SCAN_JUMP_BYTES : SCAN_WINDOW_BYTES);
	*available = (size_t)(cursor->start + cursor->length - offset);
	return cursor->data + (offset - cursor->start);
}

static bool decode_at(struct cursor *cursor, uint64_t offset, struct record *record)
{
	size_t available;
	const unsigned char *data = fetch(cursor, offset, RECORD_HEADER_BYTES, &available);

	if (available < RECORD_HEADER_BYTES || !record_plausible(data))
		return false;
	if (available < RECORD_HEADER_BYTES + data[6] * RECORD_ALIGNMENT)
		data = fetch(cursor, offset, PREFIX_MAX_BYTES, &available);
	return record_decode(record, cursor->segment->seed, offset, data, available);
}

/* The first offset from `offset` on where a record begins, or the limit. */
static uint64_t next_record(struct cursor *cursor, uint64_t offset, struct record *record)
{
	for (; offset + RECORD_HEADER_BYTES <= cursor->limit; offset += RECORD_ALIGNMENT)
		if (decode_at(cursor, offset, record))
			return offset;
	return cursor->limit;
}

static bool payload_verifies(struct cursor *cursor, uint64_t offset, const struct record *record)
{
	uint64_t at = offset + record_prefix_bytes(record);
	uint32_t left = record->stored_length, crc = 0;

	if (offset + record_bytes(record) > cursor->limit)
		return false;
	while (left) {
		size_t available;
		const unsigned char *data = fetch(cursor, at, left < SCAN_WINDOW_BYTES ? left : SCAN_WINDOW_BYTES, &available);

		if (available > left)
			available = left;
		crc = engine_crc32c(crc, data, available);
		at += available;
		left -= (uint32_t)available;
	}
	return crc == record->stored_crc;
}

/* ---- records ---------------------------------------------------------------------------------------------------- */

/* The end of the last sync mark behind `start`, or `start`. */
static uint64_t last_mark(struct cursor *cursor, uint64_t start)
{
	struct record record;
	uint64_t last = start, offset = start;

	while ((offset = next_record(cursor, offset, &record)) < cursor->limit) {
		offset += record_bytes(&record);
		if (record.kind == RECORD_MARK)
			last = offset;
		if (record.kind == RECORD_SEAL || offset > cursor->limit)
			break;
	}
	return last;
}

/* Adds objects that are known to have been there but cannot be read, the filemarks among them last. */
int segment_fill_lost(struct segment *segment, uint32_t objects, uint32_t filemarks)
{
	struct table *known = &segment->tables[TABLE_OBJECTS], *marks = &segment->tables[TABLE_FILEMARKS];
	uint32_t lost = objects > known->count ? objects - known->count : 0;
	uint32_t lost_marks = filemarks > marks->count ? filemarks - marks->count : 0;

	if (lost_marks > lost)
		lost_marks = lost;
	if (index_reserve(segment, TABLE_OBJECTS, lost) || index_reserve(segment, TABLE_FILEMARKS, lost_marks))
		return -ENOMEM;
	segment->damaged += lost;
	for (; lost; lost--) {
		bool filemark = lost <= lost_marks;

		if (filemark)
			index_push(segment, TABLE_FILEMARKS, known->count);
		index_push(segment, TABLE_OBJECTS, filemark ? ENTRY_LOST_FILEMARK : ENTRY_LOST_BLOCK);
	}
	return 0;
}

/* Brings the index to where the record says the log was, when a gap of damaged bytes lies before it.
 *
 * A changed epoch means that TRUNCATE records were lost in the gap. Nobody knows how far back they reached, but what
 * was written since is in the gap too, at 32 bytes an object or more: objects within that reach of the record may be
 * replaced ones, and an old tail must never be read, so they count as lost.
 */
static int catch_up(struct segment *segment, const struct record *record, uint64_t offset, uint64_t gap)
{
	uint8_t epoch = record->kind == RECORD_TRUNCATE ? (uint8_t)(record->epoch - 1) : record->epoch;
	uint32_t reach = (uint32_t)(gap / RECORD_HEADER_BYTES), keep = segment->tables[TABLE_OBJECTS].count, filemarks;
	int rc;

	if (epoch != segment->epoch)
		keep = record->object > reach ? record->object - reach : 0;
	else if (record->kind != RECORD_TRUNCATE && record->object < keep)
		keep = record->object;
	if (keep < segment->tables[TABLE_OBJECTS].count) {
		rc = index_truncate(segment, keep, offset, &filemarks);
		if (rc)
			return rc;
	}
	segment->epoch = epoch;
	return segment_fill_lost(segment, record->object, record->filemarks);
}

static int apply_object(struct segment *segment, const struct record *record, uint64_t offset)
{
	bool filemark = record->kind == RECORD_FILEMARK;

	if (index_reserve(segment, TABLE_OBJECTS, 1) || index_reserve(segment, TABLE_FILEMARKS, 1))
		return -ENOMEM;
	if (filemark)
		index_push(segment, TABLE_FILEMARKS, segment->tables[TABLE_OBJECTS].count);
	index_push(segment, TABLE_OBJECTS, ENTRY_MAKE(offset, filemark));
	return 0;
}

static int apply(struct segment *segment, const struct record *record, uint64_t offset, uint64_t gap)
{
	uint32_t filemarks;
	int rc = catch_up(segment, record, offset, gap);

	if (rc)
		return rc;
	switch (record->kind) {
	case RECORD_BLOCK:
	case RECORD_FILEMARK:
		return apply_object(segment, record, offset);
	case RECORD_TRUNCATE:
		segment->epoch = record->epoch;
		return index_truncate(segment, record->object, offset + RECORD_HEADER_BYTES, &filemarks);
	case RECORD_MARK:
		segment->marked = offset + RECORD_HEADER_BYTES;
		return 0;
	default:
		segment->complete = true;
		return 0;
	}
}

static int apply_at(struct cursor *cursor, const struct record *record, uint64_t at, uint64_t *end)
{
	int rc = apply(cursor->segment, record, at, at - *end);

	*end = at + record_bytes(record);
	return rc;
}

/* Applies the records before `durable`, over gaps of damage; *end becomes the end of the last one. */
static int walk_durable(struct cursor *cursor, uint64_t durable, uint64_t *end)
{
	struct record record;
	int rc = 0;

	while (!rc && !cursor->segment->complete) {
		uint64_t at = next_record(cursor, *end, &record);

		if (at >= durable || at >= cursor->limit)
			break;
		rc = apply_at(cursor, &record, at, end);
	}
	return rc;
}

/* Applies the whole records from *end on; the first that is not whole ends the log. */
static int walk_tail(struct cursor *cursor, uint64_t *end)
{
	struct record record;
	int rc = 0;

	while (!rc && !cursor->segment->complete && *end < cursor->limit) {
		if (!decode_at(cursor, *end, &record) || !payload_verifies(cursor, *end, &record))
			break;
		rc = apply_at(cursor, &record, *end, end);
	}
	return rc;
}

/* Takes over what the manifest says the log had got to, where the log at hand ends before: the rest is damaged. */
static int take_promise(struct segment *segment, const struct promise *promise, uint64_t *end)
{
	const struct record state = {
		.kind = RECORD_MARK,
		.epoch = (uint8_t)promise->epoch,
		.object = promise->objects,
		.filemarks = promise->filemarks,
	};
	uint64_t from = *end;

	if (segment->complete || from >= promise->bytes)
		return 0;
	*end = promise->bytes;
	return catch_up(segment, &state, from, promise->bytes - from);
}

static int scan(struct cursor *cursor, const struct scan_bounds *bounds, uint64_t *end)
{
	uint64_t durable = bounds->durable > bounds->promise.bytes ? bounds->durable : bounds->promise.bytes;
	uint64_t marked;
	int rc;

	if (durable < cursor->limit) {
		marked = last_mark(cursor, bounds->start);
		durable = marked > durable ? marked : durable;
	}
	rc = walk_durable(cursor, durable, end);
	if (!rc)
		rc = take_promise(cursor->segment, &bounds->promise, end);
	return rc ? rc : walk_tail(cursor, end);
}

/* Completes the index from the log within `bounds`. Sets flushed to the end of the log, marked, epoch, complete and
 * damaged. -EIO: the device did not let us tell where the log ends, so nothing may be cut. */
int segment_scan(struct segment *segment, const struct scan_bounds *bounds)
{
	struct cursor cursor = { .segment = segment, .limit = bounds->limit };
	uint64_t end = bounds->start;
	bool open_ended = bounds->durable < bounds->limit;
	int rc;

	segment->complete = false;
	cursor.data = malloc(SCAN_WINDOW_BYTES);
	if (!cursor.data)
		return -ENOMEM;
	rc = scan(&cursor, bounds, &end);
	free(cursor.data);
	if (!rc && open_ended && end < bounds->limit && !segment->complete && cursor.unreadable > end)
		return -EIO;
	segment->flushed = end;
	return rc;
}
