#include "segment/storage.h"

#include "segment/instruments.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A folder is opened by its own name, and a file in it by its own: neither may be a link, so that nothing outside is
 * reached through a cartridge that somebody made elsewhere. What leads to the folder is the operator's. */
int storage_open_directory(const char *directory)
{
	struct stat status;
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	return errno == ENOTDIR && !lstat(directory, &status) && S_ISLNK(status.st_mode) ? -ELOOP : -errno;
}

int storage_open_parent(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char directory[PATH_MAX];

	*name = slash ? slash + 1 : path;
	if (!slash)
		return storage_open_directory(".");
	if (slash - path >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(directory, path, (size_t)(slash - path));
	directory[slash - path] = '\0';
	return storage_open_directory(slash == path ? "/" : directory);
}

/* -ELOOP: a link. -ENXIO: no regular file; it is not waited for. -EMLINK: it has other names, through which what is
 * written would show elsewhere. */
static int open_own_file(int directory, const char *name, int flags)
{
	int fd = openat(directory, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0640), error = 0;
	struct stat status;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &status) < 0)
		error = errno;
	else if (!S_ISREG(status.st_mode))
		error = ENXIO;
	else if ((flags & O_ACCMODE) != O_RDONLY && status.st_nlink > 1)
		error = EMLINK;
	if (error)
		close(fd);
	return error ? -error : fd;
}

int storage_open_in(struct storage_file *file, int directory, const char *name, int flags)
{
	int fd = open_own_file(directory, name, flags);

	if (fd < 0)
		return fd;
	file->fd = fd;
	if (flags & O_CREAT)
		storage_trace(OP_OPEN, file->path, 0, NULL, 0);
	return 0;
}

int storage_prepare(struct storage_file *file, const char *path)
{
	*file = (struct storage_file){ -1, strdup(path) };
	return file->path ? -storage_fault_due(OP_OPEN, path, NULL) : -ENOMEM;
}

int storage_open(struct storage_file *file, const char *path, int flags)
{
	const char *name;
	int rc = storage_prepare(file, path), directory;

	if (rc)
		return rc;
	directory = storage_open_parent(path, &name);
	if (directory < 0)
		return directory;
	rc = storage_open_in(file, directory, name, flags);
	close(directory);
	return rc;
}

int storage_adopt(struct storage_file *file, int fd)
{
	int rc = storage_prepare(file, "(memory)");

	if (rc)
		return rc;
	file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return file->fd < 0 ? -errno : 0;
}

PyObject *storage_os_error(int rc, const char *path)
{
	const char *reason = rc == -ELOOP  ? "it is a symbolic link, which Tapebay does not follow here; put the file itself there" :
			     rc == -EMLINK ? "it has other names (hard links), and they would change with it; copy it (cp -a, not cp -al)" :
			     rc == -ENXIO  ? "it is no regular file" :
					     NULL;
	PyObject *arguments;

	errno = -rc;
	if (!reason)
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
	arguments = Py_BuildValue("isN", -rc, reason, PyUnicode_DecodeFSDefault(path));
	if (arguments)
		PyErr_SetObject(PyExc_OSError, arguments);
	Py_XDECREF(arguments);
	return NULL;
}

void storage_close(struct storage_file *file)
{
	if (file->fd >= 0) {
		writeback_forget(file);
		close(file->fd); /* after a sync, or of data that nobody promised: there is nothing left to report */
	}
	free(file->path);
	file->fd = -1;
	file->path = NULL;
}

ssize_t storage_readv(const struct storage_file *file, const struct iovec *parts, int count, uint64_t offset)
{
	int error = storage_fault_due(OP_READ, file->path, NULL);
	ssize_t done;

	if (error)
		return -error;
	do
		done = preadv(file->fd, parts, count, (off_t)offset);
	while (done < 0 && errno == EINTR);
	return done < 0 ? -errno : done;
}

/* Reads until `length` or the end of the file. */
ssize_t storage_read(const struct storage_file *file, void *data, size_t length, uint64_t offset)
{
	size_t total = 0;

	while (total < length) {
		struct iovec part = { (char *)data + total, length - total };
		ssize_t done = storage_readv(file, &part, 1, offset + total);

		if (done < 0)
			return done;
		if (!done)
			break;
		total += (size_t)done;
	}
	return (ssize_t)total;
}

static void skip_parts(struct iovec **parts, int *count, size_t done)
{
	while (*count && done >= (*parts)->iov_len) {
		done -= (*parts)->iov_len;
		(*parts)++;
		(*count)--;
	}
	if (*count) {
		(*parts)->iov_base = (char *)(*parts)->iov_base + done;
		(*parts)->iov_len -= done;
	}
}

/* What a fault lets through before it strikes: a torn write. */
static void write_partially(const struct storage_file *file, const struct iovec *parts, int count, uint64_t offset,
			    size_t partial)
{
	for (int i = 0; i < count && partial; i++) {
		struct iovec part = parts[i];

		if (part.iov_len > partial)
			part.iov_len = partial;
		if (pwrite(file->fd, part.iov_base, part.iov_len, (off_t)offset) != (ssize_t)part.iov_len)
			return;
		storage_trace(OP_WRITE, file->path, offset, &part, 1);
		offset += part.iov_len;
		partial -= part.iov_len;
	}
}

/* Writes all of it; `parts` is used up. After an error, any part of the range may have been written. */
int storage_writev(const struct storage_file *file, struct iovec *parts, int count, uint64_t offset)
{
	size_t partial = 0;
	int error = storage_fault_due(OP_WRITE, file->path, &partial);

	if (error) {
		write_partially(file, parts, count, offset, partial);
		return -error;
	}
	storage_trace(OP_WRITE, file->path, offset, parts, count);
	while (count) {
		ssize_t done = pwritev(file->fd, parts, count, (off_t)offset);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		offset += (uint64_t)done;
		skip_parts(&parts, &count, (size_t)done);
	}
	return 0;
}

/* Has the file system promise the space without changing the file's length. */
int storage_allocate(const struct storage_file *file, uint64_t offset, uint64_t length)
{
	int error = storage_fault_due(OP_ALLOCATE, file->path, NULL);

	if (error)
		return -error;
	while (fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int storage_truncate(const struct storage_file *file, uint64_t length)
{
	int error = storage_fault_due(OP_TRUNCATE, file->path, NULL);

	if (error)
		return -error;
	while (ftruncate(file->fd, (off_t)length) < 0)
		if (errno != EINTR)
			return -errno;
	storage_trace(OP_TRUNCATE, file->path, length, NULL, 0);
	return 0;
}

int storage_sync(const struct storage_file *file)
{
	int error = storage_fault_due(OP_SYNC, file->path, NULL);

	if (error)
		return -error;
	if (fdatasync(file->fd) < 0) /* never retried: the kernel may already have dropped the dirty pages */
		return -errno;
	storage_trace(OP_SYNC, file->path, 0, NULL, 0);
	return 0;
}

int storage_size(const struct storage_file *file, uint64_t *length)
{
	struct stat status;

	if (fstat(file->fd, &status) < 0)
		return -errno;
	*length = (uint64_t)status.st_size;
	return 0;
}
