/* The method of Segment that brings blocks out of a file to the log, without a copy that Python sees.
 *
 * It does what goes smoothly. Whatever does not (a full segment, a full disk, a file that ends or has to be waited for)
 * ends a run with what was done before, and why is told by the calls that do the next block by itself.
 */
#include "segment/log.h"
#include "segment/methods.h"
#include "turns.h"

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CHECKSUM_BYTES ((Py_ssize_t)sizeof(uint32_t))

struct file_run {
	struct segment *segment;
	int descriptor;
	uint64_t offset;       /* in the file, of the first block */
	size_t block_length;
	char *checksums;       /* of the blocks, native 32-bit numbers */
	bool full;
};

/* ---- taking and giving ------------------------------------------------------------------------------------------ */

/* Of a device there would be said where its name is. */
static bool is_memory(int descriptor)
{
	struct stat status;
	struct statfs system;

	return !fstat(descriptor, &status) && S_ISREG(status.st_mode) && !fstatfs(descriptor, &system) &&
	       (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC);
}

/* What is in memory: a storage that lets its readers wait, or hangs, must not keep the tape's other users waiting, too.
 * It begins to read ahead what it does not have. One that cannot tell has nothing at hand. */
static ssize_t read_at_hand(int descriptor, void *into, size_t length, off_t offset)
{
#ifdef RWF_NOWAIT /* an older musl has neither this nor preadv2() */
	struct iovec part = { into, length };
	ssize_t got = preadv2(descriptor, &part, 1, offset, RWF_NOWAIT);

	if (got >= 0 || errno != EOPNOTSUPP)
		return got;
#endif
	return is_memory(descriptor) ? pread(descriptor, into, length, offset) : -1;
}

static uint32_t take_blocks(void *context, uint64_t first, uint32_t count, unsigned char *buffer)
{
	const struct file_run *run = context;
	size_t wanted = count * run->block_length, done = 0;

	while (done < wanted) {
		ssize_t got;

		errno = 0;
		got = read_at_hand(run->descriptor, buffer + done, wanted - done,
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

static uint32_t give_blocks(void *context, uint64_t first, uint32_t count, const unsigned char *buffer)
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

/* ---- what Python calls ------------------------------------------------------------------------------------------- */

struct arguments {
	int descriptor;
	long long offset;
	Py_ssize_t block_length, count;
	Py_buffer checksums, one, other;
};

/* False: an exception is set. */
static bool check_arguments(const struct arguments *arguments)
{
	if (!segment_check_block_length(arguments->block_length))
		return false;
	if (arguments->offset >= 0 && arguments->count >= 0 &&
	    arguments->count <= arguments->checksums.len / CHECKSUM_BYTES &&
	    arguments->block_length <= arguments->one.len && arguments->block_length <= arguments->other.len)
		return true;
	PyErr_SetString(PyExc_ValueError, "the buffers do not hold that many checksums, or a block");
	return false;
}

static uint64_t bring(struct file_run *run, const struct arguments *arguments)
{
	Py_ssize_t room = arguments->one.len < arguments->other.len ? arguments->one.len : arguments->other.len;
	unsigned char *buffers[2] = { arguments->one.buf, arguments->other.buf };
	struct turns turns = {
		.count = (uint64_t)arguments->count,
		.at_once = (uint32_t)(room / arguments->block_length),
		.context = run,
		.take = take_blocks,
		.check = check_blocks,
		.give = give_blocks,
	};

	run->descriptor = arguments->descriptor;
	run->offset = (uint64_t)arguments->offset;
	run->block_length = (size_t)arguments->block_length;
	run->checksums = arguments->checksums.buf;
	return turns_run(&turns, buffers);
}

PyObject *segment_py_append_file(PyObject *self, PyObject *args)
{
	struct file_run run = { .segment = (struct segment *)self };
	struct arguments arguments;
	uint64_t done = 0;

	if (!PyArg_ParseTuple(args, "iLnnw*w*w*:append_file", &arguments.descriptor, &arguments.offset,
			      &arguments.block_length, &arguments.count, &arguments.checksums, &arguments.one,
			      &arguments.other))
		return NULL;
	if (check_arguments(&arguments) && segment_enter_writable(run.segment))
		WITHOUT_GIL(run.segment, done = bring(&run, &arguments));
	PyBuffer_Release(&arguments.checksums);
	PyBuffer_Release(&arguments.one);
	PyBuffer_Release(&arguments.other);
	return PyErr_Occurred() ? NULL : Py_BuildValue("(KO)", (unsigned long long)done, run.full ? Py_True : Py_False);
}
