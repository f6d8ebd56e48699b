/* receive.c and pdus.c: from bytes to requests. All of it on the owner's thread. */
#ifndef TAPEBAY_INPUT_H
#define TAPEBAY_INPUT_H

#include "connection/connection.h"

/* ---- pdus.c (lock held) ---- */

/* The header of a PDU is in `incoming`: sets where its data segment goes. False: a format error, said in `error`. */
bool pdu_begin(struct connection *c);
/* The whole PDU is there. */
void pdu_end(struct connection *c, bool digest_good);
/* Writes the line of a ProtocolError about the PDU in `incoming`. Always false. */
__attribute__((format(printf, 2, 3))) bool pdu_format_error(struct connection *c, const char *format, ...);

/* ---- receive.c ---- */

enum outcome {
	OUTCOME_REQUEST, OUTCOME_TIMEOUT, OUTCOME_CLOSED, OUTCOME_PROTOCOL_ERROR,
	OUTCOME_INTERRUPTED,			/* a signal came: Python has to see it */
	OUTCOME_VIEWS,				/* there are finished views to release before waiting */
};

/* Without lock and GIL: the next request, within timeout_us (-1: for ever) or until connection_wake() with `called`. */
enum outcome connection_next(struct connection *c, int64_t timeout_us, struct request **request);

#endif
