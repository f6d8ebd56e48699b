/* Where each object's record begins: the tables of a segment, in memory or in its file page by page. */
#ifndef TAPEBAY_INDEX_H
#define TAPEBAY_INDEX_H

#include "segment/segment.h"

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

#endif
