/* The methods of Segment that bring blocks from a file to the log, and back, without a copy that Python sees.
 *
 * They do what goes smoothly. Whatever does not (a full segment, a full disk, a file that ends, damage) ends a run with
 * what was done before, and why is told by the call that does the next block by itself.
 */
#include "segment/log.h"
#include "segment/methods.h"
#include "turns.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHECKSUM_BYTES ((Py_ssize_t)sizeof(uint32_t))

struct file_run {
	struct segment *segment;
	uint32_t object;       /* the first to be read */
	int descriptor;
	uint64_t offset;       /* in the file, of the first block */
	size_t block_length;
	char *checksums;       /* of the blocks, native 32-bit numbers */
	int64_t result;        /* as that of read_many() */
	bool full;
};

/* ---- from a file to the log ------------------------------------------------------------------------------------- */

/* What is in memory: a storage that lets its readers wait, or hangs, must not keep the tape's other users waiting, too.
 * It begins to read ahead what it does not have. A file system that cannot tell is read as it is. */
static ssize_t read_at_hand(int descriptor, void *into, size_t length, off_t offset)
{
#ifdef RWF_NOWAIT /* an older musl has neither this nor preadv2() */
	struct iovec part = { into, length };
	ssize_t got = preadv2(descriptor, &part, 1, offset, RWF_NOWAIT);

	if (got >= 0 || errno != EOPNOTSUPP)
		return got;
#endif
	return pread(descriptor, into, length, offset);
}

static uint32_t take_from_file(void *context, uint64_t first, uint32_t count, unsigned char *buffer)
{
	const struct file_run *run = context;
	size_t wanted = count * run->block_length, done = 0;

	while (done < wanted) {
		ssize_t got = read_at_hand(run->descriptor, buffer + done, wanted - done,
					   (off_t)(run->offset + first * run->block_length + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return (uint32_t)(done / run->block_length);
}

static void check_blocks(void *context, uint64_t first, uint32_t count, const unsigned char *buffer)
{
	const struct file_run *run = context;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t crc = engine_crc32c(0, buffer + i * run->block_length, run->block_length);

		memcpy(run->checksums + (first + i) * CHECKSUM_BYTES, &crc, sizeof(crc));
	}
}

static uint32_t give_to_log(void *context, uint64_t first, uint32_t count, const unsigned char *buffer)
{
	struct file_run *run = context;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t crc;
		int rc;

		memcpy(&crc, run->checksums + (first + i) * CHECKSUM_BYTES, sizeof(crc));
		rc = segment_append_plain(run->segment, buffer + i * run->block_length, run->block_length, crc);
		if (rc) {
			run->full = rc == SEGMENT_FULL;
			return i;
		}
	}
	return count;
}

/* ---- from the log to a file ------------------------------------------------------------------------------------- */

static uint32_t take_from_log(void *context, uint64_t first, uint32_t count, unsigned char *buffer)
{
	struct file_run *run = context;
	uint32_t done = 0;
	int rc = segment_read_many(run->segment, run->object + (uint32_t)first, (char *)buffer, run->block_length, count, 0,
				   run->checksums + first * CHECKSUM_BYTES, &done, &run->result);

	if (rc)
		run->result = READ_DAMAGED;
	return done;
}

static uint32_t give_to_file(void *context, uint64_t first, uint32_t count, const unsigned char *buffer)
{
	const struct file_run *run = context;

	return engine_write_in_pieces(run->descriptor, buffer, count * run->block_length,
				      run->offset + first * run->block_length) ? 0 : count;
}

/* ---- what Python calls ------------------------------------------------------------------------------------------- */

struct arguments {
	struct file_run run;
	long long offset;
	Py_ssize_t block_length;
	Py_ssize_t count;
	Py_buffer checksums, buffers[2];
};

static void release(struct arguments *arguments)
{
	PyBuffer_Release(&arguments->checksums);
	PyBuffer_Release(&arguments->buffers[0]);
	PyBuffer_Release(&arguments->buffers[1]);
}

/* False: an exception is set. */
static bool check_arguments(const struct arguments *arguments)
{
	if (!segment_check_block_length(arguments->block_length))
		return false;
	if (arguments->offset >= 0 && arguments->count >= 0 &&
	    arguments->count <= arguments->checksums.len / CHECKSUM_BYTES &&
	    arguments->block_length <= arguments->buffers[0].len && arguments->block_length <= arguments->buffers[1].len)
		return true;
	PyErr_SetString(PyExc_ValueError, "the buffers do not hold that many checksums, or a block");
	return false;
}

static uint64_t bring(struct arguments *arguments, const struct turns *way)
{
	struct turns turns = *way;
	unsigned char *buffers[2] = { arguments->buffers[0].buf, arguments->buffers[1].buf };
	Py_ssize_t room = arguments->buffers[0].len < arguments->buffers[1].len ? arguments->buffers[0].len :
										  arguments->buffers[1].len;

	arguments->run.offset = (uint64_t)arguments->offset;
	arguments->run.block_length = (size_t)arguments->block_length;
	arguments->run.checksums = arguments->checksums.buf;
	turns.count = (uint64_t)arguments->count;
	turns.at_once = (uint32_t)(room / arguments->block_length);
	turns.context = &arguments->run;
	return turns_run(&turns, buffers);
}

PyObject *segment_py_append_file(PyObject *self, PyObject *args)
{
	static const struct turns way = { .take = take_from_file, .check = check_blocks, .give = give_to_log };
	struct arguments arguments = { .run = { .segment = (struct segment *)self } };
	uint64_t done = 0;

	if (!PyArg_ParseTuple(args, "iLnnw*w*w*:append_file", &arguments.run.descriptor, &arguments.offset,
			      &arguments.block_length, &arguments.count, &arguments.checksums, &arguments.buffers[0],
			      &arguments.buffers[1]))
		return NULL;
	if (check_arguments(&arguments) && segment_enter_writable(arguments.run.segment))
		WITHOUT_GIL(arguments.run.segment, done = bring(&arguments, &way));
	release(&arguments);
	return PyErr_Occurred() ? NULL : Py_BuildValue("(KO)", (unsigned long long)done, arguments.run.full ? Py_True : Py_False);
}

PyObject *segment_py_read_to_file(PyObject *self, PyObject *args)
{
	static const struct turns way = { .take = take_from_log, .give = give_to_file };
	struct arguments arguments = { .run = { .segment = (struct segment *)self } };
	unsigned int object;
	uint64_t done = 0;

	if (!PyArg_ParseTuple(args, "IiLnnw*w*w*:read_to_file", &object, &arguments.run.descriptor, &arguments.offset,
			      &arguments.block_length, &arguments.count, &arguments.checksums, &arguments.buffers[0],
			      &arguments.buffers[1]))
		return NULL;
	arguments.run.object = object;
	if (check_arguments(&arguments) && segment_enter(arguments.run.segment))
		WITHOUT_GIL(arguments.run.segment, done = bring(&arguments, &way));
	release(&arguments);
	if (PyErr_Occurred())
		return NULL;
	return Py_BuildValue("(KL)", (unsigned long long)done, (long long)arguments.run.result);
}
