/* The thin layer between the cartridge and the file system. Two test-only facilities live here and cost one relaxed
 * load when unused: faults (fail the n-th operation of a kind with an errno, after a partial transfer if wanted) and a
 * trace (every change of storage in order, for a log-and-replay crash test).
 */
#include "segment/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum operation {
	OP_OPEN, OP_READ, OP_WRITE, OP_ALLOCATE, OP_TRUNCATE, OP_SYNC, OP_RENAME, OP_UNLINK, OP_SYNC_DIRECTORY,
	OP_EXCHANGE, OP_SYNC_FILE_SYSTEM, OPERATIONS
};

static const char *const operation_names[OPERATIONS] = {
	"open", "read", "write", "allocate", "truncate", "sync", "rename", "unlink", "sync_directory", "exchange",
	"sync_file_system",
};

#define FAULTS_MAX 8

/* Small files that this thread replaces and directories that it synchronizes wait for storage_sync_file_system(): whoever
 * makes thousands of them, which count for nothing before that, does not wait for the disk each time. */
static _Thread_local bool syncs_put_off;

struct fault {
	enum operation operation;
	int error;
	unsigned after, times; /* let `after` matching operations pass, then fail `times` of them */
	size_t partial;        /* bytes to transfer before failing */
	char path[256];        /* substring of the path; empty matches all */
};

static atomic_bool instrumented;
static pthread_mutex_t instruments = PTHREAD_MUTEX_INITIALIZER;
static struct fault faults[FAULTS_MAX];
static unsigned fault_count;
static int trace_fd = -1;

/* ---- faults and trace ---------------------------------------------------------------------------------------- */

static int fault_due(enum operation operation, const char *path, size_t *partial)
{
	int error = 0;

	if (!atomic_load_explicit(&instrumented, memory_order_relaxed))
		return 0;
	pthread_mutex_lock(&instruments);
	for (unsigned i = 0; i < fault_count && !error; i++) {
		struct fault *fault = &faults[i];

		if (fault->operation != operation || !fault->times || !strstr(path, fault->path))
			continue;
		if (fault->after) {
			fault->after--;
			continue;
		}
		fault->times--;
		error = fault->error;
		if (partial)
			*partial = fault->partial;
	}
	pthread_mutex_unlock(&instruments);
	return error;
}

static void trace_bytes(const void *data, size_t length)
{
	const unsigned char *byte = data;

	while (length) {
		ssize_t done = write(trace_fd, byte, length);

		if (done <= 0) /* a trace with a hole proves nothing: stop the test */
			abort();
		byte += done;
		length -= (size_t)done;
	}
}

/* Entry: u8 operation, u8 0, u16 path bytes, u32 data bytes, u64 offset, path, data. Little endian. */
static void trace(enum operation operation, const char *path, uint64_t offset, const struct iovec *parts, int count)
{
	unsigned char head[16] = { (unsigned char)operation };
	size_t length = 0, path_length = strlen(path);

	if (!atomic_load_explicit(&instrumented, memory_order_relaxed))
		return;
	pthread_mutex_lock(&instruments);
	if (trace_fd >= 0) {
		for (int i = 0; i < count; i++)
			length += parts[i].iov_len;
		head[2] = (unsigned char)path_length;
		head[3] = (unsigned char)(path_length >> 8);
		put32(head + 4, (uint32_t)length);
		put64(head + 8, offset);
		trace_bytes(head, sizeof(head));
		trace_bytes(path, path_length);
		for (int i = 0; i < count; i++)
			trace_bytes(parts[i].iov_base, parts[i].iov_len);
	}
	pthread_mutex_unlock(&instruments);
}

/* ---- files ----------------------------------------------------------------------------------------------------- */

/* A folder is opened by its own name, and a file in it by its own: neither may be a link, so that nothing outside is
 * reached through a cartridge that somebody made elsewhere. What leads to the folder is the operator's. */
static int open_directory(const char *directory)
{
	struct stat status;
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	return errno == ENOTDIR && !lstat(directory, &status) && S_ISLNK(status.st_mode) ? -ELOOP : -errno;
}

/* The folder of `path` as a descriptor, and the name in it. */
static int open_parent(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char directory[PATH_MAX];

	*name = slash ? slash + 1 : path;
	if (!slash)
		return open_directory(".");
	if (slash - path >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(directory, path, (size_t)(slash - path));
	directory[slash - path] = '\0';
	return open_directory(slash == path ? "/" : directory);
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

static int open_in(struct storage_file *file, int directory, const char *name, int flags)
{
	int fd = open_own_file(directory, name, flags);

	if (fd < 0)
		return fd;
	file->fd = fd;
	if (flags & O_CREAT)
		trace(OP_OPEN, file->path, 0, NULL, 0);
	return 0;
}

/* The file is closed as yet; storage_close() it whatever follows. */
static int prepare(struct storage_file *file, const char *path)
{
	*file = (struct storage_file){ -1, strdup(path) };
	return file->path ? -fault_due(OP_OPEN, path, NULL) : -ENOMEM;
}

int storage_open(struct storage_file *file, const char *path, int flags)
{
	const char *name;
	int rc = prepare(file, path), directory;

	if (rc)
		return rc;
	directory = open_parent(path, &name);
	if (directory < 0)
		return directory;
	rc = open_in(file, directory, name, flags);
	close(directory);
	return rc;
}

int storage_adopt(struct storage_file *file, int fd)
{
	int rc = prepare(file, "(memory)");

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
	int error = fault_due(OP_READ, file->path, NULL);
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
		trace(OP_WRITE, file->path, offset, &part, 1);
		offset += part.iov_len;
		partial -= part.iov_len;
	}
}

/* Writes all of it; `parts` is used up. After an error, any part of the range may have been written. */
int storage_writev(const struct storage_file *file, struct iovec *parts, int count, uint64_t offset)
{
	size_t partial = 0;
	int error = fault_due(OP_WRITE, file->path, &partial);

	if (error) {
		write_partially(file, parts, count, offset, partial);
		return -error;
	}
	trace(OP_WRITE, file->path, offset, parts, count);
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
	int error = fault_due(OP_ALLOCATE, file->path, NULL);

	if (error)
		return -error;
	while (fallocate(file->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int storage_truncate(const struct storage_file *file, uint64_t length)
{
	int error = fault_due(OP_TRUNCATE, file->path, NULL);

	if (error)
		return -error;
	while (ftruncate(file->fd, (off_t)length) < 0)
		if (errno != EINTR)
			return -errno;
	trace(OP_TRUNCATE, file->path, length, NULL, 0);
	return 0;
}

int storage_sync(const struct storage_file *file)
{
	int error = fault_due(OP_SYNC, file->path, NULL);

	if (error)
		return -error;
	if (fdatasync(file->fd) < 0) /* never retried: the kernel may already have dropped the dirty pages */
		return -errno;
	trace(OP_SYNC, file->path, 0, NULL, 0);
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

/* ---- small files, for Python ----------------------------------------------------------------------------------- */

static int sync_through(const char *directory, enum operation operation, int (*synchronize)(int))
{
	int error = fault_due(operation, directory, NULL), fd;

	if (error)
		return -error;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (synchronize(fd) < 0)
		error = errno;
	close(fd);
	if (!error)
		trace(operation, directory, 0, NULL, 0);
	return -error;
}

static int sync_directory(const char *directory)
{
	return syncs_put_off ? 0 : sync_through(directory, OP_SYNC_DIRECTORY, fsync);
}

static int sync_file_system(const char *directory)
{
	return sync_through(directory, OP_SYNC_FILE_SYSTEM, syncfs);
}

static int rename_in(int directory, const char *from, const char *to, const char *path, const char *from_path)
{
	struct iovec target = { (void *)path, strlen(path) };
	int error = fault_due(OP_RENAME, path, NULL);

	if (error)
		return -error;
	if (renameat(directory, from, directory, to) < 0)
		return -errno;
	trace(OP_RENAME, from_path, 0, &target, 1);
	return 0;
}

static int unlink_file(const char *path)
{
	const char *name;
	int error = fault_due(OP_UNLINK, path, NULL), directory;

	if (error)
		return -error;
	directory = open_parent(path, &name);
	if (directory < 0)
		return directory;
	if (unlinkat(directory, name, 0) < 0)
		error = errno;
	close(directory);
	if (!error)
		trace(OP_UNLINK, path, 0, NULL, 0);
	return -error;
}

/* Both names change at once, or neither. -ENOENT: there is no `to` yet. */
static int exchange_in(int directory, const char *from, const char *to, const char *path, const char *from_path)
{
	struct iovec target = { (void *)path, strlen(path) };
	int error = fault_due(OP_EXCHANGE, path, NULL);

	if (error)
		return -error;
	if (renameat2(directory, from, directory, to, RENAME_EXCHANGE) < 0)
		return -errno;
	trace(OP_EXCHANGE, from_path, 0, &target, 1);
	return 0;
}

/* A small file that is to be replaced: its folder, its names, and the temporary one's. */
struct replacement {
	int directory;
	const char *folder, *name, *temporary;
	char path[PATH_MAX], temporary_path[PATH_MAX];
};

/* What lies under the temporary name and is not a file of ours alone (a link, a pipe, another name of some file) is
 * left as it is: only its name goes. */
static int open_temporary(struct storage_file *file, const struct replacement *replacement)
{
	int rc = prepare(file, replacement->temporary_path);

	if (!rc)
		rc = open_in(file, replacement->directory, replacement->temporary, O_WRONLY | O_CREAT);
	if (rc != -ELOOP && rc != -EMLINK && rc != -ENXIO)
		return rc;
	if (unlinkat(replacement->directory, replacement->temporary, 0) < 0 && errno != ENOENT)
		return -errno;
	return open_in(file, replacement->directory, replacement->temporary, O_WRONLY | O_CREAT | O_EXCL);
}

static int write_whole(const struct replacement *replacement, const void *data, size_t length, int mode)
{
	struct iovec part = { (void *)data, length };
	struct storage_file file;
	int rc = open_temporary(&file, replacement);

	if (!rc && mode >= 0 && fchmod(file.fd, (mode_t)mode) < 0)
		rc = -errno;
	if (!rc)
		rc = storage_writev(&file, &part, 1, 0);
	if (!rc)
		rc = storage_truncate(&file, length);
	if (!rc && !syncs_put_off)
		rc = storage_sync(&file);
	storage_close(&file);
	return rc;
}

/* With `spare`, what was replaced stays under the temporary name, and its blocks take the next content: so a full disk
 * does not keep anyone from erasing. Where the file system cannot exchange names, nothing is spared. */
static int put_in_place(const struct replacement *r, bool spare)
{
	int rc = spare ? exchange_in(r->directory, r->temporary, r->name, r->path, r->temporary_path) : -ENOENT;

	if (rc == -ENOENT || rc == -EINVAL || rc == -ENOSYS || rc == -EOPNOTSUPP)
		rc = rename_in(r->directory, r->temporary, r->name, r->path, r->temporary_path);
	return rc;
}

static int replace_in(const struct replacement *r, const void *data, size_t length, bool spare, int mode)
{
	struct stat status;
	int rc = 0;

	/* A process that was killed may have exchanged the names without making that durable: until it is, the spare
	 * is what a power cut would bring back, and must not be written to. */
	if (!fstatat(r->directory, r->temporary, &status, AT_SYMLINK_NOFOLLOW))
		rc = sync_directory(r->folder);
	if (!rc)
		rc = write_whole(r, data, length, mode);
	if (!rc)
		rc = put_in_place(r, spare);
	if (!rc)
		rc = sync_directory(r->folder);
	if (rc)
		unlinkat(r->directory, r->temporary, 0); /* nobody knows which content it has on the medium */
	return rc;
}

static int replace_file(const char *folder, const char *name, const void *data, size_t length, bool spare, int mode)
{
	struct replacement replacement = { .folder = folder, .name = name };
	int rc;

	if (snprintf(replacement.temporary_path, PATH_MAX, "%s/.%s.new", folder, name) >= PATH_MAX ||
	    snprintf(replacement.path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		return -ENAMETOOLONG;
	replacement.temporary = replacement.temporary_path + strlen(folder) + 1;
	replacement.directory = open_directory(folder);
	if (replacement.directory < 0)
		return replacement.directory;
	rc = replace_in(&replacement, data, length, spare, mode);
	close(replacement.directory);
	return rc;
}

/* ---- Python ------------------------------------------------------------------------------------------------------ */

static PyObject *py_replace(PyObject *self, PyObject *args)
{
	PyObject *directory, *name;
	Py_buffer data;
	int spare = 0, mode = -1, rc;

	(void)self;
	if (!PyArg_ParseTuple(args, "O&O&y*|pi:storage_replace", PyUnicode_FSConverter, &directory, PyUnicode_FSConverter,
			      &name, &data, &spare, &mode))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = replace_file(PyBytes_AsString(directory), PyBytes_AsString(name), data.buf, (size_t)data.len, spare, mode);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&data);
	if (rc)
		storage_os_error(rc, PyBytes_AsString(name));
	Py_DECREF(directory);
	Py_DECREF(name);
	return rc ? NULL : Py_NewRef(Py_None);
}

static PyObject *call_with_path(PyObject *args, const char *format, int (*function)(const char *))
{
	PyObject *path;
	int rc;

	if (!PyArg_ParseTuple(args, format, PyUnicode_FSConverter, &path))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	rc = function(PyBytes_AsString(path));
	Py_END_ALLOW_THREADS
	if (rc)
		storage_os_error(rc, PyBytes_AsString(path));
	Py_DECREF(path);
	return rc ? NULL : Py_NewRef(Py_None);
}

static PyObject *py_unlink(PyObject *self, PyObject *args)
{
	(void)self;
	return call_with_path(args, "O&:storage_unlink", unlink_file);
}

static PyObject *py_sync_directory(PyObject *self, PyObject *args)
{
	(void)self;
	return call_with_path(args, "O&:storage_sync_directory", sync_directory);
}

static PyObject *py_sync_file_system(PyObject *self, PyObject *args)
{
	(void)self;
	return call_with_path(args, "O&:storage_sync_file_system", sync_file_system);
}

static PyObject *py_put_off_syncs(PyObject *self, PyObject *args)
{
	int put_off;

	(void)self;
	if (!PyArg_ParseTuple(args, "p:storage_put_off_syncs", &put_off))
		return NULL;
	syncs_put_off = put_off;
	Py_RETURN_NONE;
}

static int operation_by_name(const char *name)
{
	for (int i = 0; i < OPERATIONS; i++)
		if (!strcmp(name, operation_names[i]))
			return i;
	PyErr_Format(PyExc_ValueError, "no storage operation is called %s", name);
	return -1;
}

static PyObject *py_fault(PyObject *self, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "operation", "error", "after", "times", "partial", "path", NULL };
	const char *operation, *path = "";
	struct fault fault = { .times = 1 };
	Py_ssize_t partial = 0;
	int kind, full;

	(void)self;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "si|IIns:storage_fault", names, &operation, &fault.error,
					 &fault.after, &fault.times, &partial, &path))
		return NULL;
	kind = operation_by_name(operation);
	if (kind < 0)
		return NULL;
	fault.operation = (enum operation)kind;
	fault.partial = (size_t)partial;
	snprintf(fault.path, sizeof(fault.path), "%s", path);
	pthread_mutex_lock(&instruments);
	full = fault_count == FAULTS_MAX;
	if (!full)
		faults[fault_count++] = fault;
	atomic_store(&instrumented, true);
	pthread_mutex_unlock(&instruments);
	if (full)
		return PyErr_Format(PyExc_ValueError, "at most %d faults at a time", FAULTS_MAX);
	Py_RETURN_NONE;
}

static PyObject *py_faults_clear(PyObject *self, PyObject *args)
{
	(void)self;
	(void)args;
	pthread_mutex_lock(&instruments);
	fault_count = 0;
	atomic_store(&instrumented, trace_fd >= 0);
	pthread_mutex_unlock(&instruments);
	Py_RETURN_NONE;
}

static PyObject *py_trace(PyObject *self, PyObject *args)
{
	const char *path;
	int fd = -1, old;

	(void)self;
	if (!PyArg_ParseTuple(args, "z:storage_trace", &path))
		return NULL;
	if (path && (fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640)) < 0)
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
	pthread_mutex_lock(&instruments);
	old = trace_fd;
	trace_fd = fd;
	atomic_store(&instrumented, fd >= 0 || fault_count);
	pthread_mutex_unlock(&instruments);
	if (old >= 0)
		close(old);
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{ "storage_replace", py_replace, METH_VARARGS,
	  "storage_replace(directory, name, data, spare=False, mode=-1): replace a small file; a crash leaves the old or the new." },
	{ "storage_unlink", py_unlink, METH_VARARGS, "storage_unlink(path): delete a file." },
	{ "storage_sync_directory", py_sync_directory, METH_VARARGS,
	  "storage_sync_directory(path): make the names in a directory durable." },
	{ "storage_sync_file_system", py_sync_file_system, METH_VARARGS,
	  "storage_sync_file_system(path): make everything on the file system of a directory durable." },
	{ "storage_put_off_syncs", py_put_off_syncs, METH_VARARGS,
	  "storage_put_off_syncs(put_off): whether this thread's small files wait for storage_sync_file_system()." },
	{ "storage_fault", (PyCFunction)(void (*)(void))py_fault, METH_VARARGS | METH_KEYWORDS,
	  "storage_fault(operation, error, after=0, times=1, partial=0, path=''): for tests: operations of this kind, on "
	  "paths that contain `path`, fail with errno `error`." },
	{ "storage_faults_clear", py_faults_clear, METH_NOARGS, "storage_faults_clear(): for tests: no more faults." },
	{ "storage_trace", py_trace, METH_VARARGS,
	  "storage_trace(path or None): for tests: record every change of storage in a file." },
	{ NULL, NULL, 0, NULL },
};

int register_storage(PyObject *module)
{
	return PyModule_AddFunctions(module, methods);
}
