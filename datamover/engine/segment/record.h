/* The header of a record in a segment's log. vlib_images/FORMAT.md is the specification. */
#ifndef TAPEBAY_RECORD_H
#define TAPEBAY_RECORD_H

#include "engine.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

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

#endif
