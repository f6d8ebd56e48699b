/* Bytes from the socket to PDUs, and the wait for the next request.
 *
 * A PDU passes three phases: its header (BHS, AHS, header digest) is read whole from the input buffer and decides where
 * the data segment goes; the segment flows there, from the input buffer or straight from the socket; the trailer
 * (padding, data digest) ends it.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "connection.h"

#define STARVED_RETRY_US 20000		/* memory that another connection gives back is looked for this often */

enum step { STEP_DONE, STEP_INPUT, STEP_ERROR };	/* one PDU done; more bytes wanted; a format error */

/* ---- phases ------------------------------------------------------------------------------------------------------ */

static enum step take_header(struct connection *c)
{
	struct incoming *in = &c->incoming;
	const unsigned char *p = c->input + c->input_start;
	size_t available = c->input_end - c->input_start;
	uint32_t digest = c->negotiated.header_digest ? DIGEST_BYTES : 0;
	uint32_t length = available < BHS_BYTES ? BHS_BYTES : BHS_BYTES + p[4] * 4u;

	if (available < length + digest)
		return STEP_INPUT;
	memcpy(in->header, p, length);
	in->header_length = length;
	c->input_start += length + digest;
	c->pdus_in++;
	if (digest && engine_crc32c(0, p, length) != get_digest(p + length)) {
		pdu_format_error(c, "header digest error");
		return STEP_ERROR;
	}
	in->segment_length = get_24(p + 5);
	in->segment_received = 0;
	in->sink = NULL;
	in->request = NULL;
	in->crc = 0;
	if (in->segment_length > c->negotiated.max_recv_data_segment_length) {
		pdu_format_error(c, "DataSegmentLength %u is over our MaxRecvDataSegmentLength %u", in->segment_length,
				 c->negotiated.max_recv_data_segment_length);
		return STEP_ERROR;
	}
	in->phase = PHASE_SEGMENT;
	return pdu_begin(c) ? STEP_DONE : STEP_ERROR;
}

static enum step take_segment(struct connection *c)
{
	struct incoming *in = &c->incoming;
	size_t available = c->input_end - c->input_start;
	uint32_t wanted = in->segment_length - in->segment_received;
	uint32_t length = available < wanted ? (uint32_t)available : wanted;
	const unsigned char *p = c->input + c->input_start;

	if (in->sink && c->negotiated.data_digest)
		in->crc = engine_copy_crc32c(in->sink + in->segment_received, p, length, in->crc);
	else if (in->sink)
		memcpy(in->sink + in->segment_received, p, length);
	in->segment_received += length;
	c->input_start += length;
	if (length < wanted)
		return STEP_INPUT;
	in->phase = PHASE_TRAILER;
	return STEP_DONE;
}

static enum step take_trailer(struct connection *c)
{
	struct incoming *in = &c->incoming;
	const unsigned char *p = c->input + c->input_start;
	uint32_t padding = -in->segment_length & 3;
	uint32_t digest = c->negotiated.data_digest && in->segment_length ? DIGEST_BYTES : 0;
	bool digest_good = true;

	if (c->input_end - c->input_start < padding + digest)
		return STEP_INPUT;
	/* Data that go nowhere are not worth a digest: their command has its error already, or there is none. */
	if (digest && in->sink)
		digest_good = engine_crc32c(in->crc, p, padding) == get_digest(p + padding);
	c->input_start += padding + digest;
	in->phase = PHASE_HEADER;
	pdu_end(c, digest_good);
	return STEP_DONE;
}

static enum step take_pdu(struct connection *c)
{
	enum step step = STEP_DONE;

	if (c->incoming.phase == PHASE_HEADER)
		step = take_header(c);
	if (step == STEP_DONE && c->incoming.phase == PHASE_SEGMENT)
		step = take_segment(c);
	return step == STEP_DONE ? take_trailer(c) : step;
}

/* ---- the socket -------------------------------------------------------------------------------------------------- */

static void set_receive_timeout(struct connection *c, int64_t timeout_us)
{
	struct timeval timeout = { 0 };

	if (c->receive_timeout_us == timeout_us)
		return;
	if (timeout_us > 0)				/* all zero means for ever */
		timeout = (struct timeval){ .tv_sec = timeout_us / 1000000, .tv_usec = timeout_us % 1000000 };
	setsockopt(c->descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
	c->receive_timeout_us = timeout_us;
}

/* What is left of a header or trailer moves to the front: it is short, and then a read has all of the buffer. */
static void compact_input(struct connection *c)
{
	size_t rest = c->input_end - c->input_start;

	if (rest && c->input_start)
		memmove(c->input, c->input + c->input_start, rest);
	c->input_start = 0;
	c->input_end = rest;
}

static ssize_t read_socket(struct connection *c, int flags)
{
	struct incoming *in = &c->incoming;
	bool direct = in->phase == PHASE_SEGMENT && in->sink;
	struct iovec pieces[2] = { { NULL, 0 }, { c->input + c->input_end, LIMIT_INPUT_BYTES - c->input_end } };
	struct msghdr message = { .msg_iov = pieces + !direct, .msg_iovlen = 1u + direct };

	if (direct)
		pieces[0] = (struct iovec){ in->sink + in->segment_received, in->segment_length - in->segment_received };
	ssize_t count = recvmsg(c->descriptor, &message, flags);
	if (count <= 0)
		return count;
	size_t straight = (size_t)count < pieces[0].iov_len ? (size_t)count : pieces[0].iov_len;
	if (straight && c->negotiated.data_digest)
		in->crc = engine_crc32c(in->crc, pieces[0].iov_base, straight);
	in->segment_received += (uint32_t)straight;
	c->input_end += (size_t)count - straight;
	c->bytes_in += (size_t)count;
	return count;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static bool nothing_yet(ssize_t count)
{
	return count < 0 && errno == EAGAIN;
}

/* Looks for bytes for a short while, when the peer is quick, then sleeps for them. */
static ssize_t wait_for_bytes(struct connection *c)
{
	int64_t start = now_us();
	ssize_t count = 0;
	bool none = true;

	while (c->quick_peer && none && now_us() < start + LIMIT_POLL_US) {
		count = read_socket(c, MSG_DONTWAIT);
		none = nothing_yet(count);
		if (none)
			sched_yield();
	}
	if (none)
		count = read_socket(c, 0);
	c->quick_peer = count > 0 && now_us() < start + LIMIT_QUICK_US;
	return count;
}

static void close_locked(struct connection *c, const char *why)
{
	pthread_mutex_lock(&c->lock);
	connection_close(c, why);
	pthread_mutex_unlock(&c->lock);
}

/* Waits for bytes. OUTCOME_REQUEST here: some came. */
static enum outcome fill_input(struct connection *c, int64_t timeout_us)
{
	ssize_t count;

	compact_input(c);
	set_receive_timeout(c, timeout_us);
	count = timeout_us ? wait_for_bytes(c) : read_socket(c, MSG_DONTWAIT);
	if (count > 0)
		return OUTCOME_REQUEST;
	if (nothing_yet(count))
		return OUTCOME_TIMEOUT;
	if (count < 0 && errno == EINTR)
		return OUTCOME_INTERRUPTED;
	close_locked(c, count ? "the connection failed while we were receiving" : "the peer closed the connection");
	return OUTCOME_CLOSED;
}

/* ---- the next request -------------------------------------------------------------------------------------------- */

enum advance { ADVANCE_REQUEST, ADVANCE_INPUT, ADVANCE_ROOM, ADVANCE_CLOSED, ADVANCE_ERROR };

/* Works through what has been read, as far as it goes. */
static enum advance advance(struct connection *c, struct request **request)
{
	for (;;) {
		if (c->closed)
			return ADVANCE_CLOSED;
		if (!output_has_room(c, 2))		/* a Reject and something more for each PDU */
			return ADVANCE_ROOM;
		*request = requests_next(c);
		if (*request)
			return ADVANCE_REQUEST;
		switch (take_pdu(c)) {
		case STEP_DONE:
			break;
		case STEP_INPUT:
			return ADVANCE_INPUT;
		case STEP_ERROR:
			return ADVANCE_ERROR;
		}
	}
}

/* What to see to before waiting for bytes. */
struct waiting {
	bool views, starved;
};

static struct waiting look_before_waiting(struct connection *c)
{
	struct waiting waiting;

	pthread_mutex_lock(&c->lock);
	waiting.views = c->finished_views != NULL;
	waiting.starved = c->starved;
	pthread_mutex_unlock(&c->lock);
	return waiting;
}

/* Waits for bytes, a little while only when an R2T waits for memory, which is then tried again. */
static enum outcome wait_for_input(struct connection *c, int64_t timeout_us, bool starved)
{
	if (!starved)
		return fill_input(c, timeout_us);
	enum outcome outcome = fill_input(c, timeout_us ? STARVED_RETRY_US : 0);
	if (outcome != OUTCOME_TIMEOUT)
		return outcome;
	pthread_mutex_lock(&c->lock);
	requests_solicit(c);
	pthread_mutex_unlock(&c->lock);
	return timeout_us ? OUTCOME_REQUEST : OUTCOME_TIMEOUT;
}

/* The socket's timeout stays what the caller asked for, so a peer that drips bytes can stretch the wait to twice that; it
 * costs no system call. */
enum outcome connection_next(struct connection *c, int64_t timeout_us, struct request **request)
{
	int64_t deadline_us = timeout_us > 0 ? now_us() + timeout_us : INT64_MAX;
	enum outcome outcome = OUTCOME_REQUEST;

	for (;;) {
		pthread_mutex_lock(&c->lock);
		enum advance state = advance(c, request);
		bool queued = c->filling->bytes;
		pthread_mutex_unlock(&c->lock);
		if (state == ADVANCE_REQUEST)
			return OUTCOME_REQUEST;
		if (state == ADVANCE_CLOSED || (queued && !connection_flush(c)))
			return OUTCOME_CLOSED;
		if (state == ADVANCE_ERROR) {
			close_locked(c, "the connection was closed after a protocol error");
			return OUTCOME_PROTOCOL_ERROR;
		}
		if (state == ADVANCE_ROOM)
			continue;
		if (outcome != OUTCOME_REQUEST)
			return outcome;
		struct waiting waiting = look_before_waiting(c);
		if (waiting.views)
			return OUTCOME_VIEWS;
		outcome = wait_for_input(c, timeout_us, waiting.starved);
		if (outcome == OUTCOME_REQUEST && deadline_us != INT64_MAX && now_us() >= deadline_us)
			outcome = OUTCOME_TIMEOUT;	/* but first see what came */
	}
}
