/* What each PDU of the initiator does (RFC 7143 11).
 *
 * pdu_begin() sees the header and decides where the data segment goes; pdu_end() sees it whole. Nothing is allocated by
 * what a header claims before the claim has passed its limit.
 *
 * What is wrong ends in one of three ways. A format error (7.7) or a header digest error closes the connection. Other
 * violations are answered with Reject (7.3), and the PDU counts as never received, except for a command that may not be
 * sent again (11.17.1): its CmdSN counts as received, or those after it would wait for ever. Data-Out that is damaged or out of
 * sequence sets its command's data_error, and the command ends in CHECK CONDITION (7.8, 7.9, 11.4.7.2).
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "connection/input.h"
#include "connection/output.h"
#include "connection/requests.h"

#define FLAG_FINAL 0x80			/* byte 1 of SCSI Command and Data-Out */
#define FLAG_READ 0x40
#define FLAG_WRITE 0x20

#define AHS_EXTENDED_CDB 1		/* 11.2.2.3 */
#define AHS_BIDIRECTIONAL_READ_LENGTH 2	/* 11.2.2.4 */

static const char *opcode_name(unsigned opcode)
{
	static const char *const names[] = { "NOP-Out", "SCSI Command", "Task Management", "Login", "Text", "Data-Out",
					     "Logout" };

	return opcode < sizeof names / sizeof *names ? names[opcode] : opcode == SNACK ? "SNACK" : "unknown";
}

bool pdu_format_error(struct connection *c, const char *format, ...)
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
		return pdu_format_error(c, "AHSLength %u of an Extended CDB is not 1 to %zu", length,
				    sizeof r->extended_cdb + 1);
	r->extended_cdb_length = length - 1;		/* AHSLength counts a reserved byte (11.2.2.1) */
	memcpy(r->extended_cdb, ahs + 4, length - 1);
	return true;
}

static bool read_ahs(struct connection *c, struct request *r)
{
	const struct incoming *in = &c->incoming;
	const unsigned char *ahs = in->header + BHS_BYTES, *end = in->header + in->header_length;

	while (ahs < end) {
		uint32_t length = get_16(ahs), whole = (3 + length + 3) & ~3u;	/* length, type, then `length` bytes */
		if (whole > (size_t)(end - ahs))
			return pdu_format_error(c, "AHSLength %u goes beyond TotalAHSLength", length);
		if (ahs[2] == AHS_EXTENDED_CDB) {
			if (!read_extended_cdb(c, r, ahs, length))
				return false;
		} else if (ahs[2] == AHS_BIDIRECTIONAL_READ_LENGTH && length == 5) {
			r->bidirectional_read_length = get_32(ahs + 4);
		} else {
			return pdu_format_error(c, "AHS of type %u and length %u", ahs[2], length);
		}
		ahs += whole;
	}
	return true;
}

/* What of the Data-Out may come without being asked for (13.10, 13.11, 13.14), and memory for it. */
static void plan_data_out(struct connection *c, struct request *r, uint32_t immediate_length, bool final)
{
	const struct negotiated *n = &c->negotiated;

	if (!final)
		request_await(c, r);
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
		return pdu_format_error(c, "the reserved Initiator Task Tag");
	if (!r->write && (length || !final))
		return pdu_format_error(c, "Data-Out announced without the W bit");
	if (!read_ahs(c, r))
		return false;
	r->expected = r->write ? expected : 0;
	r->read_expected = !r->read ? 0 : r->write ? r->bidirectional_read_length : expected;
	plan_data_out(c, r, length, final);
	return true;
}

/* Whether its AHSs are of types that there are (11.2.2.1). Lengths that do not fit are read_ahs()'s to find. */
static bool ahs_types_known(const struct incoming *in)
{
	const unsigned char *ahs = in->header + BHS_BYTES, *end = in->header + in->header_length;

	while (ahs < end) {
		uint32_t whole = (3 + get_16(ahs) + 3) & ~3u;
		if (whole > (size_t)(end - ahs))
			return true;
		if (ahs[2] != AHS_EXTENDED_CDB && ahs[2] != AHS_BIDIRECTIONAL_READ_LENGTH)
			return false;
		ahs += whole;
	}
	return true;
}

/* Data-Out without being asked for, which whoever sent the command may be sending already. */
static void expect_late_burst(struct connection *c)
{
	const unsigned char *bhs = c->incoming.header;

	if (bhs[1] & FLAG_WRITE && !(bhs[1] & FLAG_FINAL))
		requests_expect_late(c, get_32(bhs + 16), RESERVED_TAG);
}

/* Always true: the connection goes on. */
static bool reject_command(struct connection *c, enum reject_reason reason)
{
	expect_late_burst(c);
	output_reject(c, reason);
	return true;
}

static bool reject_command_for_good(struct connection *c, enum reject_reason reason)
{
	if (!(c->incoming.header[0] & 0x40))
		requests_plug(c, get_32(c->incoming.header + 24));
	return reject_command(c, reason);
}

static bool begin_command(struct connection *c)
{
	struct incoming *in = &c->incoming;
	struct request *r;

	if (!(in->header[0] & 0x40) && !requests_in_window(c, get_32(in->header + 24))) {
		expect_late_burst(c);
		return true;				/* ignored silently (4.2.2.1) */
	}
	if (c->negotiated.discovery)
		return reject_command_for_good(c, REJECT_PROTOCOL_ERROR);	/* 4.3 */
	if (requests_find(c, get_32(in->header + 16)))
		return reject_command(c, REJECT_PROTOCOL_ERROR);	/* the tag of a task still active (11.2.1.8) */
	if (!ahs_types_known(in))
		return reject_command_for_good(c, REJECT_INVALID_PDU_FIELD);
	r = request_new(c, in->header, KIND_COMMAND);
	if (!r)
		return reject_command(c, REJECT_IMMEDIATE_COMMAND);
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

/* ---- Data-Out (11.7) --------------------------------------------------------------------------------------------- */

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
	uint32_t tag = get_32(in->header + 16), target_transfer_tag = get_32(in->header + 20);
	struct request *r = requests_find(c, tag);

	if (!r || !find_sequence(in, r)) {
		if (!requests_was_late(c, tag, target_transfer_tag, in->header[1] & FLAG_FINAL))
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

static void end_unsolicited(struct connection *c, struct request *r)
{
	request_sequence_ended(c, r);
	r->unsolicited_open = false;
	/* "different than FirstBurstLength": incorrect amount of data (11.4.7.2) */
	if (!r->data_error && r->expected > c->negotiated.first_burst_length && r->received != r->unsolicited_limit)
		r->data_error = DATA_AMOUNT;
	if (!r->data_error)
		r->requested = r->received;
}

static void end_r2t(struct connection *c, struct request *r, uint32_t index)
{
	request_sequence_ended(c, r);
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
			end_r2t(c, r, in->r2t_index);
		request_settle(c, r);
		requests_solicit(c);
	}
}

/* ---- every other PDU --------------------------------------------------------------------------------------------- */

static bool begin_other(struct connection *c, bool has_cmd_sn)
{
	struct incoming *in = &c->incoming;
	struct request *r;

	if (has_cmd_sn && !(in->header[0] & 0x40) && !requests_in_window(c, get_32(in->header + 24)))
		return true;
	if (in->segment_length > LIMIT_WAITING_PDU_BYTES - c->waiting_pdu_bytes)
		return pdu_format_error(c, "data segments of waiting PDUs come to more than %u bytes",
					LIMIT_WAITING_PDU_BYTES);
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
		return pdu_format_error(c, "no memory for a data segment of %u bytes", in->segment_length);
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

/* ---- any PDU ----------------------------------------------------------------------------------------------------- */

bool pdu_begin(struct connection *c)
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

void pdu_end(struct connection *c, bool digest_good)
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
