/* Inside of the iSCSI connection: shared by connection*.c only. What other files may use of the engine is in engine.h.
 *
 *   connection.c            the Connection object: how one is made and ends
 *   connection_methods.c    its methods, as Python calls them
 *   connection_objects.c    what receive() hands out: ScsiCommand, Pdu
 *   connection_receive.c    bytes from the socket to PDUs, and the wait for the next request
 *   connection_pdus.c       what each PDU of the initiator does
 *   connection_requests.c   the table of requests: command window, order, Data-Out memory, R2T
 *   connection_send.c       PDUs to bytes on the socket: batches, Data-In, responses
 *
 * Locks. `lock` guards all state below it and is held for short stretches only, never across a system call that can
 * block, never while taking the GIL; so it may be taken with the GIL held. `send_lock` is held while bytes are written
 * to the socket, which can last for a send timeout; it is taken before `lock` and without the GIL.
 * The input side (`input`, `incoming`) belongs to the one thread inside receive().
 */
#ifndef TAPEBAY_CONNECTION_H
#define TAPEBAY_CONNECTION_H

#include <pthread.h>
#include <sys/uio.h>

#include "engine.h"

/* ---- RFC 7143 ---------------------------------------------------------------------------------------------------- */

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

enum data_error {			/* DATA_ERROR_* in _engine.pyi, which says what each means */
	DATA_OK, DATA_DIGEST, DATA_SEQUENCE, DATA_UNEXPECTED, DATA_AMOUNT, DATA_NO_BUFFER, DATA_TOO_LARGE,
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

/* ---- requests ---------------------------------------------------------------------------------------------------- */

struct r2t {
	uint32_t target_transfer_tag, end, data_sn;	/* asks for the bytes up to `end`; the DataSN expected next */
};

enum request_kind { KIND_COMMAND, KIND_PDU, KIND_PLUG };

/* One request of the initiator, from its arrival until it is answered (a SCSI command) or handed out (another PDU). */
struct request {
	struct request *next, *previous;	/* in `queue`, or the list of free slots */
	struct queue *queue;
	struct request *next_in_bucket;		/* SCSI commands, by Initiator Task Tag */
	enum request_kind kind;
	bool immediate, holds_place, handed_out, dropped, in_table;
	bool whole;				/* all its data are here, or never will be: it can be handed out */
	uint32_t tag, cmd_sn;
	unsigned char bhs[BHS_BYTES];

	/* SCSI commands */
	bool read, write, unsolicited_open;	/* unsolicited_open: Data-Out without an R2T is still to come */
	uint32_t expected, read_expected;	/* bytes of Data-Out and of Data-In that the initiator expects */
	uint32_t bidirectional_read_length;
	unsigned char extended_cdb[LIMIT_CDB_BYTES - 16];
	uint32_t extended_cdb_length;
	struct buffer_block *block;		/* where Data-Out is gathered */
	size_t held_bytes;			/* what counts against the budget; until the command is answered */
	uint32_t received, requested;		/* Data-Out gathered; announced unsolicited or asked for by R2T */
	uint32_t unsolicited_limit, unsolicited_data_sn;
	struct r2t r2ts[LIMIT_OUTSTANDING_R2T];	/* under way, oldest first */
	uint32_t r2t_count;
	uint32_t data_sn;			/* R2TSN and DataSN of Data-In, which share one sequence (11.8.3) */
	uint32_t data_in_count;
	enum data_error data_error;

	/* other PDUs */
	unsigned char *data;
	uint32_t data_length;
};

struct queue {
	struct request *first, *last;
};

/* ---- output ------------------------------------------------------------------------------------------------------ */

/* Payload that batches refer to: a block of a pool, let go without the GIL, or any other buffer of Python's. */
struct payload {
	struct payload *next;			/* in `finished_views` */
	struct buffer_block *block;
	Py_buffer view;				/* when there is no block */
	const unsigned char *data;
	unsigned references;			/* one of the answer being made, one a batch */
};

struct batch {
	struct iovec pieces[LIMIT_OUTPUT_PIECES];
	int piece_count;
	size_t bytes;
	struct payload *payloads[LIMIT_OUTPUT_PIECES];
	int payload_count;
	size_t scratch_used;
	unsigned char scratch[LIMIT_OUTPUT_SCRATCH_BYTES];
};

/* ---- the connection ---------------------------------------------------------------------------------------------- */

enum phase { PHASE_HEADER, PHASE_SEGMENT, PHASE_TRAILER };

struct incoming {				/* the PDU being received */
	enum phase phase;
	unsigned char header[BHS_BYTES + AHS_BYTES_MAX];
	uint32_t header_length, segment_length, segment_received;
	unsigned char *sink;			/* where the data segment goes; NULL: nowhere */
	uint32_t crc;
	struct request *request;		/* whose PDU it is; NULL: the PDU is only skipped */
	uint32_t r2t_index;			/* Data-Out: the R2T it answers, or RESERVED_TAG */
};

struct negotiated {
	bool header_digest, data_digest, initial_r2t, immediate_data;
	uint32_t max_recv_data_segment_length, max_send_data_segment_length;
	uint32_t first_burst_length, max_burst_length, max_outstanding_r2t;
	uint32_t command_window;
	size_t buffer_budget;
	double send_timeout_seconds;
};

#define TAG_BUCKETS 256u

struct connection {
	PyObject_HEAD
	int descriptor;
	PyObject *pool_object;
	struct buffer_pool *pool;
	struct negotiated negotiated;

	/* of receive()'s thread */
	bool receiving;
	struct incoming incoming;
	unsigned char *input;
	size_t input_start, input_end;
	bool quick_peer;			/* its bytes came quickly the last time */
	char error[200];			/* the line of a ProtocolError */

	pthread_mutex_t send_lock;
	pthread_mutex_t lock;
	const char *closed;			/* why, once it is */
	pthread_t receiver;
	bool has_receiver;

	uint32_t stat_sn, exp_cmd_sn, next_target_transfer_tag;
	uint32_t places_held;			/* of the command window, by requests that came in order */
	uint32_t immediate_count, waiting_pdu_bytes;
	size_t held_bytes, whole_bytes;		/* Data-Out memory: of all commands, of those that are whole */
	bool starved;				/* an R2T waits for memory, or for room in the output */
	struct request *slots, *free_slots;
	struct request *table[TAG_BUCKETS];
	struct queue urgent;			/* to hand out at once: immediate, task management */
	struct queue ordered;			/* came in CmdSN order, to hand out in that order, each when whole */
	struct queue held;			/* came after a gap in CmdSN; sorted */
	struct queue arriving;			/* immediate commands whose Data-Out is still to come */

	struct batch *filling, *sending;
	struct payload *finished_views;		/* sent; to be released by whoever next holds the GIL */

	unsigned long long commands, bytes_in, bytes_out, pdus_in, pdus_out;
};

/* ---- connection.c ---- */

/* Memory and locks of a connection whose descriptor, pool, `negotiated` and sequence numbers are set, and whose other
 * fields are zero. False: no memory; connection_clear() is wanted all the same. */
bool connection_init(struct connection *c);
void connection_clear(struct connection *c);

/* ---- connection_requests.c (lock held) --------------------------------------------------------------------------- */

int requests_init(struct connection *c);
void requests_clear(struct connection *c);
uint32_t requests_max_cmd_sn(const struct connection *c);
bool requests_in_window(const struct connection *c, uint32_t cmd_sn);
/* A slot, or NULL when there are too many immediate requests. */
struct request *request_new(struct connection *c, const unsigned char *bhs, enum request_kind kind);
void request_free(struct connection *c, struct request *r);
void request_give_place_back(struct connection *c, struct request *r);
struct request *requests_find(struct connection *c, uint32_t tag);
/* Puts a received request where it belongs by its CmdSN. Takes it over; one that came twice is freed. */
void requests_accept(struct connection *c, struct request *r);
/* What is to be handed out now, marked so; NULL: nothing. */
struct request *requests_next(struct connection *c);
/* Memory for the unsolicited data of a new command; failing that, its data_error is set. */
void request_prepare_memory(struct connection *c, struct request *r);
/* After a change of its data: sees whether the command is whole. */
void request_settle(struct connection *c, struct request *r);
/* Sends the R2Ts that limits and memory allow. */
void requests_solicit(struct connection *c);
/* After places came free without a response to say so: tells an initiator whose window was closed. */
void requests_announce_window(struct connection *c, bool was_closed);

/* Counts a CmdSN that never came as received. False: outside the window, or it came. */
bool requests_plug(struct connection *c, uint32_t cmd_sn);

struct abort_filter {
	bool by_tag, by_lun, by_cmd_sn;
	uint32_t tag, before_cmd_sn;
	uint64_t lun;
};

/* Drops the commands not handed out that match; `tags` has room for a tag of every slot. Returns how many. */
size_t requests_abort(struct connection *c, const struct abort_filter *filter, uint32_t *tags);
size_t requests_slot_count(const struct connection *c);

/* ---- connection_send.c ------------------------------------------------------------------------------------------- */

struct answer {
	unsigned char status;
	const unsigned char *sense;
	uint32_t sense_length;
	struct payload *payload;		/* NULL: `data` is short and may be copied */
	const unsigned char *data;
	size_t data_length;
	int64_t wanted;				/* what the command wanted to move; -1: see respond() in _engine.pyi */
};

/* With the lock held: */
bool output_has_room(const struct connection *c, int pdus);
void output_pdu(struct connection *c, unsigned char bhs[BHS_BYTES], const unsigned char *data, uint32_t length,
		struct payload *payload);
void output_reject(struct connection *c, enum reject_reason reason);	/* of the PDU in `incoming` */
void output_r2t(struct connection *c, const struct request *r, uint32_t target_transfer_tag, uint32_t r2t_sn,
		uint32_t offset, uint32_t length);
void output_nop_in(struct connection *c);
uint32_t output_take_stat_sn(struct connection *c);
/* Data-In and status, then frees the request. Lets the lock go to send when a batch is full. */
void output_answer(struct connection *c, struct request *r, const struct answer *answer);
void payload_drop(struct connection *c, struct payload *payload);
void connection_close(struct connection *c, const char *why);

/* Without locks and GIL: sends what is queued. False: the connection is closed. */
bool connection_flush(struct connection *c);

/* ---- connection_pdus.c (lock held, on receive()'s thread) -------------------------------------------------------- */

/* The header of a PDU is in `incoming`: sets where its data segment goes. False: a format error, said in `error`. */
bool pdu_begin(struct connection *c);
/* The whole PDU is there. */
void pdu_end(struct connection *c, bool digest_good);
/* Writes the line of a ProtocolError about the PDU in `incoming`. Always false. */
__attribute__((format(printf, 2, 3))) bool pdu_format_error(struct connection *c, const char *format, ...);

/* ---- connection_receive.c ---------------------------------------------------------------------------------------- */

enum outcome {
	OUTCOME_REQUEST, OUTCOME_TIMEOUT, OUTCOME_CLOSED, OUTCOME_PROTOCOL_ERROR,
	OUTCOME_INTERRUPTED,			/* a signal came: Python has to see it */
	OUTCOME_VIEWS,				/* there are finished views to release before waiting */
};

/* Without locks and GIL: the next request, within timeout_us (-1: for ever). */
enum outcome connection_next(struct connection *c, int64_t timeout_us, struct request **request);

/* ---- connection_objects.c (GIL held) ----------------------------------------------------------------------------- */

struct command {
	PyObject_HEAD
	struct connection *connection;
	struct request *request;		/* NULL once answered or discarded; guarded by the connection's lock */
	bool discarded;
	unsigned long long lun;
	unsigned int tag, cmd_sn, expected, bidirectional_read_length;
	int task_attribute, data_error;
	char immediate, read, write;
	PyObject *cdb, *data_out;
};

extern PyTypeObject *connection_command_type;

PyObject *connection_command_new(struct connection *c, struct request *r);
PyObject *connection_pdu_new(struct connection *c, struct request *r);
void connection_discard_command(struct command *command);
int connection_add_object_types(PyObject *module);

/* ---- connection_methods.c (GIL held) ----------------------------------------------------------------------------- */

extern PyObject *connection_closed_error, *connection_protocol_error;
extern PyMethodDef connection_methods[];

/* Releases what only Python can of output that was sent. */
void connection_release_views(struct connection *c);
/* After output was queued: sends it, or leaves it to receive(). False: the connection is closed. */
bool connection_send_soon(struct connection *c, bool now);

#endif
