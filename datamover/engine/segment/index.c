/* The index of a segment: where each logical object's record begins, which objects are filemarks, and which parts of
 * the log are dead. Resident (arrays) while a segment is written, paged (4 KiB at a time from the file) once it is
 * sealed. It holds nothing that the log does not say, so a damaged index is rebuilt from the log. FORMAT.md, "Tables".
 */
#include "segment/index.h"
#include "segment/log.h"

#include <errno.h>
#include <stdlib.h>

static const unsigned char trailer_magic[8] = "TBINDEX\1";

static uint32_t page_count(uint32_t entries)
{
	return (entries + TABLE_PAGE_ENTRIES - 1) / TABLE_PAGE_ENTRIES;
}

static uint32_t page_crc(const struct segment *segment, enum table_kind kind, uint32_t number, const unsigned char *page)
{
	unsigned char name[8];

	put32(name, kind);
	put32(name + 4, number);
	return engine_crc32c(engine_crc32c(segment->seed, name, sizeof(name)), page, TABLE_PAGE_BYTES - 4);
}

static bool page_verifies(const struct segment *segment, enum table_kind kind, uint32_t number,
			  const unsigned char *page)
{
	return get32(page + TABLE_PAGE_BYTES - 4) == page_crc(segment, kind, number, page);
}

/* ---- resident form ------------------------------------------------------------------------------------------- */

int index_reserve(struct segment *segment, enum table_kind kind, uint32_t more)
{
	struct table *table = &segment->tables[kind];
	uint32_t room = table->room;
	uint32_t *entries;

	if (table->room - table->count >= more)
		return 0;
	while (room - table->count < more)
		room = room ? room * 2 : 256;
	entries = realloc(table->entries, (size_t)room * sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	table->entries = entries;
	table->room = room;
	return 0;
}

/* Room must have been reserved: after a record has been written, nothing may fail. */
void index_push(struct segment *segment, enum table_kind kind, uint32_t entry)
{
	struct table *table = &segment->tables[kind];

	table->entries[table->count++] = entry;
}

void index_forget(struct segment *segment)
{
	for (int kind = 0; kind < TABLE_KINDS; kind++) {
		struct table *table = &segment->tables[kind];

		free(table->entries);
		free(table->page);
		table->entries = NULL;
		table->page = NULL;
		table->room = 0;
	}
	segment->resident = false;
}

uint64_t index_dead_bytes(const struct segment *segment)
{
	const struct table *dead = &segment->tables[TABLE_DEAD];
	uint64_t bytes = 0;

	for (uint32_t i = 0; dead->entries && i + 1 < dead->count; i += 2)
		bytes += (uint64_t)(dead->entries[i + 1] - dead->entries[i]) * RECORD_ALIGNMENT;
	return bytes;
}

/* Where the log stops being alive when `object` and all behind it go. A lost object has no known place. */
static uint64_t live_end(const struct segment *segment, uint32_t object, uint64_t log_end)
{
	const struct table *objects = &segment->tables[TABLE_OBJECTS];

	for (uint32_t i = object; i < objects->count; i++)
		if (!ENTRY_IS_LOST(objects->entries[i]))
			return ENTRY_OFFSET(objects->entries[i]);
	return log_end;
}

/* Drops the objects from `object` on; the log from there to `log_end` is dead. *filemarks: how many are left. */
int index_truncate(struct segment *segment, uint32_t object, uint64_t log_end, uint32_t *filemarks)
{
	struct table *dead = &segment->tables[TABLE_DEAD];
	uint64_t from = live_end(segment, object, log_end);
	int rc = index_reserve(segment, TABLE_DEAD, 2);

	if (!rc)
		rc = index_filemarks_before(segment, object, filemarks);
	if (rc)
		return rc;
	while (dead->count && dead->entries[dead->count - 2] >= from / RECORD_ALIGNMENT)
		dead->count -= 2;
	if (from < log_end) {
		index_push(segment, TABLE_DEAD, (uint32_t)(from / RECORD_ALIGNMENT));
		index_push(segment, TABLE_DEAD, (uint32_t)(log_end / RECORD_ALIGNMENT));
	}
	segment->tables[TABLE_OBJECTS].count = object;
	segment->tables[TABLE_FILEMARKS].count = *filemarks;
	return 0;
}

int index_cut_point(struct segment *segment, uint32_t object, uint64_t *end, uint32_t *filemarks, uint64_t *used_bytes)
{
	const struct table *dead = &segment->tables[TABLE_DEAD];
	int rc = index_make_resident(segment);

	if (!rc)
		rc = index_filemarks_before(segment, object, filemarks);
	if (rc)
		return rc;
	*end = live_end(segment, object, segment_end(segment) - (segment->sealed ? RECORD_HEADER_BYTES : 0));
	*used_bytes = *end - SEGMENT_HEADER_BYTES;
	for (uint32_t i = 0; i + 1 < dead->count && dead->entries[i] < *end / RECORD_ALIGNMENT; i += 2)
		*used_bytes -= (uint64_t)(dead->entries[i + 1] - dead->entries[i]) * RECORD_ALIGNMENT;
	return 0;
}

/* ---- encoded form: a sealed segment's tail, and the checkpoint of one that is not sealed ------------------------- */

static size_t tables_bytes(const struct segment *segment)
{
	size_t pages = 0;

	for (int kind = 0; kind < TABLE_KINDS; kind++)
		pages += page_count(segment->tables[kind].count);
	return pages * TABLE_PAGE_BYTES;
}

size_t index_encoded_bytes(const struct segment *segment)
{
	return tables_bytes(segment) + TRAILER_BYTES;
}

static unsigned char *encode_table(const struct segment *segment, enum table_kind kind, unsigned char *page)
{
	const struct table *table = &segment->tables[kind];

	for (uint32_t number = 0; number < page_count(table->count); number++, page += TABLE_PAGE_BYTES) {
		uint32_t first = number * TABLE_PAGE_ENTRIES;

		memset(page, 0, TABLE_PAGE_BYTES);
		for (uint32_t i = 0; i < TABLE_PAGE_ENTRIES && first + i < table->count; i++)
			put32(page + 4 * i, table->entries[first + i]);
		put32(page + TABLE_PAGE_BYTES - 4, page_crc(segment, kind, number, page));
	}
	return page;
}

void index_encode(const struct segment *segment, unsigned char *data)
{
	for (int kind = 0; kind < TABLE_KINDS; kind++)
		data = encode_table(segment, kind, data);
	memset(data, 0, TRAILER_BYTES);
	memcpy(data, trailer_magic, sizeof(trailer_magic));
	put64(data + 8, segment_end(segment));
	put32(data + 16, segment->tables[TABLE_OBJECTS].count);
	put32(data + 20, segment->tables[TABLE_FILEMARKS].count);
	put32(data + 24, segment->tables[TABLE_DEAD].count);
	put32(data + 28, segment->epoch);
	put64(data + 32, segment->marked);
	put32(data + 60, engine_crc32c(segment->seed, data, TRAILER_BYTES - 4));
}

static int decode_table(struct segment *segment, enum table_kind kind, const unsigned char **page)
{
	struct table *table = &segment->tables[kind];
	uint32_t count = table->count;
	int rc;

	table->count = 0;
	rc = index_reserve(segment, kind, count);
	if (rc)
		return rc;
	for (uint32_t number = 0; number < page_count(count); number++, *page += TABLE_PAGE_BYTES) {
		if (!page_verifies(segment, kind, number, *page))
			return SEGMENT_DAMAGED;
		for (uint32_t i = 0; i < TABLE_PAGE_ENTRIES && table->count < count; i++)
			index_push(segment, kind, get32(*page + 4 * i));
	}
	return 0;
}

/* The tables' counts are known; `data` holds the pages. */
static int decode_tables(struct segment *segment, const unsigned char *data)
{
	int rc = 0;

	for (int kind = 0; kind < TABLE_KINDS && !rc; kind++)
		rc = decode_table(segment, kind, &data);
	if (!rc)
		segment->resident = true;
	return rc;
}

/* Takes over a checkpoint. SEGMENT_DAMAGED when it is not this segment's or does not verify; then nothing is kept. */
int index_decode(struct segment *segment, const unsigned char *data, size_t length)
{
	const unsigned char *trailer = data + length - TRAILER_BYTES;
	int rc;

	if (length < TRAILER_BYTES || memcmp(trailer, trailer_magic, sizeof(trailer_magic)) ||
	    get32(trailer + 60) != engine_crc32c(segment->seed, trailer, TRAILER_BYTES - 4))
		return SEGMENT_DAMAGED;
	segment->tables[TABLE_OBJECTS].count = get32(trailer + 16);
	segment->tables[TABLE_FILEMARKS].count = get32(trailer + 20);
	segment->tables[TABLE_DEAD].count = get32(trailer + 24);
	rc = length == index_encoded_bytes(segment) ? decode_tables(segment, data) : SEGMENT_DAMAGED;
	if (rc) {
		index_forget(segment);
		for (int kind = 0; kind < TABLE_KINDS; kind++)
			segment->tables[kind].count = 0;
		return rc;
	}
	segment->flushed = get64(trailer + 8);
	segment->epoch = (uint8_t)get32(trailer + 28);
	segment->marked = get64(trailer + 32);
	return 0;
}

/* ---- paged form -------------------------------------------------------------------------------------------------- */

/* The tables of a sealed segment begin right behind its SEAL record. */
static uint64_t page_offset(const struct segment *segment, enum table_kind kind, uint32_t number)
{
	uint64_t pages = number;

	for (int before = 0; before < (int)kind; before++)
		pages += page_count(segment->tables[before].count);
	return segment->flushed + pages * TABLE_PAGE_BYTES;
}

static int load_page(struct segment *segment, enum table_kind kind, uint32_t number)
{
	struct table *table = &segment->tables[kind];
	ssize_t done;

	if (!table->page && !(table->page = malloc(TABLE_PAGE_BYTES)))
		return -ENOMEM;
	table->page_number = UINT32_MAX;
	done = storage_read(&segment->file, table->page, TABLE_PAGE_BYTES, page_offset(segment, kind, number));
	if (done != TABLE_PAGE_BYTES || !page_verifies(segment, kind, number, table->page))
		return SEGMENT_DAMAGED;
	table->page_number = number;
	return 0;
}

/* The log of a sealed segment says everything again. */
static int rebuild(struct segment *segment)
{
	uint32_t objects = segment->tables[TABLE_OBJECTS].count, filemarks = segment->tables[TABLE_FILEMARKS].count;
	uint64_t end = segment->flushed - RECORD_HEADER_BYTES; /* before the SEAL record */
	struct scan_bounds bounds = { .start = SEGMENT_HEADER_BYTES, .limit = end, .durable = end };
	int rc;

	index_forget(segment);
	for (int kind = 0; kind < TABLE_KINDS; kind++)
		segment->tables[kind].count = 0;
	segment->epoch = 0;
	segment->resident = true;
	rc = segment_scan(segment, &bounds);
	if (!rc)
		rc = segment_fill_lost(segment, objects, filemarks);
	segment->flushed = end + RECORD_HEADER_BYTES;
	return rc;
}

int index_make_resident(struct segment *segment)
{
	size_t length = tables_bytes(segment);
	unsigned char *pages;
	int rc;

	if (segment->resident)
		return 0;
	pages = malloc(length + 1); /* an empty segment has no page */
	if (!pages)
		return -ENOMEM;
	if (storage_read(&segment->file, pages, length, segment->flushed) == (ssize_t)length)
		rc = decode_tables(segment, pages);
	else
		rc = SEGMENT_DAMAGED;
	free(pages);
	return rc == SEGMENT_DAMAGED ? rebuild(segment) : rc;
}

int index_get(struct segment *segment, enum table_kind kind, uint32_t position, uint32_t *entry)
{
	struct table *table = &segment->tables[kind];
	uint32_t number = position / TABLE_PAGE_ENTRIES;
	int rc = 0;

	if (!segment->resident && (!table->page || table->page_number != number))
		rc = load_page(segment, kind, number);
	if (rc == SEGMENT_DAMAGED)
		rc = rebuild(segment);
	if (rc)
		return rc;
	if (segment->resident)
		*entry = table->entries[position];
	else
		*entry = get32(table->page + position % TABLE_PAGE_ENTRIES * 4);
	return 0;
}

/* How many of the filemarks come before an object: bisects the filemarks' object numbers. */
int index_filemarks_before(struct segment *segment, uint32_t object, uint32_t *filemarks)
{
	uint32_t low = 0, high = segment->tables[TABLE_FILEMARKS].count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2, at;
		int rc = index_get(segment, TABLE_FILEMARKS, middle, &at);

		if (rc)
			return rc;
		if (at < object)
			low = middle + 1;
		else
			high = middle;
	}
	*filemarks = low;
	return 0;
}

/* Counts filemarks in a row, from filemark `number` on, until `wanted` are found or the segment has no more. *previous
 * and *length carry the run over from the segment before: its last object, relative to this segment, and how long. */
int index_filemark_run(struct segment *segment, uint32_t number, bool backwards, uint64_t wanted, int64_t *previous,
		       uint64_t *length)
{
	int64_t step = backwards ? -1 : 1;

	for (; number < segment->tables[TABLE_FILEMARKS].count && *length < wanted; number += (uint32_t)step) {
		uint32_t object;
		int rc = index_get(segment, TABLE_FILEMARKS, number, &object);

		if (rc)
			return rc;
		*length = *length && object == *previous + step ? *length + 1 : 1;
		*previous = object;
	}
	return 0;
}
