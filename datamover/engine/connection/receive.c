/* Bytes from the socket to PDUs, and the wait for the next request.
 *
 * A PDU passes three phases: its header (BHS, AHS, header digest) is read whole from the input buffer and decides where
 * the data segment goes; the segment flows there, from the input buffer or straight from the socket; the trailer
 * (padding, data digest) ends it.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "connection/connection.h"

/* A wait is cut into slices while another thread's abort() may release what is held back here, or another connection
 * give back the memory an R2T waits for. */
#define HELD_BACK_SLICE_US 50000

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

/* What is left of a header or trailer moves to the front: it is short, and then a read has all of the buffer. */
static void compact_input(struct connection *c)
{
	size_t rest = c->input_end - c->input_start;

	if (rest && c->input_start)
		memmove(c->input, c->input + c->input_start, rest);
	c->input_start = 0;
	c->input_end = rest;
}

static ssize_t read_socket(struct connection *c)
{
	struct incoming *in = &c->incoming;
	bool direct = in->phase == PHASE_SEGMENT && in->sink;
	struct iovec pieces[2] = { { NULL, 0 }, { c->input + c->input_end, LIMIT_INPUT_BYTES - c->input_end } };
	struct msghdr message = { .msg_iov = pieces + !direct, .msg_iovlen = 1u + direct };

	if (direct)
		pieces[0] = (struct iovec){ in->sink + in->segment_received,
					    in->segment_length - in->segment_received };
	ssize_t count = recvmsg(c->descriptor, &message, MSG_DONTWAIT);
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

/* Looks for bytes for a short while, giving the processor away between looks. */
static ssize_t look_for_bytes(struct connection *c, int64_t start_us)
{
	ssize_t count = read_socket(c);

	while (nothing_yet(count) && now_us() < start_us + LIMIT_POLL_US) {
		sched_yield();
		count = read_socket(c);
	}
	return count;
}

/* Waits for bytes up to timeout_us (-1: for ever). */
static ssize_t wait_for_bytes(struct connection *c, int64_t start_us, int64_t timeout_us)
{
	struct pollfd wanted = { .fd = c->descriptor, .events = POLLIN };
	struct timespec timeout = { .tv_sec = timeout_us / 1000000, .tv_nsec = timeout_us % 1000000 * 1000 };
	ssize_t count = c->quick_peer && timeout_us ? look_for_bytes(c, start_us) : read_socket(c);

	if (nothing_yet(count) && timeout_us) {
		if (ppoll(&wanted, 1, timeout_us < 0 ? NULL : &timeout, NULL) < 0)
			return -1;
		count = read_socket(c);
	}
	c->quick_peer = count > 0 && now_us() < start_us + LIMIT_QUICK_US;
	return count;
}

static void close_locked(struct connection *c, const char *why)
{
	pthread_mutex_lock(&c->lock);
	connection_close(c, why);
	pthread_mutex_unlock(&c->lock);
}

/* Waits for bytes until the deadline, or for one slice. OUTCOME_REQUEST here: look again. */
static enum outcome fill_input(struct connection *c, int64_t deadline_us, bool sliced)
{
	int64_t now = now_us(), left = deadline_us < 0 ? -1 : deadline_us > now ? deadline_us - now : 0;
	bool slice = sliced && (left < 0 || left > HELD_BACK_SLICE_US);
	ssize_t count;

	compact_input(c);
	count = wait_for_bytes(c, now, slice ? HELD_BACK_SLICE_US : left);
	if (nothing_yet(count))
		return deadline_us >= 0 && now_us() >= deadline_us ? OUTCOME_TIMEOUT : OUTCOME_REQUEST;
	if (count > 0)
		return OUTCOME_REQUEST;
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
	bool views, held_back;
};

static struct waiting look_before_waiting(struct connection *c)
{
	struct waiting waiting;

	pthread_mutex_lock(&c->lock);
	waiting.views = c->finished_views != NULL;
	waiting.held_back = c->starved || c->held.first || (c->ordered.first && c->ordered.first->next);
	pthread_mutex_unlock(&c->lock);
	return waiting;
}

/* Queued output is sent before waiting and before saying anything but a request. */
enum outcome connection_next(struct connection *c, int64_t timeout_us, struct request **request)
{
	int64_t deadline_us = timeout_us < 0 ? -1 : now_us() + timeout_us;
	enum outcome outcome = OUTCOME_REQUEST;

	for (;;) {
		pthread_mutex_lock(&c->lock);
		if (c->starved)
			requests_solicit(c);
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
		outcome = fill_input(c, deadline_us, waiting.held_back);
	}
}
