/* Bytes from the socket to PDUs, and what each PDU does (RFC 7143 11).
 *
 * A PDU passes three phases: its header (BHS, AHS, header digest) is read whole from the input buffer and decides where
 * the data segment goes; the segment flows there, from the input buffer or straight from the socket; the trailer
 * (padding, data digest) ends it. Nothing is allocated by what a header claims before the claim has passed its limit.
 *
 * What is wrong ends in one of three ways. A format error (7.7) or a header digest error closes the connection. Other
 * violations are answered with Reject (7.3), and the PDU counts as never received. Data-Out that is damaged or out of
 * sequence sets its command's data_error, and the command ends in CHECK CONDITION (7.8, 7.9, 11.4.7.2).
 */
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "connection.h"

#define FLAG_FINAL 0x80			/* byte 1 of SCSI Command and Data-Out */
#define FLAG_READ 0x40
#define FLAG_WRITE 0x20

#define AHS_EXTENDED_CDB 1		/* 11.2.2.3 */
#define AHS_BIDIRECTIONAL_READ_LENGTH 2	/* 11.2.2.4 */

#define STARVED_RETRY_US 20000		/* memory that another connection gives back is looked for this often */

enum step { STEP_DONE, STEP_INPUT, STEP_ERROR };	/* one PDU done; more bytes wanted; a format error */

static const char *opcode_name(unsigned opcode)
{
	static const char *const names[] = { "NOP-Out", "SCSI Command", "Task Management", "Login", "Text", "Data-Out",
					     "Logout" };

	return opcode < sizeof names / sizeof *names ? names[opcode] : opcode == SNACK ? "SNACK" : "unknown";
}

__attribute__((format(printf, 2, 3))) static bool format_error(struct connection *c, const char *format, ...)
{
	const unsigned char *header = c->incoming.header;
	int used = snprintf(c->error, sizeof c->error, "%s PDU (opcode %02Xh, Initiator Task Tag %08Xh): ",
			    opcode_name(header[0] & 0x3f), header[0] & 0x3fu, get_32(header + 16));
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(c->error + used, sizeof c->error - (size_t)used, format, arguments);
	va_end(arguments);
	return false;
}

/* ---- SCSI Command (11.3) ----------------------------------------------------------------------------------------- */

static bool read_extended_cdb(struct connection *c, struct request *r, const unsigned char *ahs, uint32_t length)
{
	if (length < 1 || length - 1 > sizeof r->extended_cdb)
		return format_error(c, "AHSLength %u of an Extended CDB is not 1 to %zu", length,
				    sizeof r->extended_cdb + 1);
	r->extended_cdb_length = length - 1;		/* AHSLength counts a reserved byte (11.2.2.1) */
	memcpy(r->extended_cdb, ahs + 4, length - 1);
	return true;
}

static bool read_ahs(struct connection *c, struct request *r)
{
	const unsigned char *ahs = c->incoming.header + BHS_BYTES, *end = c->incoming.header + c->incoming.header_length;

	while (ahs < end) {
		uint32_t length = get_16(ahs), whole = (3 + length + 3) & ~3u;	/* length, type, then `length` bytes */
		if (whole > (size_t)(end - ahs))
			return format_error(c, "AHSLength %u goes beyond TotalAHSLength", length);
		if (ahs[2] == AHS_EXTENDED_CDB) {
			if (!read_extended_cdb(c, r, ahs, length))
				return false;
		} else if (ahs[2] == AHS_BIDIRECTIONAL_READ_LENGTH && length == 5) {
			r->bidirectional_read_length = get_32(ahs + 4);
		} else {
			return format_error(c, "AHS of type %u and length %u", ahs[2], length);
		}
		ahs += whole;
	}
	return true;
}

/* What of the Data-Out may come without being asked for (13.10, 13.11, 13.14), and memory for it. */
static void plan_data_out(struct connection *c, struct request *r, uint32_t immediate_length, bool final)
{
	const struct negotiated *n = &c->negotiated;

	r->unsolicited_open = !final;
	r->unsolicited_limit = smaller(n->first_burst_length, r->expected);
	r->requested = final ? immediate_length : r->unsolicited_limit;
	if (r->expected > LIMIT_TRANSFER_BYTES)
		r->data_error = DATA_TOO_LARGE;
	else if ((immediate_length && !n->immediate_data) || (!final && n->initial_r2t))
		r->data_error = DATA_UNEXPECTED;
	else if (immediate_length > r->unsolicited_limit)
		r->data_error = DATA_AMOUNT;
	request_prepare_memory(c, r);
}

static bool fill_command(struct connection *c, struct request *r)
{
	const unsigned char *bhs = c->incoming.header;
	uint32_t length = c->incoming.segment_length, expected = get_32(bhs + 20);
	bool final = bhs[1] & FLAG_FINAL;

	r->read = bhs[1] & FLAG_READ;
	r->write = bhs[1] & FLAG_WRITE;
	if (r->tag == RESERVED_TAG)
		return format_error(c, "the reserved Initiator Task Tag");
	if (!r->write && (length || !final))
		return format_error(c, "Data-Out announced without the W bit");
	if (!read_ahs(c, r))
		return false;
	r->expected = r->write ? expected : 0;
	r->read_expected = !r->read ? 0 : r->write ? r->bidirectional_read_length : expected;
	plan_data_out(c, r, length, final);
	return true;
}

static bool begin_command(struct connection *c)
{
	struct incoming *in = &c->incoming;
	struct request *r;

	if (!(in->header[0] & 0x40) && !requests_in_window(c, get_32(in->header + 24)))
		return true;				/* ignored silently (4.2.2.1) */
	if (requests_find(c, get_32(in->header + 16))) {
		output_reject(c, REJECT_PROTOCOL_ERROR);	/* the tag of a task still active (11.2.1.8) */
		return true;
	}
	r = request_new(c, in->header, KIND_COMMAND);
	if (!r) {
		output_reject(c, REJECT_IMMEDIATE_COMMAND);
		return true;
	}
	in->request = r;
	if (!fill_command(c, r))
		return false;
	if (r->block && in->segment_length && !r->data_error)
		in->sink = engine_block_memory(r->block);
	return true;
}

static void end_command(struct connection *c, struct request *r, bool digest_good)
{
	struct incoming *in = &c->incoming;

	if (!digest_good) {
		/* discarded; its CmdSN was never received, and the initiator plugs the gap (7.3, 7.8) */
		output_reject(c, REJECT_DATA_DIGEST_ERROR);
		request_free(c, r);
		return;
	}
	if (in->sink)
		r->received = in->segment_length;
	request_settle(c, r);
	requests_accept(c, r);
	requests_solicit(c);
}

/* ---- Data-Out (11.7) --------------------------------------------------------------------------------------------------- */

static uint32_t find_r2t(const struct request *r, uint32_t target_transfer_tag)
{
	uint32_t i = 0;

	while (i < r->r2t_count && r->r2ts[i].target_transfer_tag != target_transfer_tag)
		i++;
	return i;
}

/* Does this PDU continue the sequence it belongs to? Data are in order, so only the oldest R2T can be answered. */
static enum data_error check_sequence(struct request *r, const struct incoming *in)
{
	bool unsolicited = in->r2t_index == RESERVED_TAG;
	uint32_t *data_sn = unsolicited ? &r->unsolicited_data_sn : &r->r2ts[in->r2t_index].data_sn;
	uint32_t end = unsolicited ? r->unsolicited_limit : r->r2ts[in->r2t_index].end;

	if (get_32(in->header + 36) != *data_sn || get_32(in->header + 40) != r->received)
		return DATA_SEQUENCE;
	if (!unsolicited && in->r2t_index)
		return DATA_SEQUENCE;
	if (in->segment_length > end - r->received)
		return DATA_AMOUNT;
	++*data_sn;
	return DATA_OK;
}

/* Finds the sequence a Data-Out PDU belongs to; false when it belongs to none. */
static bool find_sequence(struct incoming *in, const struct request *r)
{
	uint32_t target_transfer_tag = get_32(in->header + 20);

	if (r->whole || r->handed_out || !r->write)
		return false;
	if (target_transfer_tag == RESERVED_TAG) {
		in->r2t_index = RESERVED_TAG;
		return r->unsolicited_open;
	}
	in->r2t_index = find_r2t(r, target_transfer_tag);
	return in->r2t_index < r->r2t_count && !memcmp(in->header + 8, r->bhs + 8, 8);
}

static bool begin_data_out(struct connection *c)
{
	struct incoming *in = &c->incoming;
	struct request *r = requests_find(c, get_32(in->header + 16));

	if (!r)
		return true;		/* of a command that was aborted or ignored: nobody waits for it */
	if (!find_sequence(in, r)) {
		output_reject(c, REJECT_INVALID_PDU_FIELD);
		return true;
	}
	in->request = r;
	if (!r->data_error)
		r->data_error = check_sequence(r, in);
	if (!r->data_error && in->segment_length)
		in->sink = engine_block_memory(r->block) + r->received;
	return true;
}

static void end_unsolicited(const struct connection *c, struct request *r)
{
	r->unsolicited_open = false;
	/* "different than FirstBurstLength": incorrect amount of data (11.4.7.2) */
	if (!r->data_error && r->expected > c->negotiated.first_burst_length && r->received != r->unsolicited_limit)
		r->data_error = DATA_AMOUNT;
	if (!r->data_error)
		r->requested = r->received;
}

static void end_r2t(struct request *r, uint32_t index)
{
	if (!r->data_error && r->received != r->r2ts[index].end)
		r->data_error = DATA_AMOUNT;
	r->r2t_count--;
	memmove(r->r2ts + index, r->r2ts + index + 1, (r->r2t_count - index) * sizeof *r->r2ts);
}

static void end_data_out(struct connection *c, struct request *r, bool digest_good)
{
	struct incoming *in = &c->incoming;

	if (!digest_good) {
		output_reject(c, REJECT_DATA_DIGEST_ERROR);
		if (!r->data_error)
			r->data_error = DATA_DIGEST;
	} else if (in->sink) {
		r->received += in->segment_length;
	}
	if (in->header[1] & FLAG_FINAL) {
		if (in->r2t_index == RESERVED_TAG)
			end_unsolicited(c, r);
		else
			end_r2t(r, in->r2t_index);
		request_settle(c, r);
		requests_solicit(c);
	}
}

/* ---- every other PDU ------------------------------------------------------------------------------------------------- */

static bool begin_other(struct connection *c, bool has_cmd_sn)
{
	struct incoming *in = &c->incoming;
	struct request *r;

	if (has_cmd_sn && !(in->header[0] & 0x40) && !requests_in_window(c, get_32(in->header + 24)))
		return true;
	if (in->segment_length > LIMIT_WAITING_PDU_BYTES - c->waiting_pdu_bytes)
		return format_error(c, "data segments of waiting PDUs come to more than %u bytes", LIMIT_WAITING_PDU_BYTES);
	r = request_new(c, in->header, KIND_PDU);
	if (!r) {
		output_reject(c, REJECT_IMMEDIATE_COMMAND);
		return true;
	}
	in->request = r;
	r->whole = true;
	if (!in->segment_length)
		return true;
	r->data = malloc(in->segment_length);
	if (!r->data)
		return format_error(c, "no memory for a data segment of %u bytes", in->segment_length);
	r->data_length = in->segment_length;
	c->waiting_pdu_bytes += r->data_length;
	in->sink = r->data;
	return true;
}

static void end_other(struct connection *c, struct request *r, bool digest_good)
{
	if (digest_good) {
		requests_accept(c, r);
		return;
	}
	output_reject(c, REJECT_DATA_DIGEST_ERROR);
	request_free(c, r);
}

/* ---- phases ------------------------------------------------------------------------------------------------------------- */

static bool begin_pdu(struct connection *c)
{
	switch (c->incoming.header[0] & 0x3f) {
	case SCSI_COMMAND:
		return begin_command(c);
	case DATA_OUT:
		return begin_data_out(c);
	case NOP_OUT:
	case TASK_MANAGEMENT:
	case TEXT:
	case LOGOUT:
		return begin_other(c, true);
	case SNACK:
		return begin_other(c, false);
	case LOGIN:
		output_reject(c, REJECT_PROTOCOL_ERROR);	/* not in the full feature phase */
		return true;
	default:
		output_reject(c, REJECT_COMMAND_NOT_SUPPORTED);
		return true;
	}
}

static void end_pdu(struct connection *c, bool digest_good)
{
	struct request *r = c->incoming.request;

	c->incoming.request = NULL;
	if (!r)
		return;
	if (r->dropped)
		request_free(c, r);
	else if ((c->incoming.header[0] & 0x3f) == DATA_OUT)
		end_data_out(c, r, digest_good);
	else if (r->kind == KIND_COMMAND)
		end_command(c, r, digest_good);
	else
		end_other(c, r, digest_good);
}

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
		format_error(c, "header digest error");
		return STEP_ERROR;
	}
	in->segment_length = get_24(p + 5);
	in->segment_received = 0;
	in->sink = NULL;
	in->request = NULL;
	in->crc = 0;
	if (in->segment_length > c->negotiated.max_recv_data_segment_length) {
		format_error(c, "DataSegmentLength %u is over our MaxRecvDataSegmentLength %u", in->segment_length,
			     c->negotiated.max_recv_data_segment_length);
		return STEP_ERROR;
	}
	in->phase = PHASE_SEGMENT;
	return begin_pdu(c) ? STEP_DONE : STEP_ERROR;
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
	end_pdu(c, digest_good);
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

/* ---- the socket --------------------------------------------------------------------------------------------------------- */

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

/* Looks for bytes for a short while, then sleeps for them. */
static ssize_t wait_for_bytes(struct connection *c)
{
	int64_t start = now_us(), end = start + LIMIT_POLL_US;
	ssize_t count = -1;

	errno = EAGAIN;
	while (c->quick_peer && count < 0 && errno == EAGAIN && now_us() < end) {
		count = read_socket(c, MSG_DONTWAIT);
		if (count < 0)
			sched_yield();
	}
	if (count < 0 && errno == EAGAIN)
		count = read_socket(c, 0);
	c->quick_peer = count > 0 && now_us() - start < LIMIT_QUICK_US;
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
	if (count < 0 && errno == EAGAIN)
		return OUTCOME_TIMEOUT;
	if (count < 0 && errno == EINTR)
		return OUTCOME_INTERRUPTED;
	close_locked(c, count ? "the connection failed while we were receiving" : "the peer closed the connection");
	return OUTCOME_CLOSED;
}

/* ---- the next request ------------------------------------------------------------------------------------------------ */

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
		pthread_mutex_unlock(&c->lock);
		if (state == ADVANCE_REQUEST || outcome != OUTCOME_REQUEST)
			return state == ADVANCE_REQUEST ? OUTCOME_REQUEST : outcome;
		if (state == ADVANCE_CLOSED || !connection_flush(c))
			return OUTCOME_CLOSED;
		if (state == ADVANCE_ERROR) {
			close_locked(c, "the connection was closed after a protocol error");
			return OUTCOME_PROTOCOL_ERROR;
		}
		if (state == ADVANCE_ROOM)
			continue;
		struct waiting waiting = look_before_waiting(c);
		if (waiting.views)
			return OUTCOME_VIEWS;
		outcome = wait_for_input(c, timeout_us, waiting.starved);
		if (outcome == OUTCOME_REQUEST && deadline_us != INT64_MAX && now_us() >= deadline_us)
			outcome = OUTCOME_TIMEOUT;	/* but first see what came */
	}
}
