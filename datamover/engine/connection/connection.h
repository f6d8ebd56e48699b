/* The state of an iSCSI connection in the full feature phase. The functions on it are in headers of their own:
 *
 *   protocol.h   RFC 7143: opcodes, bytes on the wire, serial numbers
 *   request.h    one request of the initiator, and queues of them
 *   requests.h   requests.c: the table of requests: command window, order, Data-Out memory, R2T
 *   incoming.h   the PDU that is being received
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
#include "connection/incoming.h"
#include "connection/protocol.h"
#include "connection/request.h"

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
	bool settled;				/* when it was closed, every request that had come was answered, */
	uint32_t settled_stat_sn, settled_cmd_sn;	/* and these would have come next */
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
	int64_t heard_at_us;			/* when the last byte came; until then, when the connection began */
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
