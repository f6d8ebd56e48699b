/* RFC 7143 as the connection needs it: opcodes, reasons, bytes on the wire, serial numbers. */
#ifndef TAPEBAY_PROTOCOL_H
#define TAPEBAY_PROTOCOL_H

#include <stdbool.h>
#include <stdint.h>

#define BHS_BYTES 48u
#define AHS_BYTES_MAX (255u * 4)		/* TotalAHSLength counts words in one byte */
#define DIGEST_BYTES 4u
#define RESERVED_TAG 0xffffffffu

enum opcode {				/* 11.2.1.2 */
	NOP_OUT = 0x00, SCSI_COMMAND = 0x01, TASK_MANAGEMENT = 0x02, LOGIN = 0x03, TEXT = 0x04, DATA_OUT = 0x05,
	LOGOUT = 0x06, SNACK = 0x10, NOP_IN = 0x20, SCSI_RESPONSE = 0x21, DATA_IN = 0x25, R2T = 0x31, REJECT = 0x3f,
};

enum reject_reason {			/* 11.17.1 */
	REJECT_DATA_DIGEST_ERROR = 0x02, REJECT_PROTOCOL_ERROR = 0x04, REJECT_COMMAND_NOT_SUPPORTED = 0x05,
	REJECT_IMMEDIATE_COMMAND = 0x06, REJECT_INVALID_PDU_FIELD = 0x09,
};

static inline uint32_t get_16(const unsigned char *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t get_24(const unsigned char *p) { return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2]; }
static inline uint32_t get_32(const unsigned char *p) { return get_16(p) << 16 | get_16(p + 2); }
static inline uint64_t get_64(const unsigned char *p) { return (uint64_t)get_32(p) << 32 | get_32(p + 4); }

static inline void put_16(unsigned char *p, uint32_t v) { p[0] = (unsigned char)(v >> 8); p[1] = (unsigned char)v; }
static inline void put_24(unsigned char *p, uint32_t v) { p[0] = (unsigned char)(v >> 16); put_16(p + 1, v); }
static inline void put_32(unsigned char *p, uint32_t v) { put_16(p, v >> 16); put_16(p + 2, v); }
static inline void put_64(unsigned char *p, uint64_t v) { put_32(p, (uint32_t)(v >> 32)); put_32(p + 4, (uint32_t)v); }

/* A digest goes onto the wire least significant byte first (RFC 7143 13.1 and its examples). */
static inline uint32_t get_digest(const unsigned char *p)
{
	return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

/* Serial number arithmetic (RFC 1982, RFC 7143 4.2.2.1): a is before b. */
static inline bool sn_before(uint32_t a, uint32_t b) { return (int32_t)(a - b) < 0; }

static inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

#endif
