/* One request of the initiator, from its arrival until it is answered. */
#ifndef TAPEBAY_REQUEST_H
#define TAPEBAY_REQUEST_H

#include "engine.h"
#include "connection/protocol.h"

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

#endif
