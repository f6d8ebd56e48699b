/* The record header: 32 bytes before every block, filemark and control record of a segment. FORMAT.md, "Records". */
#include "segment/record.h"

/* The CRC also covers the record's own offset, so that a copy of this very segment, written to the tape as somebody's
 * data, never passes for a record; the seed is the segment's own, so neither does a record of another life. */
static uint32_t header_crc(uint32_t seed, uint64_t offset, const unsigned char *header, const void *extension,
			   uint32_t extension_bytes)
{
	unsigned char covered[8 + RECORD_HEADER_BYTES - 4];
	uint32_t crc;

	put64(covered, offset);
	memcpy(covered + 8, header + 4, RECORD_HEADER_BYTES - 4);
	crc = engine_crc32c(seed, covered, sizeof(covered));
	return extension_bytes ? engine_crc32c(crc, extension, extension_bytes) : crc;
}

void record_encode(const struct record *record, uint32_t seed, uint64_t offset, const void *extension,
		   unsigned char header[RECORD_HEADER_BYTES])
{
	header[4] = record->kind;
	header[5] = record->form;
	header[6] = record->extension_units;
	header[7] = record->epoch;
	put32(header + 8, record->object);
	put32(header + 12, record->filemarks);
	put32(header + 16, record->logical_length);
	put32(header + 20, record->stored_length);
	put32(header + 24, record->stored_crc);
	put32(header + 28, record->logical_crc);
	put32(header, header_crc(seed, offset, header, extension, record->extension_units * RECORD_ALIGNMENT));
}

bool record_plausible(const unsigned char *data)
{
	/* Both lengths are below 32 MiB, and only blocks have a payload, a form or an extension. */
	if (data[4] < RECORD_BLOCK || data[4] > RECORD_SEAL || data[19] > 1 || data[23] > 1)
		return false;
	return data[4] == RECORD_BLOCK || (!data[5] && !data[6] && !get32(data + 16) && !get32(data + 20));
}

bool record_decode(struct record *record, uint32_t seed, uint64_t offset, const unsigned char *data, size_t available)
{
	uint32_t extension_bytes;

	if (available < RECORD_HEADER_BYTES || !record_plausible(data))
		return false;
	extension_bytes = data[6] * RECORD_ALIGNMENT;
	if (available < RECORD_HEADER_BYTES + extension_bytes)
		return false;
	if (get32(data) != header_crc(seed, offset, data, data + RECORD_HEADER_BYTES, extension_bytes))
		return false;
	*record = (struct record){
		.kind = data[4],
		.form = data[5],
		.extension_units = data[6],
		.epoch = data[7],
		.object = get32(data + 8),
		.filemarks = get32(data + 12),
		.logical_length = get32(data + 16),
		.stored_length = get32(data + 20),
		.stored_crc = get32(data + 24),
		.logical_crc = get32(data + 28),
	};
	return true;
}
