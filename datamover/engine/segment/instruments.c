#include "segment/instruments.h"

#include "engine.h"
#include "segment/record.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const operation_names[OPERATIONS] = {
	"open", "read", "write", "allocate", "truncate", "sync", "rename", "unlink", "sync_directory", "exchange",
	"sync_file_system",
};

#define FAULTS_MAX 8

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

int storage_fault_due(enum operation operation, const char *path, size_t *partial)
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
void storage_trace(enum operation operation, const char *path, uint64_t offset, const struct iovec *parts, int count)
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

/* ---- Python ------------------------------------------------------------------------------------------------------ */

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
	{ "storage_fault", (PyCFunction)(void (*)(void))py_fault, METH_VARARGS | METH_KEYWORDS,
	  "storage_fault(operation, error, after=0, times=1, partial=0, path=''): for tests: operations of this kind, on "
	  "paths that contain `path`, fail with errno `error`." },
	{ "storage_faults_clear", py_faults_clear, METH_NOARGS, "storage_faults_clear(): for tests: no more faults." },
	{ "storage_trace", py_trace, METH_VARARGS,
	  "storage_trace(path or None): for tests: record every change of storage in a file." },
	{ NULL, NULL, 0, NULL },
};

int register_instruments(PyObject *module)
{
	return PyModule_AddFunctions(module, methods);
}
