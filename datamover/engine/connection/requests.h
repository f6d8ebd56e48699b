/* requests.c: the table of requests. Everything here wants the connection's lock. */
#ifndef TAPEBAY_REQUESTS_H
#define TAPEBAY_REQUESTS_H

#include "connection/connection.h"

int requests_init(struct connection *c);
void requests_clear(struct connection *c);
size_t requests_slot_count(const struct connection *c);
/* Whether one has begun to come, or came and is not answered yet. */
bool requests_any(const struct connection *c);

uint32_t requests_max_cmd_sn(const struct connection *c);
bool requests_in_window(const struct connection *c, uint32_t cmd_sn);
/* After places came free without a response to say so: tells an initiator whose window was closed. */
void requests_announce_window(struct connection *c, bool was_closed);

/* A slot, or NULL when there are too many immediate requests. */
struct request *request_new(struct connection *c, const unsigned char *bhs, enum request_kind kind);
void request_free(struct connection *c, struct request *r);
void request_give_place_back(struct connection *c, struct request *r);
struct request *requests_find(struct connection *c, uint32_t tag);
/* Puts a received request where it belongs by its CmdSN. Takes it over; one that came twice is freed. */
void requests_accept(struct connection *c, struct request *r);
/* What is to be handed out now, marked so; NULL: nothing. */
struct request *requests_next(struct connection *c);
/* Counts a CmdSN that never came as received. False: outside the window, or it came. */
bool requests_plug(struct connection *c, uint32_t cmd_sn);

/* Memory for the unsolicited data of a new command; failing that, its data_error is set. */
void request_prepare_memory(struct connection *c, struct request *r);
/* A sequence of Data-Out is to come from now on; one has ended. */
void request_await(struct connection *c, struct request *r);
void request_sequence_ended(struct connection *c, struct request *r);
/* After a change of its data: sees whether the command is whole. */
void request_settle(struct connection *c, struct request *r);
/* Sends the R2Ts that limits and memory allow. */
void requests_solicit(struct connection *c);
/* Whether some Data-Out has been due for too long. */
bool requests_overdue(const struct connection *c, int64_t now_us);

/* Data-Out of a command that is no more: remembers that it may come; whether this one was to come. */
void requests_expect_late(struct connection *c, uint32_t tag, uint32_t target_transfer_tag);
bool requests_was_late(struct connection *c, uint32_t tag, uint32_t target_transfer_tag, bool final);

struct abort_filter {
	bool by_tag, by_lun, by_cmd_sn;
	uint32_t tag, before_cmd_sn;
	uint64_t lun;
};

/* Drops the commands not handed out that match; `tags` has room for a tag of every slot. Returns how many. */
size_t requests_abort(struct connection *c, const struct abort_filter *filter, uint32_t *tags);

#endif
