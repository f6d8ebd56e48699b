/*
 * Preloaded into a process, writes down what it asks of one file's storage, in a log that storage_log.py reads: every
 * write with its data, every deallocation, every synchronisation, each with when it began and when it was over.
 *
 * TAPEBAY_LOGGED_FILE names the file (it may appear later), TAPEBAY_STORAGE_LOG the log. It stands between the program and
 * the C library, so nothing of the program under test is trusted to tell what it does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define LIMIT_VECTOR 16

enum operation { WRITE_BEGUN, WRITE_DURABLY_BEGUN, DEALLOCATE_BEGUN, SYNCHRONIZE_BEGUN, ENDED };

struct head {
	uint32_t operation;
	uint32_t number; /* an operation's end has the number of its beginning */
	uint64_t offset;
	uint64_t length;
};

static _Atomic uint32_t last_number;
static _Atomic int log_descriptor = -1;

static _Noreturn void give_up(void)
{
	static const char why[] = "storage_log: the log cannot be written\n";

	(void)!write(STDERR_FILENO, why, sizeof(why) - 1);
	abort();
}

static int is_logged(int descriptor)
{
	const char *path = getenv("TAPEBAY_LOGGED_FILE");
	struct stat wanted, found;

	return path != NULL && stat(path, &wanted) == 0 && fstat(descriptor, &found) == 0 &&
	       wanted.st_ino == found.st_ino && wanted.st_dev == found.st_dev;
}

static int open_log(void)
{
	int opened, none = -1;

	if (log_descriptor >= 0)
		return log_descriptor;
	opened = open(getenv("TAPEBAY_STORAGE_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	if (opened < 0)
		give_up();
	if (!atomic_compare_exchange_strong(&log_descriptor, &none, opened))
		close(opened);
	return log_descriptor;
}

/* One writev: entries of different threads do not mix. */
static void put(struct head head, const struct iovec *data, int count)
{
	struct iovec vector[LIMIT_VECTOR + 1] = {{&head, sizeof(head)}};
	size_t length = sizeof(head);

	if (count > LIMIT_VECTOR)
		give_up();
	for (int i = 0; i < count; i++) {
		vector[i + 1] = data[i];
		length += data[i].iov_len;
	}
	if (writev(open_log(), vector, count + 1) != (ssize_t)length)
		give_up();
}

static uint32_t begin(enum operation operation, uint64_t offset, uint64_t length, const struct iovec *data, int count)
{
	uint32_t number = ++last_number;

	put((struct head){operation, number, offset, length}, data, count);
	return number;
}

/* `result` is what the call returned: an operation that failed has no end, and may have happened or not. */
static void end(uint32_t number, int64_t result)
{
	int saved = errno;

	if (result >= 0)
		put((struct head){ENDED, number, 0, (uint64_t)result}, NULL, 0);
	errno = saved;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static size_t total(const struct iovec *data, int count)
{
	size_t length = 0;

	for (int i = 0; i < count; i++)
		length += data[i].iov_len;
	return length;
}

ssize_t pwritev64v2(int descriptor, const struct iovec *data, int count, off64_t offset, int flags)
{
	__typeof__(&pwritev64v2) real = REAL(pwritev64v2);
	uint32_t number;
	ssize_t result;

	if (!is_logged(descriptor))
		return real(descriptor, data, count, offset, flags);
	number = begin(flags & (RWF_DSYNC | RWF_SYNC) ? WRITE_DURABLY_BEGUN : WRITE_BEGUN, (uint64_t)offset,
		       total(data, count), data, count);
	result = real(descriptor, data, count, offset, flags);
	end(number, result);
	return result;
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset)
{
	__typeof__(&pwrite64) real = REAL(pwrite64);
	struct iovec vector = {(void *)data, length};
	uint32_t number;
	ssize_t result;

	if (!is_logged(descriptor))
		return real(descriptor, data, length, offset);
	number = begin(WRITE_BEGUN, (uint64_t)offset, length, &vector, 1);
	result = real(descriptor, data, length, offset);
	end(number, result);
	return result;
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length)
{
	__typeof__(&fallocate64) real = REAL(fallocate64);
	uint32_t number;
	int result;

	if (!(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) || !is_logged(descriptor))
		return real(descriptor, mode, offset, length);
	number = begin(DEALLOCATE_BEGUN, (uint64_t)offset, (uint64_t)length, NULL, 0);
	result = real(descriptor, mode, offset, length);
	end(number, result);
	return result;
}

static int synchronize(int descriptor, int (*real)(int))
{
	uint32_t number;
	int result;

	if (!is_logged(descriptor))
		return real(descriptor);
	number = begin(SYNCHRONIZE_BEGUN, 0, 0, NULL, 0);
	result = real(descriptor);
	end(number, result);
	return result;
}

int fdatasync(int descriptor)
{
	return synchronize(descriptor, REAL(fdatasync));
}

int fsync(int descriptor)
{
	return synchronize(descriptor, REAL(fsync));
}
