/* The state of an iSCSI connection in the full feature phase. The functions on it are in headers of their own:
 *
 *   protocol.h   RFC 7143: opcodes, bytes on the wire, serial numbers
 *   requests.h   requests.c: the table of requests: command window, order, Data-Out memory, R2T
 *   input.h      receive.c: bytes from the socket to PDUs, and the wait for the next request; pdus.c: what each PDU does
 *   output.h     send.c: PDUs to bytes on the socket: batches, Data-In, responses, answers of other threads
 *   objects.h    objects.c, methods.c: what Python sees: ScsiCommand, Pdu, the methods of Connection
 *
 * Threads. A connection belongs to one thread, its owner: the one that calls receive(). Only the owner reads from the
 * socket and only the owner writes to it, so that a peer that does not read holds nobody else. Other threads leave their
 * answers in `answers` and wake the owner (connection_wake); that never waits for the peer.
 *
 * Lock. `lock` guards all state below it and is held for short stretches only, never across a system call that can block,
 * never while taking the GIL; so it may be taken with the GIL held. The input side (`input`, `incoming`) and the batch
 * being sent belong to the owner alone.
 */
#ifndef TAPEBAY_CONNECTION_H
#define TAPEBAY_CONNECTION_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "engine.h"
#include "connection/protocol.h"

/* ---- requests ---------------------------------------------------------------------------------------------------- */

enum data_error {			/* DATA_ERROR_* in _engine.pyi, which says what each means */
	DATA_OK, DATA_DIGEST, DATA_SEQUENCE, DATA_UNEXPECTED, DATA_AMOUNT, DATA_NO_BUFFER, DATA_TOO_LARGE,
};

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
	int64_t awaited_since_us;		/* when the Data-Out that is to come became due */
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

/* Data-Out that may still come for a command that is no more: it was aborted, ignored or rejected meanwhile. */
struct late_sequence {
	uint32_t tag, target_transfer_tag;
	bool awaited;
};

/* ---- input ------------------------------------------------------------------------------------------------------- */

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

/* ---- the connection ---------------------------------------------------------------------------------------------- */

struct negotiated {
	bool discovery, header_digest, data_digest, initial_r2t, immediate_data;
	uint32_t max_recv_data_segment_length, max_send_data_segment_length;
	uint32_t first_burst_length, max_burst_length, max_outstanding_r2t;
	uint32_t command_window;
	size_t buffer_budget;
	double send_timeout_seconds, data_timeout_seconds;
};

/* What the owner is doing, for whoever has something for it. */
enum owner_state { OWNER_AWAKE, OWNER_LOOKING, OWNER_ASLEEP };

#define TAG_BUCKETS 256u

struct connection {
	PyObject_HEAD
	int descriptor;
	int wake_descriptor;			/* an eventfd: readable when the owner is to wake up */
	PyObject *pool_object;
	struct buffer_pool *pool;
	struct negotiated negotiated;

	/* of the owner */
	pthread_t owner;			/* read and written with the GIL */
	bool occupied;				/* the owner is inside without the GIL */
	struct incoming incoming;
	unsigned char *input;
	size_t input_start, input_end;
	bool quick_peer;			/* its bytes came quickly the last time */
	unsigned long long stalled_pdu;		/* the PDU, by its number, that was not whole when last we looked, */
	int64_t stalled_since_us;		/* and since when it has not been */
	int64_t next_look_us;			/* when to look for Data-Out that is overdue */
	char error[200];			/* the line of a ProtocolError */

	_Atomic int owner_state;		/* enum owner_state */

	pthread_mutex_t lock;
	const char *closed;			/* why, once it is */
	bool called;				/* wake() asks receive() to return */

	uint32_t stat_sn, exp_cmd_sn, next_target_transfer_tag;
	uint32_t places_held;			/* of the command window, by requests that came in order */
	uint32_t immediate_count, waiting_pdu_bytes;
	uint32_t awaited_sequences;		/* of Data-Out: R2Ts under way, unsolicited bursts not finished */
	size_t held_bytes, whole_bytes;		/* Data-Out memory: of all commands, of those that are whole */
	bool starved;				/* an R2T waits for memory, or for room in the output */
	struct request *slots, *free_slots;
	struct request *table[TAG_BUCKETS];
	struct queue urgent;			/* to hand out at once: immediate, task management */
	struct queue ordered;			/* came in CmdSN order, to hand out in that order, each when whole */
	struct queue held;			/* came after a gap in CmdSN; sorted */
	struct queue arriving;			/* immediate commands whose Data-Out is still to come */
	struct late_sequence late[LIMIT_LATE_SEQUENCES];
	unsigned next_late;

	struct deferred_answer *first_answer, *last_answer;	/* of other threads, for the owner to send */
	size_t deferred_bytes;			/* of their Data-In */
	struct batch *filling, *sending;
	struct payload *finished_views;		/* sent; to be released by whoever next holds the GIL */

	unsigned long long commands, bytes_in, bytes_out, pdus_in, pdus_out;
};

static inline int64_t monotonic_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Memory and locks of a connection whose descriptor, pool, `negotiated` and sequence numbers are set, and whose other
 * fields are zero. False: no memory, or no descriptor to wake by (errno); connection_clear() is wanted all the same. */
bool connection_init(struct connection *c);
void connection_clear(struct connection *c);

/* With the lock held. Ends the connection; the first reason stays. */
void connection_close(struct connection *c, const char *why);

/* With the lock held or not, from any thread: there is something for the owner to do. Costs nothing when it is awake. */
void connection_wake(struct connection *c);

#endif
