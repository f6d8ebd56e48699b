/* libFuzzer harness of the iSCSI connection: a stream of PDUs cut anywhere, and Python's calls in between.
 *
 * The first byte chooses what was negotiated; then come steps: a byte that says what to do and how much, and for a feed
 * the bytes themselves. The invariant is the engine's own: a request, nothing yet, a protocol error or a closed
 * connection, with no error of the sanitizers, no memory left behind, and the sequence numbers consistent.
 * tests/fuzz/run builds it.
 *
 * Python's symbols stay unresolved in this program: nothing on the paths driven here calls them.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection/input.h"
#include "connection/output.h"
#include "connection/requests.h"

#define KEPT_MAX 64

struct input {
	const uint8_t *data;
	size_t left;
};

static struct buffer_pool *pool;

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->data++;
}

#define CHECK(condition) do { if (!(condition)) abort(); } while (0)

static void drain(int peer)
{
	static char sink[1 << 16];

	while (recv(peer, sink, sizeof sink, MSG_DONTWAIT) > 0)
		;
}

static void answer(struct connection *c, struct request *r, unsigned choice)
{
	static unsigned char data[40000];
	struct answer a = { .status = choice & 1 ? 2 : 0, .sense = data, .wanted = -1 };

	a.sense_length = choice & 1 ? 18 : 0;
	if (choice & 2) {
		a.payload = calloc(1, sizeof *a.payload);
		CHECK(a.payload && (a.payload->block = engine_block_acquire(pool, sizeof data)));
		a.payload->references = 1;
		a.data = engine_block_memory(a.payload->block);
		memset(engine_block_memory(a.payload->block), 0, sizeof data);
		a.data_length = choice * 150;
	}
	pthread_mutex_lock(&c->lock);
	if (choice & 4)					/* as another thread does */
		output_defer(c, deferred_answer_new(r, &a));
	else
		output_answer(c, r, &a);
	if (a.payload)
		payload_drop(c, a.payload);
	pthread_mutex_unlock(&c->lock);
}

static void act(struct connection *c, unsigned choice)
{
	struct abort_filter filter = { .by_tag = choice & 1, .tag = choice >> 4, .by_cmd_sn = choice & 2,
				       .before_cmd_sn = c->exp_cmd_sn - (choice >> 5) };
	uint32_t tags[256];

	CHECK(requests_slot_count(c) <= sizeof tags / sizeof *tags);
	pthread_mutex_lock(&c->lock);
	if (choice & 4)
		requests_plug(c, c->exp_cmd_sn + (choice >> 5));
	else
		requests_abort(c, &filter, tags);
	pthread_mutex_unlock(&c->lock);
}

static bool receive(struct connection *c, struct request **kept, size_t *kept_count, unsigned choice)
{
	struct request *r;

	switch (connection_next(c, 0, &r)) {
	case OUTCOME_REQUEST:
		if (r->kind == KIND_COMMAND && *kept_count < KEPT_MAX && choice & 1)
			kept[(*kept_count)++] = r;
		else if (r->kind == KIND_COMMAND)
			answer(c, r, choice);
		else
			request_free(c, r);
		return true;
	case OUTCOME_TIMEOUT:
	case OUTCOME_INTERRUPTED:
		return true;
	default:
		return false;
	}
}

static void feed(struct input *in, int peer, size_t length)
{
	length = length < in->left ? length : in->left;
	CHECK(send(peer, in->data, length, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)length);
	in->data += length;
	in->left -= length;
}

static void converse(struct connection *c, int peer, struct input *in)
{
	struct request *kept[KEPT_MAX];
	size_t kept_count = 0;
	bool open = true;

	while (open && in->left) {
		unsigned choice = take(in);
		if (choice < 0xc0)
			feed(in, peer, choice == 0xbf ? 4096 : choice);
		else if (choice < 0xd0 && kept_count)
			answer(c, kept[--kept_count], take(in));
		else if (choice < 0xe0)
			act(c, take(in));
		open = receive(c, kept, &kept_count, choice);
		CHECK(!sn_before(requests_max_cmd_sn(c) + 1, c->exp_cmd_sn));
		CHECK(c->places_held <= c->negotiated.command_window);
		drain(peer);
	}
	while (kept_count)
		answer(c, kept[--kept_count], 0);
	CHECK(c->awaited_sequences <= requests_slot_count(c) * (LIMIT_OUTSTANDING_R2T + 1));
}

static struct buffer_pool *make_pool(void);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct connection zero;
	struct connection *c = malloc(sizeof *c);
	struct input in = { data, size };
	unsigned options = take(&in);
	int pair[2];

	if (!pool)
		pool = make_pool();
	CHECK(c && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	*c = zero;
	c->descriptor = pair[0];
	c->pool = pool;
	c->exp_cmd_sn = options & 0x80 ? 0xfffffffe : 1;
	c->negotiated = (struct negotiated){
		.discovery = (options & 0x67) == 0x66, .data_digest = (options & 7) == 7, .initial_r2t = options & 8, .immediate_data = !(options & 16),
		.max_recv_data_segment_length = 8192, .max_send_data_segment_length = 512, .first_burst_length = 1024,
		.max_burst_length = 2048, .max_outstanding_r2t = 1 + (options >> 5 & 3),
		.command_window = 1 + (options & 7),
		.buffer_budget = 64 << 10, .send_timeout_seconds = 1,
		.data_timeout_seconds = 60,
	};
	CHECK(connection_init(c));
	converse(c, pair[1], &in);
	connection_clear(c);
	CHECK(!c->held_bytes && !c->whole_bytes && !c->places_held && !c->immediate_count && !c->waiting_pdu_bytes);
	CHECK(!c->awaited_sequences && !c->deferred_bytes);
	CHECK(!c->finished_views);
	close(pair[0]);
	close(pair[1]);
	free(c);
	return 0;
}

/* The pool's constructor is Python's, so its file is part of this one. */
#include "buffer.c"

static struct buffer_pool *make_pool(void)
{
	struct buffer_pool *made = calloc(1, sizeof *made);

	pthread_mutex_init(&made->lock, NULL);
	made->capacity = 1 << 20;
	made->users = 1;
	return made;
}
