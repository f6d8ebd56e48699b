/* The log of a segment: append.c writes it, read.c reads it, scan.c reads one whose index is not at hand. None needs the
 * GIL. */
#ifndef TAPEBAY_LOG_H
#define TAPEBAY_LOG_H

#include "segment/record.h"
#include "segment/segment.h"

int segment_append(struct segment *segment, struct record *record, const void *extension, const void *payload);
int segment_append_control(struct segment *segment, enum record_kind kind);
int segment_truncate(struct segment *segment, uint32_t object);
int segment_flush(struct segment *segment);
int segment_sync(struct segment *segment);
int segment_seal(struct segment *segment);
int segment_shorten(struct segment *segment, uint32_t object);
void segment_give_back(struct segment *segment);
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

/* ---- scan.c ----------------------------------------------------------------------------------------------------- */

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

#endif
