/* Small files of a folder that are replaced as a whole, and making names durable: what Python does with storage itself. */
#include "segment/instruments.h"
#include "segment/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Small files that this thread replaces and directories that it synchronizes wait for storage_sync_file_system(): whoever
 * makes thousands of them, which count for nothing before that, does not wait for the disk each time. */
static _Thread_local bool syncs_put_off;

static int sync_through(const char *directory, enum operation operation, int (*synchronize)(int))
{
	int error = storage_fault_due(operation, directory, NULL), fd;

	if (error)
		return -error;
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (synchronize(fd) < 0)
		error = errno;
	close(fd);
	if (!error)
		storage_trace(operation, directory, 0, NULL, 0);
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
	int error = storage_fault_due(OP_RENAME, path, NULL);

	if (error)
		return -error;
	if (renameat(directory, from, directory, to) < 0)
		return -errno;
	storage_trace(OP_RENAME, from_path, 0, &target, 1);
	return 0;
}

static int unlink_file(const char *path)
{
	const char *name;
	int error = storage_fault_due(OP_UNLINK, path, NULL), directory;

	if (error)
		return -error;
	directory = storage_open_parent(path, &name);
	if (directory < 0)
		return directory;
	if (unlinkat(directory, name, 0) < 0)
		error = errno;
	close(directory);
	if (!error)
		storage_trace(OP_UNLINK, path, 0, NULL, 0);
	return -error;
}

/* Both names change at once, or neither. -ENOENT: there is no `to` yet. */
static int exchange_in(int directory, const char *from, const char *to, const char *path, const char *from_path)
{
	struct iovec target = { (void *)path, strlen(path) };
	int error = storage_fault_due(OP_EXCHANGE, path, NULL);

	if (error)
		return -error;
	if (renameat2(directory, from, directory, to, RENAME_EXCHANGE) < 0)
		return -errno;
	storage_trace(OP_EXCHANGE, from_path, 0, &target, 1);
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
	int rc = storage_prepare(file, replacement->temporary_path);

	if (!rc)
		rc = storage_open_in(file, replacement->directory, replacement->temporary, O_WRONLY | O_CREAT);
	if (rc != -ELOOP && rc != -EMLINK && rc != -ENXIO)
		return rc;
	if (unlinkat(replacement->directory, replacement->temporary, 0) < 0 && errno != ENOENT)
		return -errno;
	return storage_open_in(file, replacement->directory, replacement->temporary, O_WRONLY | O_CREAT | O_EXCL);
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
	replacement.directory = storage_open_directory(folder);
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
	{ NULL, NULL, 0, NULL },
};

int register_small_files(PyObject *module)
{
	return PyModule_AddFunctions(module, methods);
}
