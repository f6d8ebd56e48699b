/*
 * Preloaded into a process, writes down what it asks of the storage of one file, or of all files in one folder, in a log that
 * storage_log.py reads: every file made, written with its data, cut, renamed, deleted, every deallocation, every
 * synchronisation of files and directories, each with when it began and when it was over.
 *
 * TAPEBAY_LOGGED names the file or the folder (it may appear later), TAPEBAY_STORAGE_LOG the log, which lies elsewhere. It
 * stands between the program and the C library, so nothing of the program under test is trusted to tell what it does. What
 * is written through a mapping is not seen; SQLite does that to its -shm file only, which no recovery reads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LIMIT_VECTOR 16

enum operation {
	WRITE_BEGUN, WRITE_DURABLY_BEGUN, DEALLOCATE_BEGUN, SYNCHRONIZE_BEGUN, ENDED,
	CREATE_BEGUN, TRUNCATE_BEGUN, RENAME_BEGUN, UNLINK_BEGUN, SYNCHRONIZE_DIRECTORY_BEGUN
};

struct head {
	uint32_t operation;
	uint32_t number; /* an operation's end has the number of its beginning */
	uint64_t offset;
	uint64_t length; /* of the range; for a name's change, of the data: the new name */
	uint64_t path_length;
};

static _Atomic uint32_t last_number;
static _Atomic int log_descriptor = -1;

static _Noreturn void give_up(void)
{
	static const char why[] = "storage_log: the log cannot be written\n";

	(void)!write(STDERR_FILENO, why, sizeof(why) - 1);
	abort();
}

/* Whether what a path names is logged: the file itself, or one in the folder, or the folder. */
static int is_ours(const char *path)
{
	const char *logged = getenv("TAPEBAY_LOGGED");
	size_t length = logged ? strlen(logged) : 0;

	return length && !strncmp(path, logged, length) && (path[length] == '\0' || path[length] == '/');
}

/* The present name of an open file; it follows renames. Unlinked files have none that counts. */
static int is_logged(int descriptor, char path[PATH_MAX])
{
	char link[64];
	ssize_t length;

	if (!getenv("TAPEBAY_LOGGED"))
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
	length = readlink(link, path, PATH_MAX - 1);
	if (length <= 0)
		return 0;
	path[length] = '\0';
	return is_ours(path) && !(length > 10 && !strcmp(path + length - 10, " (deleted)"));
}

/* The absolute form of a name in a directory. */
static int is_logged_name(int directory, const char *name, char path[PATH_MAX])
{
	char link[64], folder[PATH_MAX];
	ssize_t length;

	if (!getenv("TAPEBAY_LOGGED"))
		return 0;
	if (name[0] == '/')
		return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && is_ours(path);
	snprintf(link, sizeof(link), directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
	length = readlink(link, folder, sizeof(folder) - 1);
	if (length <= 0)
		return 0;
	folder[length] = '\0';
	return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX && is_ours(path);
}

static int open_log(void)
{
	int opened, none = -1;

	if (log_descriptor >= 0)
		return log_descriptor;
	opened = (int)syscall(SYS_openat, AT_FDCWD, getenv("TAPEBAY_STORAGE_LOG"),
			      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
	if (opened < 0)
		give_up();
	if (!atomic_compare_exchange_strong(&log_descriptor, &none, opened))
		close(opened);
	return log_descriptor;
}

/* One writev: entries of different threads do not mix. It goes to the kernel directly, past the functions below. */
static void put(struct head head, const char *path, const struct iovec *data, int count)
{
	struct iovec vector[LIMIT_VECTOR + 2] = {{&head, sizeof(head)}, {(void *)path, head.path_length}};
	size_t length = sizeof(head) + head.path_length;

	if (count > LIMIT_VECTOR)
		give_up();
	for (int i = 0; i < count; i++) {
		vector[i + 2] = data[i];
		length += data[i].iov_len;
	}
	if (syscall(SYS_writev, open_log(), vector, count + 2) != (long)length)
		give_up();
}

static uint32_t begin(enum operation operation, const char *path, uint64_t offset, uint64_t length,
		      const struct iovec *data, int count)
{
	uint32_t number = ++last_number;

	put((struct head){operation, number, offset, length, strlen(path)}, path, data, count);
	return number;
}

/* `result` is what the call returned: an operation that failed has no end, and may have happened or not. */
static void end(uint32_t number, int64_t result)
{
	int saved = errno;

	if (result >= 0)
		put((struct head){ENDED, number, 0, (uint64_t)result, 0}, "", NULL, 0);
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

/* Ends what began with `number`, if anything did; returns `result`. */
static int64_t ended(uint32_t number, int64_t result)
{
	if (number)
		end(number, result);
	return result;
}

static uint32_t begin_write(int descriptor, int durably, const struct iovec *data, int count, off64_t offset)
{
	char path[PATH_MAX];

	if (!is_logged(descriptor, path))
		return 0;
	return begin(durably ? WRITE_DURABLY_BEGUN : WRITE_BEGUN, path, (uint64_t)offset, total(data, count), data, count);
}

ssize_t pwritev64v2(int descriptor, const struct iovec *data, int count, off64_t offset, int flags)
{
	uint32_t number = begin_write(descriptor, flags & (RWF_DSYNC | RWF_SYNC), data, count, offset);

	return ended(number, REAL(pwritev64v2)(descriptor, data, count, offset, flags));
}

ssize_t pwritev64(int descriptor, const struct iovec *data, int count, off64_t offset)
{
	return ended(begin_write(descriptor, 0, data, count, offset), REAL(pwritev64)(descriptor, data, count, offset));
}

ssize_t pwritev(int descriptor, const struct iovec *data, int count, off_t offset)
{
	return pwritev64(descriptor, data, count, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset)
{
	struct iovec vector = {(void *)data, length};

	return ended(begin_write(descriptor, 0, &vector, 1, offset), REAL(pwrite64)(descriptor, data, length, offset));
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset)
{
	return pwrite64(descriptor, data, length, offset);
}

/* Where a write without an offset goes. */
static off64_t position(int descriptor)
{
	return lseek64(descriptor, 0, fcntl(descriptor, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
}

ssize_t writev(int descriptor, const struct iovec *data, int count)
{
	char path[PATH_MAX];
	uint32_t number = 0;

	if (is_logged(descriptor, path))
		number = begin_write(descriptor, 0, data, count, position(descriptor));
	return ended(number, REAL(writev)(descriptor, data, count));
}

ssize_t write(int descriptor, const void *data, size_t length)
{
	struct iovec vector = {(void *)data, length};
	char path[PATH_MAX];
	uint32_t number = 0;

	if (is_logged(descriptor, path))
		number = begin_write(descriptor, 0, &vector, 1, position(descriptor));
	return ended(number, REAL(write)(descriptor, data, length));
}

int ftruncate64(int descriptor, off64_t length)
{
	char path[PATH_MAX];
	uint32_t number = 0;

	if (is_logged(descriptor, path))
		number = begin(TRUNCATE_BEGUN, path, (uint64_t)length, 0, NULL, 0);
	return (int)ended(number, REAL(ftruncate64)(descriptor, length));
}

int ftruncate(int descriptor, off_t length)
{
	return ftruncate64(descriptor, length);
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length)
{
	char path[PATH_MAX];
	uint32_t number = 0;

	if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && is_logged(descriptor, path))
		number = begin(DEALLOCATE_BEGUN, path, (uint64_t)offset, (uint64_t)length, NULL, 0);
	return (int)ended(number, REAL(fallocate64)(descriptor, mode, offset, length));
}

/* ---- synchronisation -------------------------------------------------------------------------------------------- */

/* While the file that TAPEBAY_SYNC_FAILS names is there, the medium takes nothing. */
static int refused(void)
{
	const char *path = getenv("TAPEBAY_SYNC_FAILS");

	return path != NULL && access(path, F_OK) == 0;
}

static int synchronize(int descriptor, int (*real)(int))
{
	char path[PATH_MAX];
	struct stat status;
	uint32_t number = 0;

	if (is_logged(descriptor, path) && !fstat(descriptor, &status))
		number = begin(S_ISDIR(status.st_mode) ? SYNCHRONIZE_DIRECTORY_BEGUN : SYNCHRONIZE_BEGUN, path, 0, 0, NULL, 0);
	if (number && refused()) {
		errno = EIO;
		return -1;
	}
	return (int)ended(number, real(descriptor));
}

int fdatasync(int descriptor)
{
	return synchronize(descriptor, REAL(fdatasync));
}

int fsync(int descriptor)
{
	return synchronize(descriptor, REAL(fsync));
}

/* ---- names -------------------------------------------------------------------------------------------------------- */

static int open_logged(int directory, const char *name, int flags, mode_t mode)
{
	char path[PATH_MAX];
	uint32_t created = 0, cut = 0;
	struct stat status;
	int there, opened;

	if (flags & (O_CREAT | O_TRUNC) && (flags & O_TMPFILE) != O_TMPFILE && is_logged_name(directory, name, path)) {
		there = !lstat(path, &status);
		if (!there && flags & O_CREAT)
			created = begin(CREATE_BEGUN, path, 0, 0, NULL, 0);
		if (there && flags & O_TRUNC && !(flags & O_EXCL))
			cut = begin(TRUNCATE_BEGUN, path, 0, 0, NULL, 0);
	}
	opened = (int)syscall(SYS_openat, directory, name, flags, mode);
	ended(created, opened);
	ended(cut, opened);
	return opened;
}

#define MODE(flags) \
	({ \
		va_list more; \
		mode_t mode_given = 0; \
		va_start(more, flags); \
		if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) \
			mode_given = va_arg(more, mode_t); \
		va_end(more); \
		mode_given; \
	})

int open(const char *name, int flags, ...)
{
	return open_logged(AT_FDCWD, name, flags, MODE(flags));
}

int open64(const char *name, int flags, ...)
{
	return open_logged(AT_FDCWD, name, flags, MODE(flags));
}

int openat(int directory, const char *name, int flags, ...)
{
	return open_logged(directory, name, flags, MODE(flags));
}

int openat64(int directory, const char *name, int flags, ...)
{
	return open_logged(directory, name, flags, MODE(flags));
}

int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags)
{
	char path[PATH_MAX], target[PATH_MAX];
	struct iovec data = {target, 0};
	uint32_t number = 0;

	if (is_logged_name(from_directory, from, path) && is_logged_name(to_directory, to, target)) {
		if (flags & RENAME_EXCHANGE)
			give_up(); /* nothing that is replayed exchanges names */
		data.iov_len = strlen(target);
		number = begin(RENAME_BEGUN, path, 0, data.iov_len, &data, 1);
	}
	return (int)ended(number, syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to)
{
	return renameat2(from_directory, from, to_directory, to, 0);
}

int rename(const char *from, const char *to)
{
	return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int directory, const char *name, int flags)
{
	char path[PATH_MAX];
	uint32_t number = 0;

	if (!(flags & AT_REMOVEDIR) && is_logged_name(directory, name, path))
		number = begin(UNLINK_BEGUN, path, 0, 0, NULL, 0);
	return (int)ended(number, syscall(SYS_unlinkat, directory, name, flags));
}

int unlink(const char *name)
{
	return unlinkat(AT_FDCWD, name, 0);
}
