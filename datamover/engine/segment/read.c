/* Reading objects of a segment. Every block's CRC32C is verified on the way to the caller. */
#include "segment/index.h"
#include "segment/log.h"

#include <errno.h>
#include <stdlib.h>

#define WINDOW_BYTES (256u << 10)   /* read-ahead for small blocks */
#define WINDOW_MIN_BYTES (8u << 10)
#define WINDOWED_BYTES (32u << 10)  /* records up to here are served from the window */
#define PIECE_BYTES (1u << 20)      /* large blocks: read and checked piece by piece while the bytes are in the cache */

/* A record as found: its header, and `available` of its bytes at `data` (from the header on). */
struct found {
	struct record record;
	uint64_t offset;
	const unsigned char *data;
	size_t available;
};

/* ---- window ----------------------------------------------------------------------------------------------------- */

/* Bytes of the log at `offset`: from the write buffer or the window. *available >= wanted unless the log ends there.
 * Read-ahead starts small after a jump and doubles while reading stays sequential. */
static int log_bytes(struct segment *segment, uint64_t offset, size_t wanted, const unsigned char **data,
		     size_t *available)
{
	uint64_t window_end = segment->window_start + segment->window_length;
	size_t length;
	ssize_t done;

	if (offset >= segment->flushed) {
		*data = segment->buffer + (offset - segment->flushed);
		*available = (size_t)(segment_end(segment) - offset);
		return 0;
	}
	if (wanted > segment->flushed - offset)
		wanted = (size_t)(segment->flushed - offset);
	if (offset < segment->window_start || offset + wanted > window_end) {
		bool sequential = offset >= segment->window_start && offset <= window_end;

		if (!segment->window && !(segment->window = malloc(WINDOW_BYTES)))
			return -ENOMEM;
		segment->read_ahead = sequential ? segment->read_ahead * 2 : WINDOW_MIN_BYTES;
		if (segment->read_ahead > WINDOW_BYTES)
			segment->read_ahead = WINDOW_BYTES;
		length = segment->read_ahead > wanted ? segment->read_ahead : wanted;
		if (length > segment->flushed - offset)
			length = (size_t)(segment->flushed - offset);
		segment->window_length = 0;
		done = storage_read(&segment->file, segment->window, length, offset);
		if (done < 0)
			return (int)done;
		segment->window_start = offset;
		segment->window_length = (uint32_t)done;
	}
	*data = segment->window + (offset - segment->window_start);
	*available = (size_t)(segment->window_start + segment->window_length - offset);
	return 0;
}

/* A bound for the length of the record at `offset`: where the next object's record begins, or the log's end. */
static int record_span(struct segment *segment, uint32_t object, uint64_t offset, size_t *span)
{
	uint64_t next = segment_end(segment);
	uint32_t entry;

	if (object + 1 < segment->tables[TABLE_OBJECTS].count) {
		int rc = index_get(segment, TABLE_OBJECTS, object + 1, &entry);

		if (rc)
			return rc;
		if (!ENTRY_IS_LOST(entry) && ENTRY_OFFSET(entry) > offset)
			next = ENTRY_OFFSET(entry);
	}
	*span = (size_t)(next - offset);
	return 0;
}

/* An unreadable sector is damage of the block that lies there, as on any medium. */
static int damage(int rc)
{
	return rc == -EIO ? SEGMENT_DAMAGED : rc;
}

static bool header_verifies(struct segment *segment, uint32_t object, struct found *found)
{
	return record_decode(&found->record, segment->seed, found->offset, found->data, found->available) &&
	       found->record.object == object &&
	       (found->record.kind == RECORD_BLOCK || found->record.kind == RECORD_FILEMARK);
}

/* The one record that lies partly in the file and partly in the buffer is written out before it is read. */
static int unite(struct segment *segment, uint32_t object, uint64_t offset)
{
	const struct table *objects = &segment->tables[TABLE_OBJECTS];
	uint64_t next = segment_end(segment);

	if (!segment->buffered || offset >= segment->flushed)
		return 0;
	for (uint32_t i = object + 1; i < objects->count; i++) /* stops at the first that is not lost */
		if (!ENTRY_IS_LOST(objects->entries[i])) {
			next = ENTRY_OFFSET(objects->entries[i]);
			break;
		}
	return next > segment->flushed ? segment_flush(segment) : 0;
}

static int locate(struct segment *segment, uint32_t object, uint64_t *offset)
{
	uint32_t entry;
	int rc = index_get(segment, TABLE_OBJECTS, object, &entry);

	if (rc)
		return damage(rc);
	*offset = ENTRY_OFFSET(entry);
	return ENTRY_IS_LOST(entry) ? SEGMENT_DAMAGED : unite(segment, object, *offset);
}

/* Finds an object's header; `wanted` bytes of the record are brought along when it is no trouble. */
static int find(struct segment *segment, uint32_t object, size_t wanted, struct found *found)
{
	int rc = locate(segment, object, &found->offset);

	if (!rc)
		rc = damage(log_bytes(segment, found->offset, wanted, &found->data, &found->available));
	if (rc)
		return rc;
	if (found->available >= RECORD_HEADER_BYTES && found->available < RECORD_HEADER_BYTES + found->data[6] * 8u) {
		wanted = RECORD_HEADER_BYTES + found->data[6] * RECORD_ALIGNMENT;
		rc = damage(log_bytes(segment, found->offset, wanted, &found->data, &found->available));
	}
	if (!rc && !header_verifies(segment, object, found))
		return SEGMENT_DAMAGED;
	return rc;
}

/* ---- payload ---------------------------------------------------------------------------------------------------- */

/* Reads `length` payload bytes from the file, the first `room` of them into `into`, and returns their CRC. */
static int stream_payload(struct segment *segment, uint64_t offset, size_t length, unsigned char *into, size_t room,
			  uint32_t *crc)
{
	size_t done = 0;

	if (room < length) { /* what the caller does not take is read all the same: its CRC counts */
		if (!segment->window && !(segment->window = malloc(WINDOW_BYTES)))
			return -ENOMEM;
		segment->window_length = 0;
	}
	while (done < length) {
		size_t taken = done < room ? room - done : WINDOW_BYTES, piece = length - done;
		unsigned char *to = done < room ? into + done : segment->window;
		ssize_t got;

		if (piece > taken)
			piece = taken;
		if (piece > PIECE_BYTES)
			piece = PIECE_BYTES;
		got = storage_read(&segment->file, to, piece, offset + done);
		if (got < 0)
			return damage((int)got);
		if ((size_t)got < piece)
			return SEGMENT_DAMAGED;
		*crc = engine_crc32c(*crc, to, piece);
		done += piece;
	}
	return 0;
}

static int copy_payload(struct segment *segment, const struct found *found, void *into, size_t room)
{
	size_t prefix = record_prefix_bytes(&found->record), length = found->record.stored_length;
	const unsigned char *payload = found->data + prefix;
	uint32_t crc = 0;
	int rc;

	if (prefix + length <= found->available) {
		crc = engine_crc32c(0, payload, length);
		if (room)
			memcpy(into, payload, length < room ? length : room);
	} else {
		rc = stream_payload(segment, found->offset + prefix, length, into, room, &crc);
		if (rc)
			return rc;
	}
	segment->read_crc = crc;
	return crc == found->record.stored_crc ? 0 : SEGMENT_DAMAGED;
}

/* A large plain block in one go: header and the first piece of payload in one system call. */
static int read_direct(struct segment *segment, uint32_t object, uint64_t offset, size_t span, unsigned char *into,
		       size_t room, int64_t *result)
{
	unsigned char header[RECORD_HEADER_BYTES];
	struct found found = { .offset = offset, .data = header };
	size_t payload = span - RECORD_HEADER_BYTES, first = room < payload ? room : payload;
	struct iovec parts[2] = { { header, sizeof(header) }, { into, first < PIECE_BYTES ? first : PIECE_BYTES } };
	ssize_t got = storage_readv(&segment->file, parts, 2, offset);
	uint32_t crc;
	int rc;

	if (got < 0)
		return damage((int)got);
	found.available = (size_t)got < sizeof(header) ? (size_t)got : sizeof(header);
	if (found.available < sizeof(header) || header[6] || header[5])
		return SEGMENT_FULL; /* not plain: the caller takes the general way */
	if (!header_verifies(segment, object, &found) || found.record.stored_length > payload)
		return SEGMENT_DAMAGED;
	first = (size_t)got - sizeof(header);
	if (first > found.record.stored_length)
		first = found.record.stored_length;
	crc = engine_crc32c(0, into, first);
	rc = stream_payload(segment, offset + sizeof(header) + first, found.record.stored_length - first, into + first,
			    room - first, &crc);
	if (!rc && crc != found.record.stored_crc)
		rc = SEGMENT_DAMAGED;
	segment->read_crc = crc;
	*result = found.record.kind == RECORD_FILEMARK ? READ_FILEMARK : (int64_t)found.record.stored_length;
	return rc;
}

bool segment_at_hand(const struct segment *segment, uint32_t object)
{
	const struct table *objects = &segment->tables[TABLE_OBJECTS];
	uint64_t window_end = segment->window_start + segment->window_length, offset, next;

	if (!segment->resident || object + 1 >= objects->count)
		return false;
	offset = ENTRY_OFFSET(objects->entries[object]);
	next = ENTRY_OFFSET(objects->entries[object + 1]);
	if (next < offset || next - offset > LIMIT_GIL_BYTES)
		return false;
	return offset >= segment->flushed || (offset >= segment->window_start && next <= window_end);
}

/* ---- what Python calls -------------------------------------------------------------------------------------------- */

int segment_describe(struct segment *segment, uint32_t object, struct record *record, uint64_t *offset,
		     unsigned char *extension)
{
	struct found found;
	int rc = find(segment, object, RECORD_HEADER_BYTES, &found);

	if (rc)
		return rc;
	*record = found.record;
	*offset = found.offset;
	if (extension)
		memcpy(extension, found.data + RECORD_HEADER_BYTES, found.record.extension_units * RECORD_ALIGNMENT);
	return 0;
}

int segment_read(struct segment *segment, uint32_t object, void *into, size_t room, int64_t *result)
{
	struct found found;
	size_t span;
	int rc = locate(segment, object, &found.offset);

	if (!rc)
		rc = damage(record_span(segment, object, found.offset, &span));
	if (rc)
		return rc;
	if (span > WINDOWED_BYTES && found.offset < segment->flushed && room >= WINDOW_MIN_BYTES) {
		rc = read_direct(segment, object, found.offset, span, into, room, result);
		if (rc != SEGMENT_FULL)
			return rc;
	}
	rc = find(segment, object, span < WINDOWED_BYTES ? span : RECORD_HEADER_BYTES, &found);
	if (rc)
		return rc;
	*result = READ_FILEMARK;
	if (found.record.kind == RECORD_FILEMARK)
		return 0;
	*result = READ_ENCODED;
	if (found.record.form)
		return 0;
	*result = found.record.stored_length;
	return copy_payload(segment, &found, into, room);
}

int segment_read_stored(struct segment *segment, uint32_t object, void *into, size_t room, struct record *record,
			unsigned char *extension)
{
	struct found found;
	int rc = find(segment, object, RECORD_HEADER_BYTES, &found);

	if (rc)
		return rc;
	if (found.record.kind != RECORD_BLOCK || found.record.stored_length > room)
		return -EINVAL;
	*record = found.record;
	memcpy(extension, found.data + RECORD_HEADER_BYTES, found.record.extension_units * RECORD_ALIGNMENT);
	return copy_payload(segment, &found, into, room);
}

/* Checks one object as reading it would, whatever its form. *bytes grows by the record's length. */
int segment_verify(struct segment *segment, uint32_t object, uint64_t *bytes)
{
	struct found found;
	size_t span = 0;
	int rc = locate(segment, object, &found.offset);

	if (!rc)
		rc = damage(record_span(segment, object, found.offset, &span));
	if (!rc)
		rc = find(segment, object, span < WINDOWED_BYTES ? span : RECORD_HEADER_BYTES, &found);
	if (rc)
		return rc;
	*bytes += record_bytes(&found.record);
	return found.record.kind == RECORD_FILEMARK ? 0 : copy_payload(segment, &found, NULL, 0);
}
