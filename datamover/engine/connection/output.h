/* send.c: PDUs to bytes on the socket. */
#ifndef TAPEBAY_OUTPUT_H
#define TAPEBAY_OUTPUT_H

#include <sys/uio.h>

#include "connection/connection.h"

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

struct answer {
	unsigned char status;
	const unsigned char *sense;
	uint32_t sense_length;
	struct payload *payload;		/* NULL: `data` is short and may be copied */
	const unsigned char *data;
	size_t data_length;
	int64_t wanted;				/* what the command wanted to move; -1: see respond() in _engine.pyi */
};

/* An answer of another thread, until the owner makes PDUs of it. */
struct deferred_answer {
	struct deferred_answer *next;
	struct request *request;
	struct answer answer;
	unsigned char copied[];			/* its sense and its short data */
};

/* ---- lock held, on the owner's thread ---- */

bool output_has_room(const struct connection *c, int pdus);
void output_pdu(struct connection *c, unsigned char bhs[BHS_BYTES], const unsigned char *data, uint32_t length,
		struct payload *payload);
void output_reject(struct connection *c, enum reject_reason reason);	/* of the PDU in `incoming` */
uint32_t output_take_stat_sn(struct connection *c);
/* Data-In and status, then frees the request. Lets the lock go to send when a batch is full. */
void output_answer(struct connection *c, struct request *r, const struct answer *answer);
/* Makes PDUs of the answers that other threads left. Whether there were any. */
bool output_deferred_answers(struct connection *c);

/* ---- lock held, on any thread: they only queue, and nothing when there is no room ---- */

void output_r2t(struct connection *c, const struct request *r, uint32_t target_transfer_tag, uint32_t r2t_sn,
		uint32_t offset, uint32_t length);
void output_nop_in(struct connection *c);
void output_defer(struct connection *c, struct deferred_answer *answer);
void payload_drop(struct connection *c, struct payload *payload);

/* ---- on any thread ---- */

/* A copy of the answer that outlives the call and refers to its payload; NULL: no memory. */
struct deferred_answer *deferred_answer_new(struct request *r, const struct answer *answer);
/* Lock held: gives back what the connection never sent. */
void output_clear(struct connection *c);

/* ---- without lock and GIL, on the owner's thread ---- */

/* Sends what is queued. False: the connection is closed. */
bool connection_flush(struct connection *c);

#endif
