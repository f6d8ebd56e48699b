/* Tapebay's engine: the C that touches bytes. Python decides; nothing here knows what a CDB, a sense key or a mode page
 * is.
 *
 * Every limit of the engine is named in this header. One .c file per concern; each registers what it gives to Python
 * through its register_*() function, called once by module.c. Built against the limited API of Python 3.11.
 */
#ifndef TAPEBAY_ENGINE_H
#define TAPEBAY_ENGINE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* The largest transfer of one SCSI command: a tape block is 16 MiB - 1 at the most (24-bit TRANSFER LENGTH). */
#define LIMIT_TRANSFER_BYTES (16u << 20)

/* The smallest buffer of a pool: a page, so that every buffer suits direct I/O. */
#define LIMIT_SMALLEST_BUFFER_BYTES 4096u

/* Shorter work keeps the GIL: giving it up and taking it back costs about as much as 4 KiB of CRC or copying. */
#define LIMIT_GIL_BYTES 4096

/* connection*.c: what one peer can make us hold. */

/* Places in a command window. An initiator uses some hundreds at most; the slots are allocated with the connection. */
#define LIMIT_COMMAND_WINDOW 4096u

/* Immediate requests are outside the command window (RFC 7143 4.2.2.1), so they need a bound of their own; one more is
 * rejected with "too many immediate commands". */
#define LIMIT_IMMEDIATE_REQUESTS 64u

/* The longest CDB that SPC defines (variable length, 7Fh); a longer Extended CDB AHS is a format error. */
#define LIMIT_CDB_BYTES 260u

/* R2Ts of one command under way, whatever was negotiated: more would gain nothing, each is a row in every request. */
#define LIMIT_OUTSTANDING_R2T 8u

/* Data segments of NOP-Out, Text and the like that wait for an earlier CmdSN, together with the one being received. */
#define LIMIT_WAITING_PDU_BYTES (1u << 20)

/* One read from the socket: about eight commands of 10 KiB with immediate data, so that a busy queue costs one call. */
#define LIMIT_INPUT_BYTES (128u << 10)

/* Before a thread sleeps for input it looks again for this long, giving its processor away between looks. At queue
 * depth 1 that saves the wake-up, which costs more than a command does: 12 thousand commands a second became 35 thousand, for
 * less processor time in all; on a machine whose processors are all busy it changes nothing. Only a peer whose bytes
 * came quickly the last time is worth it. */
#define LIMIT_POLL_US 50
#define LIMIT_QUICK_US 200

/* One sendmsg(): below IOV_MAX (1024), and headers, digests and short data in one scratch area. */
#define LIMIT_OUTPUT_PIECES 512
#define LIMIT_OUTPUT_SCRATCH_BYTES (64u << 10)

/* Data up to here are copied beside their header; a reference and a scatter entry would cost more. A Reject carries
 * a whole header, 48 + 1020 bytes. */
#define LIMIT_OUTPUT_COPY_BYTES 1280u

/* Responses wait for each other until this much is queued; then the peer should be reading while we go on. */
#define LIMIT_OUTPUT_COALESCE_BYTES (64u << 10)

/* One send: what a peer has to take within the send timeout, however it reads. */
#define LIMIT_OUTPUT_BATCH_BYTES (4u << 20)

/* Data-Out that may still come for commands that were aborted or rejected; what comes beyond is answered with Reject. */
#define LIMIT_LATE_SEQUENCES 64u

/* Data-Out that was asked for is due after the data timeout, and a second later for each of these that a connection
 * waits for at one time. */
#define LIMIT_DATA_BYTES_PER_SECOND (1u << 20)

/* SPC: the ADDITIONAL SENSE LENGTH of fixed and descriptor sense is at most 244, after 8 bytes. */
#define LIMIT_SENSE_BYTES 252

/* ---- crc32c.c ---------------------------------------------------------------------------------------------------- */

/* CRC32C (Castagnoli, reflected, as RFC 7143 13.1 and SSC-5 use it) of `length` bytes at `data`, continued from `crc`
 * (0 to start). None of these needs the GIL. */
uint32_t engine_crc32c(uint32_t crc, const void *data, size_t length);

/* Copies and computes in one pass over the cache: the CRC of the bytes copied, continued from `crc`. */
uint32_t engine_copy_crc32c(void *destination, const void *source, size_t length, uint32_t crc);

/* CRC32C of two adjoining pieces from their own: `crc_first`, then `crc_second` over `length_second` bytes. */
uint32_t engine_crc32c_combine(uint32_t crc_first, uint32_t crc_second, uint64_t length_second);

/* The variants that use the CPU (crc32c_x86.c, crc32c_arm.c) take and return the inverted register. */
typedef uint32_t crc32c_function(uint32_t state, const unsigned char *data, size_t length);

struct crc32c_variant {
	const char *name;
	bool (*available)(void);	/* also prepares the variant's constants */
	crc32c_function *update;
};

extern const struct crc32c_variant crc32c_variants_cpu[];	/* the fastest first; ends with a NULL name */

/* x^n modulo the Castagnoli polynomial, reflected: the constants that fold and shift a CRC. */
uint32_t crc32c_x_power(uint64_t n);

/* ---- reed_solomon.c, protection.c: logical block protection ------------------------------------------------------ */

/* The Reed-Solomon CRC of `length` bytes at `data`, continued from `crc` (0 to start). */
uint32_t engine_reed_solomon_crc(uint32_t crc, const void *data, size_t length);

/* The codes are those of SSC-5 8.4.9, LOGICAL BLOCK PROTECTION METHOD. */
enum protection_method { PROTECTION_REED_SOLOMON = 1, PROTECTION_CRC32C = 2 };

#define PROTECTION_BYTES 4u

/* Whether it is one of them; if not, ValueError is set. */
bool engine_protection_known(int method);

/* The protection information of a block whose CRC32C is `crc`, as it stands behind the block. */
void engine_protect(enum protection_method method, const void *block, size_t length, uint32_t crc,
		    unsigned char information[PROTECTION_BYTES]);

/* Whether what stands behind the block is its protection information; *crc becomes the block's CRC32C. */
bool engine_protection_verifies(enum protection_method method, const void *block, size_t length, uint32_t *crc);

/* ProtectionMismatch, for other files to raise. */
extern PyObject *engine_protection_mismatch;

/* ---- buffer.c ---------------------------------------------------------------------------------------------------- */

struct buffer_pool;
struct buffer_block;			/* one piece of a pool's memory; counted, so that several users can hold it */

/* A block of at least `length` (<= LIMIT_TRANSFER_BYTES) bytes with one reference, or NULL when the pool's bound is
 * reached or the machine has no memory. Needs no GIL, nor do the next four. */
struct buffer_block *engine_block_acquire(struct buffer_pool *pool, size_t length);
void engine_block_retain(struct buffer_block *block);
void engine_block_release(struct buffer_block *block);
unsigned char *engine_block_memory(struct buffer_block *block);
/* What a buffer of `length` bytes counts for: its size class. */
size_t engine_block_size_for(size_t length);

/* Whether whoever holds `held` bytes of the pool may take `length` more and leave the others their share: twice as much
 * as it then holds stays free, so that the many who want much end with equal shares and something is left for a few
 * more. */
bool engine_pool_grants(struct buffer_pool *pool, size_t held, size_t length);
/* Whether the pool is far from its bound even with `length` bytes more. */
bool engine_pool_has_plenty(struct buffer_pool *pool, size_t length);
/* The pool inside a Python BufferPool (borrowed; the object keeps it alive), or NULL with TypeError set. */
struct buffer_pool *engine_buffer_pool(PyObject *object);
/* A DataBuffer of `length` bytes on the block, whose reference it takes over even when it fails (NULL, error set). */
PyObject *engine_data_buffer_new(struct buffer_block *block, size_t length);
/* The block under a DataBuffer (borrowed), or NULL, with no error set, when the object is something else. */
struct buffer_block *engine_data_buffer_block(PyObject *object);
/* PoolExhausted, for other files to raise. */
extern PyObject *engine_pool_exhausted;

/* ---- registration ------------------------------------------------------------------------------------------------ */

int register_crc32c(PyObject *module);
int register_buffer(PyObject *module);
int register_connection(PyObject *module);
int register_lzo(PyObject *module);
int register_protection(PyObject *module);
int register_reed_solomon(PyObject *module);
int register_segment(PyObject *module);
int register_small_files(PyObject *module);
int register_instruments(PyObject *module);
int register_bytes(PyObject *module);
int register_file(PyObject *module);
int register_saver(PyObject *module);

#endif
