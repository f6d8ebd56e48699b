/* PDUs to bytes on the socket: batches of pieces for one sendmsg(), Data-In and responses (RFC 7143 11.4, 11.7). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "connection/output.h"
#include "connection/requests.h"

/* Residual flags of SCSI Response (11.4.1); Data-In has the same O and U. */
#define FLAG_FINAL 0x80
#define FLAG_BIDI_OVERFLOW 0x10
#define FLAG_BIDI_UNDERFLOW 0x08
#define FLAG_OVERFLOW 0x04
#define FLAG_UNDERFLOW 0x02
#define FLAG_STATUS 0x01

/* ---- batches ----------------------------------------------------------------------------------------------------- */

#define PDU_PIECES 3			/* header and digest, data, padding and digest */
#define PDU_SCRATCH_BYTES (BHS_BYTES + DIGEST_BYTES + LIMIT_OUTPUT_COPY_BYTES + 3 + DIGEST_BYTES)

bool output_has_room(const struct connection *c, int pdus)
{
	const struct batch *batch = c->filling;

	return batch->bytes < LIMIT_OUTPUT_BATCH_BYTES && batch->piece_count + pdus * PDU_PIECES <= LIMIT_OUTPUT_PIECES &&
	       batch->scratch_used + (size_t)pdus * PDU_SCRATCH_BYTES <= LIMIT_OUTPUT_SCRATCH_BYTES;
}

static void add_piece(struct batch *batch, const void *data, size_t length)
{
	struct iovec *last = batch->piece_count ? &batch->pieces[batch->piece_count - 1] : NULL;

	if (last && (unsigned char *)last->iov_base + last->iov_len == data)
		last->iov_len += length;
	else
		batch->pieces[batch->piece_count++] = (struct iovec){ (void *)data, length };
	batch->bytes += length;
}

static unsigned char *take_scratch(struct batch *batch, size_t length)
{
	unsigned char *piece = batch->scratch + batch->scratch_used;

	batch->scratch_used += length;
	add_piece(batch, piece, length);
	return piece;
}

static void put_digest(struct batch *batch, uint32_t crc)
{
	unsigned char *p = take_scratch(batch, DIGEST_BYTES);

	for (unsigned i = 0; i < DIGEST_BYTES; i++)
		p[i] = (unsigned char)(crc >> 8 * i);
}

static void refer(struct batch *batch, struct payload *payload)
{
	if (batch->payload_count && batch->payloads[batch->payload_count - 1] == payload)
		return;
	batch->payloads[batch->payload_count++] = payload;
	payload->references++;
}

static void put_data(struct connection *c, const unsigned char *data, uint32_t length, struct payload *payload)
{
	static const unsigned char zeros[3];
	struct batch *batch = c->filling;
	uint32_t padding = -length & 3;

	if (payload) {
		refer(batch, payload);
		add_piece(batch, data, length);
	} else {
		memcpy(take_scratch(batch, length), data, length);
	}
	if (padding)
		memset(take_scratch(batch, padding), 0, padding);
	if (c->negotiated.data_digest)
		put_digest(batch, engine_crc32c(engine_crc32c(0, data, length), zeros, padding));
}

/* Queues one PDU; the caller has seen to room. Every PDU of a target has ExpCmdSN and MaxCmdSN in the same place. */
void output_pdu(struct connection *c, unsigned char bhs[BHS_BYTES], const unsigned char *data, uint32_t length,
		struct payload *payload)
{
	bhs[4] = 0;
	put_24(bhs + 5, length);
	put_32(bhs + 28, c->exp_cmd_sn);
	put_32(bhs + 32, requests_max_cmd_sn(c));
	memcpy(take_scratch(c->filling, BHS_BYTES), bhs, BHS_BYTES);
	if (c->negotiated.header_digest)
		put_digest(c->filling, engine_crc32c(0, bhs, BHS_BYTES));
	if (length)
		put_data(c, data, length, payload);
	c->pdus_out++;
}

uint32_t output_take_stat_sn(struct connection *c)
{
	return c->stat_sn++;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void payload_drop(struct connection *c, struct payload *payload)
{
	if (--payload->references)
		return;
	if (payload->block) {
		engine_block_release(payload->block);
		free(payload);
	} else {
		payload->next = c->finished_views;
		c->finished_views = payload;
	}
}

static void skip_sent(struct iovec **piece, int *count, size_t sent)
{
	while (*count && sent >= (*piece)->iov_len) {
		sent -= (*piece)->iov_len;
		++*piece;
		--*count;
	}
	if (*count) {
		(*piece)->iov_base = (unsigned char *)(*piece)->iov_base + sent;
		(*piece)->iov_len -= sent;
	}
}

/* Writes a whole batch. What the socket does not take at once, it waits for; the send timeout is for all of it, however the
 * peer reads: it is the socket's own for one call, and ours for all. NULL, or why the connection is over. */
static const char *write_batch(const struct connection *c, struct batch *batch)
{
	static const char stopped[] = "the peer stopped reading (send timeout)";
	struct msghdr message = { .msg_iov = batch->pieces };
	int count = batch->piece_count, flags = MSG_NOSIGNAL | MSG_DONTWAIT;
	int64_t deadline_us = 0;

	for (;;) {
		message.msg_iovlen = (size_t)count;
		ssize_t sent = sendmsg(c->descriptor, &message, flags);
		bool would_wait = sent < 0 && errno == EAGAIN;
		if (sent < 0 && errno != EINTR && !would_wait)
			return "the peer closed the connection while we were sending";
		if (sent > 0)
			skip_sent(&message.msg_iov, &count, (size_t)sent);
		if (!count)
			return NULL;
		if (!deadline_us)
			deadline_us = monotonic_us() + (int64_t)(c->negotiated.send_timeout_seconds * 1e6);
		else if (would_wait || monotonic_us() >= deadline_us)
			return stopped;
		flags = MSG_NOSIGNAL;
	}
}

static void reset_batch(struct connection *c, struct batch *batch)
{
	for (int i = 0; i < batch->payload_count; i++)
		payload_drop(c, batch->payloads[i]);
	batch->piece_count = batch->payload_count = 0;
	batch->bytes = batch->scratch_used = 0;
}

/* Sends what is queued now. The lock is held, and let go meanwhile. */
static void send_batch_locked(struct connection *c)
{
	struct batch *batch = c->filling;
	const char *failure = c->closed;

	c->filling = c->sending;
	c->sending = batch;
	if (!failure) {
		pthread_mutex_unlock(&c->lock);
		failure = write_batch(c, batch);
		pthread_mutex_lock(&c->lock);
	}
	if (failure)
		connection_close(c, failure);
	else
		c->bytes_out += batch->bytes;
	reset_batch(c, batch);
}

bool connection_flush(struct connection *c)
{
	bool open;

	pthread_mutex_lock(&c->lock);
	while (c->filling->bytes) {
		bool full = !output_has_room(c, 1);
		send_batch_locked(c);
		if (!full)
			break;
		if (c->starved)
			requests_solicit(c);		/* R2Ts that found no room */
	}
	open = !c->closed;
	pthread_mutex_unlock(&c->lock);
	return open;
}

/* Room for `pdus` more, sending if need be; `lock` is let go meanwhile. */
static bool make_room(struct connection *c, int pdus)
{
	while (!c->closed && !output_has_room(c, pdus)) {
		pthread_mutex_unlock(&c->lock);
		connection_flush(c);
		pthread_mutex_lock(&c->lock);
	}
	return !c->closed;
}

/* ---- small PDUs of the engine's own ------------------------------------------------------------------------------ */

void output_reject(struct connection *c, enum reject_reason reason)
{
	unsigned char bhs[BHS_BYTES] = { REJECT, FLAG_FINAL, (unsigned char)reason };

	put_32(bhs + 16, RESERVED_TAG);
	put_32(bhs + 24, output_take_stat_sn(c));
	output_pdu(c, bhs, c->incoming.header, c->incoming.header_length, NULL);
}

void output_r2t(struct connection *c, const struct request *r, uint32_t target_transfer_tag, uint32_t r2t_sn,
		uint32_t offset, uint32_t length)
{
	unsigned char bhs[BHS_BYTES] = { R2T, FLAG_FINAL };

	memcpy(bhs + 8, r->bhs + 8, 8);			/* LUN */
	put_32(bhs + 16, r->tag);
	put_32(bhs + 20, target_transfer_tag);
	put_32(bhs + 24, c->stat_sn);			/* the next one, not advanced (11.8.2) */
	put_32(bhs + 36, r2t_sn);
	put_32(bhs + 40, offset);
	put_32(bhs + 44, length);
	output_pdu(c, bhs, NULL, 0, NULL);
}

void output_nop_in(struct connection *c)
{
	unsigned char bhs[BHS_BYTES] = { NOP_IN, FLAG_FINAL };

	if (!output_has_room(c, 1))
		return;					/* then a whole batch of PDUs is about to say the same */
	put_32(bhs + 16, RESERVED_TAG);
	put_32(bhs + 20, RESERVED_TAG);
	put_32(bhs + 24, c->stat_sn);
	output_pdu(c, bhs, NULL, 0, NULL);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

struct residual {
	unsigned char flags;
	uint32_t count, bidirectional_count;
};

static uint32_t clipped(uint64_t count)
{
	return count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
}

/* 11.4.5: what did not move of what the initiator expected, or what the command had beyond it. */
static uint32_t residual_of(uint64_t wanted, uint64_t moved, uint64_t expected, unsigned char overflow,
			    unsigned char underflow, unsigned char *flags)
{
	if (moved < expected) {
		*flags |= underflow;
		return clipped(expected - moved);
	}
	if (wanted > expected) {
		*flags |= overflow;
		return clipped(wanted - expected);
	}
	return 0;
}

static struct residual residual(const struct request *r, const struct answer *a, uint64_t sent)
{
	struct residual result = { 0 };
	uint64_t wanted = a->wanted < 0 ? a->data_length : (uint64_t)a->wanted;
	uint32_t expected_out = r->write ? get_32(r->bhs + 20) : 0;
	uint64_t out = a->wanted < 0 ? expected_out : (uint64_t)a->wanted;

	if (r->write)
		result.count = residual_of(out, out, expected_out, FLAG_OVERFLOW, FLAG_UNDERFLOW, &result.flags);
	if (r->write && r->read)
		result.bidirectional_count = residual_of(a->data_length, sent, r->read_expected, FLAG_BIDI_OVERFLOW,
							 FLAG_BIDI_UNDERFLOW, &result.flags);
	if (!r->write)			/* also a command that expects no data at all: then all it has is overflow */
		result.count = residual_of(wanted, sent, r->read_expected, FLAG_OVERFLOW, FLAG_UNDERFLOW,
					   &result.flags);
	return result;
}

/* One Data-In PDU; `final` ends a sequence; with a residual it takes the status along (the S bit). */
static void output_data_in(struct connection *c, struct request *r, const struct answer *a, uint32_t offset,
			   uint32_t length, bool final, const struct residual *with_status)
{
	unsigned char bhs[BHS_BYTES] = { DATA_IN };

	if (final)
		bhs[1] = FLAG_FINAL;
	if (with_status) {
		bhs[1] |= FLAG_STATUS | with_status->flags;
		bhs[3] = a->status;
		put_32(bhs + 24, output_take_stat_sn(c));
		put_32(bhs + 44, with_status->count);
	}
	put_32(bhs + 16, r->tag);
	put_32(bhs + 20, RESERVED_TAG);			/* no DataACK at ErrorRecoveryLevel 0 */
	put_32(bhs + 36, r->data_sn++);
	put_32(bhs + 40, offset);
	r->data_in_count++;
	output_pdu(c, bhs, a->data + offset, length, a->payload);
}

static void output_response(struct connection *c, const struct request *r, const struct answer *a,
			    const struct residual *residual)
{
	unsigned char bhs[BHS_BYTES] = { SCSI_RESPONSE, FLAG_FINAL | residual->flags };
	unsigned char sense[2 + LIMIT_SENSE_BYTES];

	bhs[3] = a->status;
	put_32(bhs + 16, r->tag);
	put_32(bhs + 24, output_take_stat_sn(c));
	put_32(bhs + 36, r->data_in_count);
	put_32(bhs + 40, residual->bidirectional_count);
	put_32(bhs + 44, residual->count);
	put_16(sense, a->sense_length);
	if (a->sense_length)
		memcpy(sense + 2, a->sense, a->sense_length);
	output_pdu(c, bhs, sense, a->sense_length ? 2 + a->sense_length : 0, NULL);
}

/* Data-In up to `sent` bytes; sequences end with the F bit at each multiple of MaxBurstLength (11.7.1). True when the
 * last PDU took the status along. */
static bool output_all_data_in(struct connection *c, struct request *r, const struct answer *a, uint32_t sent,
			       const struct residual *residual)
{
	bool collapse = a->status == 0 && !a->sense_length && !r->write;
	uint32_t offset = 0;

	while (offset < sent) {
		uint32_t burst_left = c->negotiated.max_burst_length - offset % c->negotiated.max_burst_length;
		uint32_t wanted = smaller(burst_left, sent - offset);
		uint32_t length = smaller(wanted, c->negotiated.max_send_data_segment_length);
		bool last = offset + length == sent, with_status = last && collapse;

		if (!make_room(c, 1))
			return true;
		if (with_status)
			request_give_place_back(c, r);	/* so that its own status opens the window again */
		output_data_in(c, r, a, offset, length, last || length == burst_left, with_status ? residual : NULL);
		offset += length;
	}
	return sent && collapse;
}

void output_answer(struct connection *c, struct request *r, const struct answer *a)
{
	uint32_t sent = r->read ? smaller(clipped(a->data_length), r->read_expected) : 0;
	struct residual left = residual(r, a, sent);

	if (!output_all_data_in(c, r, a, sent, &left) && make_room(c, 1)) {
		request_give_place_back(c, r);
		output_response(c, r, a, &left);
	}
	request_free(c, r);
	requests_solicit(c);
}

/* ---- answers of other threads ------------------------------------------------------------------------------------ */

struct deferred_answer *deferred_answer_new(struct request *r, const struct answer *answer)
{
	size_t short_data = answer->payload ? 0 : answer->data_length;
	struct deferred_answer *d = malloc(sizeof *d + answer->sense_length + short_data);

	if (!d)
		return NULL;
	*d = (struct deferred_answer){ .request = r, .answer = *answer };
	if (answer->sense_length)
		memcpy(d->copied, answer->sense, answer->sense_length);
	d->answer.sense = d->copied;
	if (short_data) {
		memcpy(d->copied + answer->sense_length, answer->data, short_data);
		d->answer.data = d->copied + answer->sense_length;
	}
	return d;
}

static size_t deferred_size(const struct deferred_answer *d)
{
	return d->answer.payload ? d->answer.data_length : 0;
}

void output_defer(struct connection *c, struct deferred_answer *d)
{
	if (d->answer.payload)
		d->answer.payload->references++;
	c->deferred_bytes += deferred_size(d);
	*(c->last_answer ? &c->last_answer->next : &c->first_answer) = d;
	c->last_answer = d;
}

static struct deferred_answer *take_deferred(struct connection *c)
{
	struct deferred_answer *d = c->first_answer;

	if (!d)
		return NULL;
	c->first_answer = d->next;
	if (!d->next)
		c->last_answer = NULL;
	c->deferred_bytes -= deferred_size(d);
	return d;
}

static void free_deferred(struct connection *c, struct deferred_answer *d)
{
	if (d->answer.payload)
		payload_drop(c, d->answer.payload);
	free(d);
}

bool output_deferred_answers(struct connection *c)
{
	struct deferred_answer *d;
	bool any = false;

	while ((d = take_deferred(c))) {
		output_answer(c, d->request, &d->answer);
		free_deferred(c, d);
		any = true;
	}
	return any;
}

static void drop_batch(struct connection *c, struct batch **batch)
{
	if (*batch)
		reset_batch(c, *batch);
	free(*batch);
	*batch = NULL;
}

void output_clear(struct connection *c)
{
	struct deferred_answer *d;

	while ((d = take_deferred(c))) {
		request_free(c, d->request);
		free_deferred(c, d);
	}
	drop_batch(c, &c->filling);
	drop_batch(c, &c->sending);
}
