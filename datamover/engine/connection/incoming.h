/* The PDU that a connection is receiving. */
#ifndef TAPEBAY_INCOMING_H
#define TAPEBAY_INCOMING_H

#include "connection/protocol.h"

struct request;

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

#endif
