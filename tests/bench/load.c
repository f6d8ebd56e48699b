/* Load on one tape drive over one iSCSI session, with several commands in flight.
 *
 *   load write|read iscsi://HOST:PORT/TARGET/LUN BLOCK_BYTES BLOCK_COUNT QUEUE_DEPTH
 *
 * write: REWIND, BLOCK_COUNT times WRITE (6) of one variable-length block, WRITE FILEMARKS (6), which makes them durable and
 * is inside the time. read: REWIND and as many READ (6). Block n starts with the number n, so that a read also proves the
 * order; every block read is checked. Prints one JSON object; any error or wrong block makes the exit status 1.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum { REWIND = 0x01, READ_6 = 0x08, WRITE_6 = 0x0a, WRITE_FILEMARKS_6 = 0x10 };
enum { LIMIT_BLOCK_BYTES = 0xffffff, LIMIT_DEPTH = 256, ANSWER_MILLISECONDS = 60000, UNIT_ATTENTIONS = 4 };

struct run;

struct place {
	struct run *run;
	struct place *next_free;
	struct scsi_task *task;
	struct scsi_iovec vector;
	uint64_t number;
};

struct run {
	struct iscsi_context *context;
	struct place *free_places;
	int lun;
	bool writes;
	uint32_t block_bytes;
	uint64_t count, sent, done, errors, wrong_blocks;
};

static void fail(struct run *run, const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, iscsi_get_error(run->context));
	exit(2);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fill(unsigned char *block, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		block[i] = (unsigned char)(i * 13 + (i >> 8));
}

/* The pattern of a whole block would cost more than some targets need to send it: its number, its end. */
static bool is_right(const struct place *place, uint32_t length)
{
	const unsigned char *block = place->vector.iov_base;
	uint32_t last = length - 1;

	return memcmp(block, &place->number, sizeof place->number) == 0 &&
	       block[last] == (unsigned char)(last * 13 + (last >> 8));
}

static void release(struct run *run, struct place *place)
{
	place->next_free = run->free_places;
	run->free_places = place;
}

static void completed(struct iscsi_context *context, int status, void *command_data, void *private_data)
{
	struct place *place = private_data;
	struct run *run = place->run;

	(void)command_data;
	if (status != SCSI_STATUS_GOOD) {
		if (run->errors++ == 0)
			fprintf(stderr, "load: block %" PRIu64 ": status %02xh: %s\n", place->number, status,
				iscsi_get_error(context));
	} else if (!run->writes && !is_right(place, run->block_bytes)) {
		run->wrong_blocks++;
	}
	scsi_free_scsi_task(place->task);
	release(run, place);
	run->done++;
}

static void send_next(struct run *run)
{
	struct place *place = run->free_places;
	uint32_t length = run->block_bytes;
	unsigned char cdb[6] = {run->writes ? WRITE_6 : READ_6, 0, (unsigned char)(length >> 16),
				(unsigned char)(length >> 8), (unsigned char)length, 0};

	run->free_places = place->next_free;
	place->number = run->sent++;
	place->task = scsi_create_task(sizeof cdb, cdb, run->writes ? SCSI_XFER_WRITE : SCSI_XFER_READ, (int)length);
	if (place->task == NULL)
		fail(run, "no memory");
	if (run->writes) {
		memcpy(place->vector.iov_base, &place->number, sizeof place->number);
		scsi_task_set_iov_out(place->task, &place->vector, 1);
	} else {
		scsi_task_set_iov_in(place->task, &place->vector, 1);
	}
	if (iscsi_scsi_command_async(run->context, run->lun, place->task, completed, NULL, place) != 0)
		fail(run, "command");
}

static void serve(struct run *run)
{
	struct pollfd waiting = {.fd = iscsi_get_fd(run->context), .events = (short)iscsi_which_events(run->context)};

	if (poll(&waiting, 1, ANSWER_MILLISECONDS) <= 0) {
		fprintf(stderr, "load: no answer for %d s\n", ANSWER_MILLISECONDS / 1000);
		exit(2);
	}
	if (iscsi_service(run->context, waiting.revents) < 0)
		fail(run, "connection");
}

static int simple_command(struct run *run, unsigned char operation_code, unsigned char byte_4)
{
	unsigned char cdb[6] = {operation_code, 0, 0, 0, byte_4, 0};
	struct scsi_task *task = scsi_create_task(sizeof cdb, cdb, SCSI_XFER_NONE, 0);
	int status;

	task = iscsi_scsi_command_sync(run->context, run->lun, task, NULL);
	if (task == NULL)
		fail(run, "command");
	status = task->status;
	scsi_free_scsi_task(task);
	return status;
}

static void must(struct run *run, unsigned char operation_code, unsigned char byte_4, const char *name)
{
	if (simple_command(run, operation_code, byte_4) != SCSI_STATUS_GOOD)
		fail(run, name);
}

static double transfer(struct run *run)
{
	double start = now();

	while (run->done < run->count) {
		while (run->free_places != NULL && run->sent < run->count && run->errors == 0)
			send_next(run);
		if (run->errors != 0 && run->done == run->sent)
			break;
		serve(run);
	}
	if (run->writes && run->errors == 0)
		must(run, WRITE_FILEMARKS_6, 1, "WRITE FILEMARKS");
	return now() - start;
}

static void log_in(struct run *run, const char *text)
{
	struct iscsi_url *url;

	run->context = iscsi_create_context("iqn.2026-01.org.example:load");
	if (run->context == NULL)
		exit(2);
	url = iscsi_parse_full_url(run->context, text);
	if (url == NULL)
		fail(run, "URL");
	run->lun = url->lun;
	iscsi_set_session_type(run->context, ISCSI_SESSION_NORMAL);
	iscsi_set_targetname(run->context, url->target);
	iscsi_set_noautoreconnect(run->context, 1);
	if (iscsi_connect_sync(run->context, url->portal) != 0 || iscsi_login_sync(run->context) != 0)
		fail(run, "login");
	iscsi_destroy_url(url);
	for (int i = 0; i < UNIT_ATTENTIONS && simple_command(run, 0, 0) != SCSI_STATUS_GOOD; i++)
		;
	must(run, REWIND, 0, "REWIND");
}

static void make_places(struct run *run, struct place *places, unsigned long depth)
{
	for (unsigned long i = 0; i < depth; i++) {
		void *block = NULL;

		if (posix_memalign(&block, 4096, run->block_bytes) != 0)
			fail(run, "no memory");
		fill(block, run->block_bytes);
		places[i] = (struct place){.run = run, .vector = {.iov_base = block, .iov_len = run->block_bytes}};
		release(run, &places[i]);
	}
}

int main(int argc, char **argv)
{
	static struct place places[LIMIT_DEPTH];
	struct run run = {.writes = argc == 6 && strcmp(argv[1], "write") == 0};
	unsigned long depth;
	double seconds;

	if (argc != 6 || (!run.writes && strcmp(argv[1], "read") != 0)) {
		fprintf(stderr, "usage: load write|read iscsi://HOST:PORT/TARGET/LUN BLOCK_BYTES BLOCK_COUNT DEPTH\n");
		return 2;
	}
	run.block_bytes = (uint32_t)strtoul(argv[3], NULL, 10);
	run.count = strtoull(argv[4], NULL, 10);
	depth = strtoul(argv[5], NULL, 10);
	if (run.block_bytes <= sizeof(uint64_t) || run.block_bytes > LIMIT_BLOCK_BYTES || depth < 1 || depth > LIMIT_DEPTH) {
		fprintf(stderr, "load: a block has 9 to %d bytes, the depth is 1 to %d\n", LIMIT_BLOCK_BYTES, LIMIT_DEPTH);
		return 2;
	}
	log_in(&run, argv[2]);
	make_places(&run, places, depth);
	seconds = transfer(&run);
	iscsi_logout_sync(run.context);
	printf("{\"commands\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"seconds\": %.6f, \"errors\": %" PRIu64
	       ", \"wrong_blocks\": %" PRIu64 "}\n",
	       run.done, run.done * run.block_bytes, seconds, run.errors, run.wrong_blocks);
	return run.errors != 0 || run.wrong_blocks != 0;
}
