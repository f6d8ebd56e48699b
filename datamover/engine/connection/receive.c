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
#include <unistd.h>

#include "connection/input.h"
#include "connection/output.h"
#include "connection/requests.h"

/* A wait is cut into slices while another connection may give back the memory that an R2T waits for. */
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

static bool nothing_yet(ssize_t count)
{
	return count < 0 && errno == EAGAIN;
}

static bool called_for(const struct connection *c)
{
	return atomic_load_explicit(&c->owner_state, memory_order_relaxed) == OWNER_AWAKE;
}

/* Looks for bytes for a short while, giving the processor away between looks. */
static ssize_t look_for_bytes(struct connection *c, int64_t start_us)
{
	ssize_t count = read_socket(c);

	while (nothing_yet(count) && !called_for(c) && monotonic_us() < start_us + LIMIT_POLL_US) {
		sched_yield();
		count = read_socket(c);
	}
	return count;
}

/* Sleeps until the socket has bytes or another thread calls. False: a signal came. */
static bool sleep_for_bytes(struct connection *c, int64_t timeout_us)
{
	struct pollfd wanted[2] = { { .fd = c->descriptor, .events = POLLIN },
				    { .fd = c->wake_descriptor, .events = POLLIN } };
	struct timespec timeout = { .tv_sec = timeout_us / 1000000, .tv_nsec = timeout_us % 1000000 * 1000 };
	int looking = OWNER_LOOKING;
	uint64_t calls;

	if (!atomic_compare_exchange_strong(&c->owner_state, &looking, OWNER_ASLEEP))
		return true;				/* somebody called since we last looked */
	if (ppoll(wanted, 2, timeout_us < 0 ? NULL : &timeout, NULL) < 0)
		return false;
	if (wanted[1].revents && read(c->wake_descriptor, &calls, sizeof calls) < 0)
		return errno != EINTR;
	return true;
}

/* Waits for bytes up to timeout_us (-1: for ever), or until another thread calls. */
static ssize_t wait_for_bytes(struct connection *c, int64_t start_us, int64_t timeout_us)
{
	ssize_t count = c->quick_peer && timeout_us ? look_for_bytes(c, start_us) : read_socket(c);

	if (nothing_yet(count) && timeout_us) {
		if (!sleep_for_bytes(c, timeout_us)) {
			errno = EINTR;
			return -1;
		}
		count = read_socket(c);
	}
	if (count > 0)
		c->heard_at_us = monotonic_us();
	c->quick_peer = count > 0 && c->heard_at_us < start_us + LIMIT_QUICK_US;
	return count;
}

static void close_locked(struct connection *c, const char *why)
{
	pthread_mutex_lock(&c->lock);
	connection_close(c, why);
	pthread_mutex_unlock(&c->lock);
}

/* How long to wait: until the deadline (-1: for ever), but at most `slice` (-1: as long as that). */
static int64_t wait_us(int64_t now, int64_t deadline_us, int64_t slice_us)
{
	int64_t left = deadline_us < 0 ? -1 : deadline_us > now ? deadline_us - now : 0;

	return slice_us >= 0 && (left < 0 || left > slice_us) ? slice_us : left;
}

/* Waits for bytes until the deadline, or for one slice. OUTCOME_REQUEST here: look again. */
static enum outcome fill_input(struct connection *c, int64_t deadline_us, int64_t slice_us)
{
	int64_t now = monotonic_us();
	ssize_t count;

	compact_input(c);
	count = wait_for_bytes(c, now, wait_us(now, deadline_us, slice_us));
	atomic_store(&c->owner_state, OWNER_AWAKE);
	if (nothing_yet(count))
		return deadline_us >= 0 && monotonic_us() >= deadline_us ? OUTCOME_TIMEOUT : OUTCOME_REQUEST;
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

static const char overdue[] = "the initiator did not send the data that it was to send (data timeout)";

/* A PDU whose end does not come holds memory as an R2T does that is not answered. */
static bool pdu_overdue(struct connection *c, int64_t now_us)
{
	if (c->incoming.phase == PHASE_HEADER)
		return false;
	if (c->stalled_pdu != c->pdus_in) {
		c->stalled_pdu = c->pdus_in;
		c->stalled_since_us = now_us;
	}
	return now_us - c->stalled_since_us > (int64_t)(c->negotiated.data_timeout_seconds * 1e6);
}

/* What to see to before waiting for bytes. */
enum before_waiting { BEFORE_AGAIN, BEFORE_VIEWS, BEFORE_CALLED, BEFORE_WAIT };

/* With the lock held. *slice_us: how long to wait at the most before looking again; -1: as long as wanted. */
static enum before_waiting look_before_waiting(struct connection *c, int64_t *slice_us)
{
	bool awaited = c->awaited_sequences || c->incoming.phase != PHASE_HEADER;
	int64_t now_us;

	*slice_us = c->starved ? HELD_BACK_SLICE_US : -1;
	if (c->finished_views)
		return BEFORE_VIEWS;
	if (c->first_answer || c->filling->bytes)
		return BEFORE_AGAIN;
	if (c->called) {
		c->called = false;
		return BEFORE_CALLED;
	}
	if (awaited) {
		now_us = monotonic_us();
		if (pdu_overdue(c, now_us) || requests_overdue(c, now_us)) {
			connection_close(c, overdue);
			return BEFORE_AGAIN;
		}
		if (*slice_us < 0)
			*slice_us = (int64_t)(c->negotiated.data_timeout_seconds * 1e6 / 8) + 1;
	}
	atomic_store(&c->owner_state, OWNER_LOOKING);
	return BEFORE_WAIT;
}

/* Works through what has come and what other threads have left. *queued: there is something to send. */
static enum advance work_through(struct connection *c, struct request **request, bool *queued)
{
	enum advance state;
	bool answered;

	pthread_mutex_lock(&c->lock);
	answered = output_deferred_answers(c);
	if (c->starved)
		requests_solicit(c);
	state = advance(c, request);
	*queued = c->filling->bytes && (answered || state != ADVANCE_REQUEST);
	c->called = c->called && state != ADVANCE_REQUEST;	/* receive() returns all the same */
	pthread_mutex_unlock(&c->lock);
	return state;
}

/* Queued output is sent before waiting and before saying anything but a request; answers of other threads at once. */
enum outcome connection_next(struct connection *c, int64_t timeout_us, struct request **request)
{
	int64_t deadline_us = timeout_us < 0 ? -1 : monotonic_us() + timeout_us;
	enum outcome outcome = OUTCOME_REQUEST;

	for (;;) {
		bool queued;
		enum advance state = work_through(c, request, &queued);
		bool open = !queued || connection_flush(c);
		if (state == ADVANCE_REQUEST)
			return OUTCOME_REQUEST;
		if (state == ADVANCE_CLOSED || !open)
			return OUTCOME_CLOSED;
		if (state == ADVANCE_ERROR) {
			close_locked(c, "the connection was closed after a protocol error");
			return OUTCOME_PROTOCOL_ERROR;
		}
		if (state == ADVANCE_ROOM)
			continue;
		if (outcome != OUTCOME_REQUEST)
			return outcome;
		int64_t slice_us;
		pthread_mutex_lock(&c->lock);
		enum before_waiting before = look_before_waiting(c, &slice_us);
		pthread_mutex_unlock(&c->lock);
		if (before == BEFORE_VIEWS)
			return OUTCOME_VIEWS;
		if (before == BEFORE_CALLED)
			return OUTCOME_TIMEOUT;
		if (before == BEFORE_WAIT)
			outcome = fill_input(c, deadline_us, slice_us);
	}
}
