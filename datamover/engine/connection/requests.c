/* The table of requests: command window and order (RFC 7143 4.2.2.1), Data-Out memory, R2T (11.8). */
#include <stdlib.h>
#include <string.h>

#include "connection/output.h"
#include "connection/requests.h"

/* ---- queues ------------------------------------------------------------------------------------------------------ */

static void enqueue_after(struct queue *queue, struct request *place, struct request *r)	/* NULL: in front */
{
	r->queue = queue;
	r->previous = place;
	r->next = place ? place->next : queue->first;
	*(r->next ? &r->next->previous : &queue->last) = r;
	*(place ? &place->next : &queue->first) = r;
}

static void enqueue(struct queue *queue, struct request *r)
{
	enqueue_after(queue, queue->last, r);
}

static void dequeue(struct request *r)
{
	struct queue *queue = r->queue;

	if (!queue)
		return;
	*(r->previous ? &r->previous->next : &queue->first) = r->next;
	*(r->next ? &r->next->previous : &queue->last) = r->previous;
	r->queue = NULL;
}

/* ---- slots and tags ---------------------------------------------------------------------------------------------- */

size_t requests_slot_count(const struct connection *c)
{
	/* MaxCmdSN keeps non-immediate requests within the window; one more slot is for the PDU being received. */
	return c->negotiated.command_window + LIMIT_IMMEDIATE_REQUESTS + 1;
}

int requests_init(struct connection *c)
{
	c->slots = calloc(requests_slot_count(c), sizeof *c->slots);
	if (!c->slots)
		return -1;
	for (size_t i = 0; i < requests_slot_count(c); i++) {
		c->slots[i].next = c->free_slots;
		c->free_slots = &c->slots[i];
	}
	return 0;
}

bool requests_any(const struct connection *c)
{
	size_t unused = 0;

	for (const struct request *r = c->free_slots; r; r = r->next)
		unused++;
	return unused != requests_slot_count(c);
}

static void clear_queue(struct connection *c, struct queue *queue)
{
	while (queue->first)
		request_free(c, queue->first);
}

void requests_clear(struct connection *c)
{
	if (c->slots && c->incoming.request && !c->incoming.request->queue)
		request_free(c, c->incoming.request);
	clear_queue(c, &c->urgent);
	clear_queue(c, &c->ordered);
	clear_queue(c, &c->held);
	clear_queue(c, &c->arriving);
	free(c->slots);
}

static struct request **bucket(struct connection *c, uint32_t tag)
{
	return &c->table[(tag ^ tag >> 8 ^ tag >> 16 ^ tag >> 24) % TAG_BUCKETS];
}

struct request *requests_find(struct connection *c, uint32_t tag)
{
	struct request *r = *bucket(c, tag);

	while (r && r->tag != tag)
		r = r->next_in_bucket;
	return r;
}

static void remove_from_table(struct connection *c, struct request *r)
{
	struct request **link = bucket(c, r->tag);

	if (!r->in_table)
		return;
	while (*link != r)
		link = &(*link)->next_in_bucket;
	*link = r->next_in_bucket;
	r->in_table = false;
}

static void add_to_table(struct connection *c, struct request *r)
{
	struct request **link = bucket(c, r->tag);

	r->next_in_bucket = *link;
	*link = r;
	r->in_table = true;
}

struct request *request_new(struct connection *c, const unsigned char *bhs, enum request_kind kind)
{
	struct request *r = c->free_slots;
	bool immediate = kind != KIND_PLUG && bhs[0] & 0x40;

	if (!r || (immediate && c->immediate_count >= LIMIT_IMMEDIATE_REQUESTS))
		return NULL;
	c->free_slots = r->next;
	c->immediate_count += immediate;
	memset(r, 0, offsetof(struct request, extended_cdb));
	memset(&r->extended_cdb_length, 0, sizeof *r - offsetof(struct request, extended_cdb_length));
	r->kind = kind;
	r->immediate = immediate;
	memcpy(r->bhs, bhs, BHS_BYTES);
	r->tag = get_32(bhs + 16);
	r->cmd_sn = get_32(bhs + 24);
	return r;
}

void request_give_place_back(struct connection *c, struct request *r)
{
	c->places_held -= r->holds_place;
	r->holds_place = false;
}

static void release_memory(struct connection *c, struct request *r)
{
	if (r->block)
		engine_block_release(r->block);
	r->block = NULL;
	c->held_bytes -= r->held_bytes;
	if (r->whole)
		c->whole_bytes -= r->held_bytes;
	r->held_bytes = 0;
}

/* Data-Out that it still waits for may come all the same. */
static void expect_late_data(struct connection *c, struct request *r)
{
	if (r->unsolicited_open)
		requests_expect_late(c, r->tag, RESERVED_TAG);
	for (uint32_t i = 0; i < r->r2t_count; i++)
		requests_expect_late(c, r->tag, r->r2ts[i].target_transfer_tag);
	c->awaited_sequences -= r->r2t_count + r->unsolicited_open;
	r->r2t_count = 0;
	r->unsolicited_open = false;
}

void request_free(struct connection *c, struct request *r)
{
	expect_late_data(c, r);
	dequeue(r);
	remove_from_table(c, r);
	request_give_place_back(c, r);
	release_memory(c, r);
	c->immediate_count -= r->immediate;
	c->waiting_pdu_bytes -= r->data_length;
	free(r->data);
	r->next = c->free_slots;
	c->free_slots = r;
}

/* ---- window and order -------------------------------------------------------------------------------------------- */

uint32_t requests_max_cmd_sn(const struct connection *c)
{
	return c->exp_cmd_sn + (c->negotiated.command_window - c->places_held) - 1;
}

bool requests_in_window(const struct connection *c, uint32_t cmd_sn)
{
	return !sn_before(cmd_sn, c->exp_cmd_sn) && !sn_before(requests_max_cmd_sn(c), cmd_sn);
}

/* A request whose turn has come by CmdSN. Task management goes ahead of commands that wait for their data: they may be
 * just what it is to abort. */
static void enter(struct connection *c, struct request *r)
{
	c->exp_cmd_sn++;
	if (r->kind == KIND_PLUG) {
		request_free(c, r);
		return;
	}
	c->places_held++;
	r->holds_place = true;
	enqueue(r->kind == KIND_PDU && (r->bhs[0] & 0x3f) == TASK_MANAGEMENT ? &c->urgent : &c->ordered, r);
}

static void accept_in_order(struct connection *c, struct request *r)
{
	struct request *next;

	enter(c, r);
	while ((next = c->held.first) && next->cmd_sn == c->exp_cmd_sn) {
		dequeue(next);
		enter(c, next);
	}
}

static void hold(struct connection *c, struct request *r)
{
	struct request *place = c->held.last;

	while (place && sn_before(r->cmd_sn, place->cmd_sn))
		place = place->previous;
	if (place && place->cmd_sn == r->cmd_sn)
		request_free(c, r);		/* a duplicate is ignored silently (4.2.2.1) */
	else
		enqueue_after(&c->held, place, r);
}

void requests_accept(struct connection *c, struct request *r)
{
	if (r->kind == KIND_COMMAND)
		add_to_table(c, r);
	if (r->immediate || (r->kind == KIND_PDU && (r->bhs[0] & 0x3f) == SNACK))	/* SNACK has no CmdSN (11.16) */
		enqueue(r->whole ? &c->urgent : &c->arriving, r);
	else if (!requests_in_window(c, r->cmd_sn))
		request_free(c, r);
	else if (r->cmd_sn == c->exp_cmd_sn)
		accept_in_order(c, r);
	else
		hold(c, r);
}

struct request *requests_next(struct connection *c)
{
	struct request *r = c->urgent.first;

	if (!r)
		r = c->ordered.first;
	if (!r || !r->whole)
		return NULL;
	dequeue(r);
	r->handed_out = true;
	c->commands += r->kind == KIND_COMMAND;
	return r;
}

void requests_announce_window(struct connection *c, bool was_closed)
{
	/* "it MUST generate a NOP-In to carry the new MaxCmdSN" (11.4.11) */
	if (was_closed && requests_max_cmd_sn(c) != c->exp_cmd_sn - 1 && !c->closed)
		output_nop_in(c);
}

/* ---- Data-Out: memory and R2T ------------------------------------------------------------------------------------ */

/* Unsolicited data cannot be held back, so a first burst for each free place is kept free of what R2Ts ask for. */
static bool within_budget(const struct connection *c, const struct request *r, size_t size)
{
	size_t reserve = (size_t)(c->negotiated.command_window - c->places_held) *
			 engine_block_size_for(c->negotiated.first_burst_length);

	return c->held_bytes - r->held_bytes + size + reserve <= c->negotiated.buffer_budget;
}

/* Of the pool, beside what the other connections hold. */
static bool has_share(const struct connection *c, const struct request *r, size_t length)
{
	return engine_pool_grants(c->pool, c->held_bytes - r->held_bytes + c->deferred_bytes, length);
}

static bool take_memory(struct connection *c, struct request *r, uint32_t length)
{
	struct buffer_block *block = engine_block_acquire(c->pool, length);

	if (!block)
		return false;
	if (r->received)
		memcpy(engine_block_memory(block), engine_block_memory(r->block), r->received);
	release_memory(c, r);
	r->block = block;
	r->held_bytes = engine_block_size_for(length);
	c->held_bytes += r->held_bytes;
	return true;
}

void request_prepare_memory(struct connection *c, struct request *r)
{
	uint32_t announced = r->requested;

	if (!announced || r->data_error)
		return;
	/* An immediate command has no place in the window, so no burst was kept free for it. */
	if ((r->immediate && !within_budget(c, r, engine_block_size_for(announced))) || !has_share(c, r, announced)) {
		r->data_error = DATA_NO_BUFFER;
		return;
	}
	if ((announced == r->expected || (within_budget(c, r, engine_block_size_for(r->expected)) &&
					  has_share(c, r, r->expected))) && take_memory(c, r, r->expected))
		return;
	if (announced == r->expected || !take_memory(c, r, announced))
		r->data_error = DATA_NO_BUFFER;
}

/* Memory for all of the command's data; without it no R2T. The oldest command goes over budget and share rather than wait
 * for ever, as long as the pool has plenty, unless a whole one is about to be answered and give memory back. */
static bool have_memory(struct connection *c, struct request *r, bool oldest)
{
	size_t size = engine_block_size_for(r->expected);
	bool alone = oldest && !c->whole_bytes;

	if (r->block && r->held_bytes >= size)
		return true;
	if (((within_budget(c, r, size) && has_share(c, r, size)) || (alone && engine_pool_has_plenty(c->pool, size))) &&
	    take_memory(c, r, r->expected))
		return true;
	if (alone) {					/* nothing of ours will come back and make room */
		r->data_error = DATA_NO_BUFFER;
		request_settle(c, r);
	}
	return false;
}

void request_await(struct connection *c, struct request *r)
{
	if (!r->r2t_count && !r->unsolicited_open)
		r->awaited_since_us = monotonic_us();
	c->awaited_sequences++;
}

void request_sequence_ended(struct connection *c, struct request *r)
{
	r->awaited_since_us = monotonic_us();
	c->awaited_sequences--;
}

static bool overdue_in(const struct queue *queue, int64_t since_us)
{
	for (const struct request *r = queue->first; r; r = r->next)
		if ((r->r2t_count || r->unsolicited_open) && r->awaited_since_us < since_us)
			return true;
	return false;
}

/* Who waits for much at one time gets longer: sequences of several commands share the line. */
bool requests_overdue(const struct connection *c, int64_t now_us)
{
	double patience = c->negotiated.data_timeout_seconds + (double)c->held_bytes / LIMIT_DATA_BYTES_PER_SECOND;
	int64_t since_us = now_us - (int64_t)(patience * 1e6);

	return c->awaited_sequences && (overdue_in(&c->ordered, since_us) || overdue_in(&c->arriving, since_us) ||
					overdue_in(&c->held, since_us));
}

void requests_expect_late(struct connection *c, uint32_t tag, uint32_t target_transfer_tag)
{
	c->late[c->next_late++ % LIMIT_LATE_SEQUENCES] = (struct late_sequence){ tag, target_transfer_tag, true };
}

bool requests_was_late(struct connection *c, uint32_t tag, uint32_t target_transfer_tag, bool final)
{
	for (unsigned i = 0; i < LIMIT_LATE_SEQUENCES; i++) {
		struct late_sequence *late = &c->late[i];
		if (late->awaited && late->tag == tag && late->target_transfer_tag == target_transfer_tag) {
			late->awaited = !final;
			return true;
		}
	}
	return false;
}

void request_settle(struct connection *c, struct request *r)
{
	/* after an error the data under way come first: the target "MUST wait until it receives the last expected
	 * Data-Out PDUs" (11.17) */
	if (r->unsolicited_open || (r->data_error ? r->r2t_count != 0 : r->received != r->expected))
		return;
	if (r->data_error)
		release_memory(c, r);
	r->whole = true;
	c->whole_bytes += r->held_bytes;
	if (r->queue == &c->arriving) {
		dequeue(r);
		enqueue(&c->urgent, r);
	}
}

static void solicit(struct connection *c, struct request *r, bool oldest)
{
	while (r->r2t_count < c->negotiated.max_outstanding_r2t && r->requested < r->expected && !r->data_error) {
		uint32_t length = smaller(r->expected - r->requested, c->negotiated.max_burst_length);
		uint32_t tag = c->next_target_transfer_tag;

		if (!output_has_room(c, 1) || !have_memory(c, r, oldest)) {
			c->starved = true;
			return;
		}
		c->next_target_transfer_tag = tag + 1 == RESERVED_TAG ? 0 : tag + 1;
		output_r2t(c, r, tag, r->data_sn++, r->requested, length);
		r->requested += length;
		request_await(c, r);
		r->r2ts[r->r2t_count++] = (struct r2t){ .target_transfer_tag = tag, .end = r->requested };
	}
}

static void solicit_queue(struct connection *c, struct queue *queue, bool *oldest)
{
	for (struct request *r = queue->first, *next; r; r = next) {
		next = r->next;				/* settling can move it to another queue */
		if (r->whole || r->kind != KIND_COMMAND)
			continue;
		if (!r->unsolicited_open)
			solicit(c, r, *oldest);
		*oldest = r->whole && *oldest;		/* one just given up on leaves its turn to the next */
	}
}

void requests_solicit(struct connection *c)
{
	bool oldest = true;

	c->starved = false;
	if (c->closed)
		return;
	solicit_queue(c, &c->ordered, &oldest);
	solicit_queue(c, &c->arriving, &oldest);
}

/* ---- task management --------------------------------------------------------------------------------------------- */

bool requests_plug(struct connection *c, uint32_t cmd_sn)
{
	unsigned char bhs[BHS_BYTES] = { 0 };
	struct request *r;

	for (r = c->held.first; r; r = r->next)
		if (r->cmd_sn == cmd_sn)
			return false;
	put_32(bhs + 24, cmd_sn);
	if (!requests_in_window(c, cmd_sn) || !(r = request_new(c, bhs, KIND_PLUG)))
		return false;
	requests_accept(c, r);
	return true;
}

static void drop(struct connection *c, struct request *r)
{
	uint32_t cmd_sn = r->cmd_sn;
	bool out_of_order = r->queue == &c->held;

	dequeue(r);
	remove_from_table(c, r);
	request_give_place_back(c, r);
	if (r == c->incoming.request)
		r->dropped = true;			/* receive() is writing into its memory, and frees it */
	else
		request_free(c, r);
	if (out_of_order)
		requests_plug(c, cmd_sn);		/* it did come */
}

static bool matches(const struct request *r, const struct abort_filter *filter)
{
	return r->kind == KIND_COMMAND && (!filter->by_tag || r->tag == filter->tag) &&
	       (!filter->by_lun || get_64(r->bhs + 8) == filter->lun) &&
	       (!filter->by_cmd_sn || sn_before(r->cmd_sn, filter->before_cmd_sn));
}

size_t requests_abort(struct connection *c, const struct abort_filter *filter, uint32_t *tags)
{
	struct queue *queues[] = { &c->urgent, &c->ordered, &c->arriving, &c->held };
	bool was_closed = requests_max_cmd_sn(c) == c->exp_cmd_sn - 1;
	size_t count = 0;

	for (size_t i = 0; i < sizeof queues / sizeof *queues; i++)
		for (struct request *r = queues[i]->first, *next; r; r = next) {
			next = r->next;
			if (!matches(r, filter))
				continue;
			tags[count++] = r->tag;
			drop(c, r);
		}
	requests_solicit(c);
	requests_announce_window(c, was_closed);
	return count;
}
