/* The Segment type: one segment file of a cartridge, as Python sees it. Which segment, where to cut and when to sync
 * is Python's business (vlib_images/partition.py); every method that may wait or moves much gives up the GIL.
 */
#include "segment/index.h"
#include "segment/log.h"
#include "segment/methods.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

static PyTypeObject *segment_type;
static PyObject *damaged_error;

/* ---- entering and leaving ------------------------------------------------------------------------------------------ */

/* The caller holds its logical unit's lock; this only turns a mistake into an exception instead of a corrupt log. */
bool segment_enter(struct segment *segment)
{
	if (segment->in_use) {
		PyErr_SetString(PyExc_RuntimeError, "the segment is in use by another thread");
		return false;
	}
	if (segment->file.fd < 0) {
		PyErr_SetString(PyExc_ValueError, "the segment is closed");
		return false;
	}
	segment->in_use = true;
	return true;
}

bool segment_enter_writable(struct segment *segment)
{
	if (!segment_enter(segment))
		return false;
	if (segment->writable)
		return true;
	segment->in_use = false;
	PyErr_SetString(PyExc_ValueError, "the segment is sealed or read-only");
	return false;
}

PyObject *segment_fail(const struct segment *segment, int rc, uint32_t object)
{
	PyObject *number;

	if (rc == -ENOMEM)
		return PyErr_NoMemory();
	if (rc != SEGMENT_DAMAGED)
		return storage_os_error(rc, segment->file.path);
	number = PyLong_FromUnsignedLong(object);
	if (number) {
		PyErr_SetObject(damaged_error, number);
		Py_DECREF(number);
	}
	return NULL;
}

static PyObject *none_or_fail(const struct segment *segment, int rc)
{
	if (rc)
		return segment_fail(segment, rc, 0);
	Py_RETURN_NONE;
}

bool segment_has_object(const struct segment *segment, unsigned long object, bool or_end)
{
	if (object < segment->tables[TABLE_OBJECTS].count || (or_end && object == segment->tables[TABLE_OBJECTS].count))
		return true;
	PyErr_Format(PyExc_IndexError, "the segment has no object %lu", object);
	return false;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

/* Where a segment is: a path, as bytes, or a descriptor that stays its owner's. */
static int convert_place(PyObject *object, void *place)
{
	if (!object || !PyLong_Check(object))
		return PyUnicode_FSConverter(object, place);
	*(PyObject **)place = Py_NewRef(object);
	return Py_CLEANUP_SUPPORTED;
}

/* Takes over the reference to `place`, which convert_place() made. */
static struct segment *new_segment(PyObject *place, int flags)
{
	bool is_path = PyBytes_Check(place);
	const char *path = is_path ? PyBytes_AsString(place) : NULL;
	int fd = is_path ? -1 : PyObject_AsFileDescriptor(place), rc;
	struct segment *segment = is_path || fd >= 0 ? PyObject_New(struct segment, segment_type) : NULL;

	if (!segment) {
		Py_DECREF(place);
		return NULL;
	}
	memset((char *)segment + sizeof(PyObject), 0, sizeof(*segment) - sizeof(PyObject));
	Py_BEGIN_ALLOW_THREADS
	rc = is_path ? storage_open(&segment->file, path, flags) : storage_adopt(&segment->file, fd);
	Py_END_ALLOW_THREADS
	Py_DECREF(place);
	if (rc) {
		segment_fail(segment, rc, 0);
		Py_DECREF(segment);
		return NULL;
	}
	return segment;
}

static void segment_dealloc(PyObject *self)
{
	struct segment *segment = (struct segment *)self;
	PyTypeObject *type = Py_TYPE(self);

	storage_close(&segment->file);
	segment_release_buffer(segment);
	index_forget(segment);
	free(segment->window);
	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *py_create(PyObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "place", "header", "limit_bytes", "limit_objects", NULL };
	PyObject *place;
	Py_buffer header;
	unsigned long long limit_bytes;
	unsigned int limit_objects;
	struct segment *segment;
	struct iovec part;
	int rc;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&y*KI:create", names, convert_place, &place, &header,
					 &limit_bytes, &limit_objects))
		return NULL;
	if (header.len != SEGMENT_HEADER_BYTES) {
		PyErr_Format(PyExc_ValueError, "a segment header has %d bytes", SEGMENT_HEADER_BYTES);
		PyBuffer_Release(&header);
		Py_DECREF(place);
		return NULL;
	}
	segment = new_segment(place, O_RDWR | O_CREAT | O_EXCL);
	if (segment) {
		segment->writable = segment->resident = segment->allocates = true;
		segment->limit_bytes = limit_bytes;
		segment->limit_objects = limit_objects;
		segment->seed = get32((unsigned char *)header.buf + SEGMENT_HEADER_BYTES - 4);
		part = (struct iovec){ header.buf, SEGMENT_HEADER_BYTES };
		rc = storage_writev(&segment->file, &part, 1, 0);
		segment->flushed = SEGMENT_HEADER_BYTES;
		if (rc) {
			segment_fail(segment, rc, 0);
			Py_CLEAR(segment);
		}
	}
	PyBuffer_Release(&header);
	return (PyObject *)segment;
}

static PyObject *py_open_sealed(PyObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "place", "seed", "data_bytes", "objects", "filemarks", "dead", "writable", NULL };
	PyObject *place;
	unsigned int seed, objects, filemarks, dead;
	unsigned long long data_bytes;
	int writable = 0;
	struct segment *segment;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&IKIII|p:open_sealed", names, convert_place, &place, &seed,
					 &data_bytes, &objects, &filemarks, &dead, &writable))
		return NULL;
	segment = new_segment(place, writable ? O_RDWR : O_RDONLY);
	if (!segment)
		return NULL;
	segment->sealed = true;
	segment->seed = seed;
	segment->flushed = segment->marked = data_bytes + RECORD_HEADER_BYTES;
	segment->tables[TABLE_OBJECTS].count = objects;
	segment->tables[TABLE_FILEMARKS].count = filemarks;
	segment->tables[TABLE_DEAD].count = dead;
	return (PyObject *)segment;
}

/* An index that reaches beyond the end of the file: someone has shortened it. */
static uint32_t count_beyond(const struct segment *segment, uint64_t size)
{
	const struct table *objects = &segment->tables[TABLE_OBJECTS];
	uint32_t beyond = 0;

	for (uint32_t i = 0; i < objects->count; i++)
		beyond += ENTRY_OFFSET(objects->entries[i]) >= size;
	return beyond;
}

/* Completes the index from a checkpoint, the log and the promise, in this order of preference. */
static int recover(struct segment *segment, const Py_buffer *index, const struct promise *promise)
{
	struct scan_bounds bounds = { .start = SEGMENT_HEADER_BYTES, .promise = *promise };
	int rc = storage_size(&segment->file, &bounds.limit);

	if (rc)
		return rc;
	rc = index_decode(segment, index->buf, (size_t)index->len);
	if (rc && rc != SEGMENT_DAMAGED)
		return rc;
	segment->resident = true;
	if (!rc)
		bounds.start = segment->flushed;
	segment->damaged = count_beyond(segment, bounds.limit);
	bounds.durable = bounds.start;
	rc = segment_scan(segment, &bounds);
	if (!rc && !segment->complete && bounds.limit > segment->flushed)
		segment->cut_bytes = bounds.limit - segment->flushed;
	return rc;
}

/* Drops a torn tail, and space that was claimed ahead. The cut is made durable before anything is appended: else a
 * second crash could mix new records with old ones behind them. */
static int drop_tail(struct segment *segment)
{
	int rc = storage_truncate(&segment->file, segment->flushed);

	return rc || !segment->cut_bytes ? rc : storage_sync(&segment->file);
}

static PyObject *py_recover(PyObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "place", "seed", "limit_bytes", "limit_objects", "writable", "index", "promised_bytes",
				 "promised_objects", "promised_filemarks", "promised_epoch", NULL };
	PyObject *place;
	unsigned int seed, limit_objects;
	unsigned long long limit_bytes;
	int writable, rc;
	Py_buffer index;
	struct promise promise;
	struct segment *segment;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "O&IKIpy*KIII:recover", names, convert_place, &place, &seed,
					 &limit_bytes, &limit_objects, &writable, &index, &promise.bytes, &promise.objects,
					 &promise.filemarks, &promise.epoch))
		return NULL;
	segment = new_segment(place, writable ? O_RDWR : O_RDONLY);
	if (segment) {
		segment->seed = seed;
		segment->limit_bytes = limit_bytes;
		segment->limit_objects = limit_objects;
		Py_BEGIN_ALLOW_THREADS
		rc = recover(segment, &index, &promise);
		segment->sealed = segment->complete;
		segment->writable = writable && !segment->complete;
		segment->allocates = writable;
		segment->allocated = segment->flushed;
		if (!rc && segment->writable)
			rc = drop_tail(segment);
		Py_END_ALLOW_THREADS
		if (rc) {
			segment_fail(segment, rc, 0);
			Py_CLEAR(segment);
		}
	}
	PyBuffer_Release(&index);
	return (PyObject *)segment;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static PyObject *py_truncate(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	int rc;

	if (!PyArg_ParseTuple(args, "I:truncate", &object) || !segment_has_object(segment, object, true) ||
	    !segment_enter_writable(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_truncate(segment, object));
	return rc && rc != SEGMENT_FULL ? segment_fail(segment, rc, 0) : PyBool_FromLong(!rc);
}

static PyObject *py_shorten(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	int rc;

	if (!PyArg_ParseTuple(args, "I:shorten", &object) || !segment_has_object(segment, object, true) || !segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_shorten(segment, object));
	return none_or_fail(segment, rc);
}

static PyObject *call(PyObject *self, bool writes, int (*function)(struct segment *))
{
	struct segment *segment = (struct segment *)self;
	int rc;

	if (!(writes ? segment_enter_writable(segment) : segment_enter(segment)))
		return NULL;
	WITHOUT_GIL(segment, rc = function(segment));
	return none_or_fail(segment, rc);
}

static PyObject *py_flush(PyObject *self, PyObject *unused)
{
	(void)unused;
	return call(self, true, segment_flush);
}

static PyObject *py_sync(PyObject *self, PyObject *unused)
{
	(void)unused;
	return call(self, false, segment_sync);
}

static PyObject *py_seal(PyObject *self, PyObject *unused)
{
	(void)unused;
	return call(self, true, segment_seal);
}

/* Gives back the file, the space that was claimed ahead, and memory. What was not flushed is lost: the caller syncs. */
static PyObject *py_close(PyObject *self, PyObject *unused)
{
	struct segment *segment = (struct segment *)self;

	(void)unused;
	if (segment->file.fd < 0)
		Py_RETURN_NONE;
	if (!segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		segment_give_back(segment);
		storage_close(&segment->file);
		segment_release_buffer(segment);
		index_forget(segment);
		free(segment->window);
		segment->window = NULL;
	});
	Py_RETURN_NONE;
}

/* ---- attributes -------------------------------------------------------------------------------------------------- */

enum attribute { A_OBJECTS, A_FILEMARKS, A_END, A_USED, A_DEAD, A_DAMAGED, A_CUT, A_MARKED, A_EPOCH };

static PyObject *get_number(PyObject *self, void *which)
{
	const struct segment *segment = (struct segment *)self;

	switch ((enum attribute)(intptr_t)which) {
	case A_OBJECTS:
		return PyLong_FromUnsignedLong(segment->tables[TABLE_OBJECTS].count);
	case A_FILEMARKS:
		return PyLong_FromUnsignedLong(segment->tables[TABLE_FILEMARKS].count);
	case A_END:
		return PyLong_FromUnsignedLongLong(segment_end(segment));
	case A_USED:
		return PyLong_FromUnsignedLongLong(segment_end(segment) - SEGMENT_HEADER_BYTES - index_dead_bytes(segment));
	case A_DEAD:
		return PyLong_FromUnsignedLong(segment->tables[TABLE_DEAD].count);
	case A_DAMAGED:
		return PyLong_FromUnsignedLong(segment->damaged);
	case A_CUT:
		return PyLong_FromUnsignedLongLong(segment->cut_bytes);
	case A_EPOCH:
		return PyLong_FromUnsignedLong(segment->epoch);
	default:
		return PyLong_FromUnsignedLongLong(segment->marked);
	}
}

static PyObject *get_complete(PyObject *self, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((struct segment *)self)->complete);
}

static PyObject *get_sealed(PyObject *self, void *unused)
{
	(void)unused;
	return PyBool_FromLong(((struct segment *)self)->sealed);
}

static PyGetSetDef attributes[] = {
	{ "objects", get_number, NULL, "logical objects", (void *)A_OBJECTS },
	{ "filemarks", get_number, NULL, "filemarks among the objects", (void *)A_FILEMARKS },
	{ "end", get_number, NULL, "bytes of log", (void *)A_END },
	{ "used_bytes", get_number, NULL, "live bytes of log", (void *)A_USED },
	{ "dead_entries", get_number, NULL, "entries of the table of dead extents", (void *)A_DEAD },
	{ "damaged", get_number, NULL, "objects that the scan found lost", (void *)A_DAMAGED },
	{ "cut_bytes", get_number, NULL, "bytes of torn tail that the scan left out", (void *)A_CUT },
	{ "marked", get_number, NULL, "log bytes known to be durable", (void *)A_MARKED },
	{ "epoch", get_number, NULL, "truncations in the log", (void *)A_EPOCH },
	{ "complete", get_complete, NULL, "the scan found the SEAL record", NULL },
	{ "sealed", get_sealed, NULL, "the segment is immutable", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

#define FUNCTION(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef segment_methods[] = {
	{ "create", FUNCTION(py_create), METH_VARARGS | METH_KEYWORDS | METH_CLASS, "A new, empty segment." },
	{ "open_sealed", FUNCTION(py_open_sealed), METH_VARARGS | METH_KEYWORDS | METH_CLASS, "A sealed segment." },
	{ "recover", FUNCTION(py_recover), METH_VARARGS | METH_KEYWORDS | METH_CLASS,
	  "A segment that was not sealed: its log is scanned." },
	{ "append", segment_py_append, METH_O, "Append a block; False: the segment is full." },
	{ "append_many", segment_py_append_many, METH_VARARGS, "Append equal blocks; returns how many were taken." },
	{ "append_file", segment_py_append_file, METH_VARARGS, "Append equal blocks out of a file." },
	{ "append_encoded", segment_py_append_encoded, METH_VARARGS, "Append a block in another form; False: full." },
	{ "append_protected", segment_py_append_protected, METH_VARARGS,
	  "Append equal blocks with protection information behind each; returns how many were taken." },
	{ "append_filemarks", segment_py_append_filemarks, METH_VARARGS, "Append filemarks; returns how many were taken." },
	{ "truncate", py_truncate, METH_VARARGS, "Drop objects from this one on; False: too often." },
	{ "shorten", py_shorten, METH_VARARGS, "Cut the file at an object and seal it." },
	{ "read", FUNCTION(segment_py_read), METH_FASTCALL, "Read one object." },
	{ "read_many", segment_py_read_many, METH_VARARGS, "Read equal blocks." },
	{ "read_protected", segment_py_read_protected, METH_VARARGS, "Read one object, and protection information." },
	{ "read_many_protected", segment_py_read_many_protected, METH_VARARGS,
	  "Read equal blocks, and protection information behind each." },
	{ "read_stored", segment_py_read_stored, METH_VARARGS, "Read a block's payload as it is stored." },
	{ "verify", segment_py_verify, METH_VARARGS, "Check objects as reading them would." },
	{ "describe", segment_py_describe, METH_VARARGS, "An object's header." },
	{ "filemarks_before", segment_py_filemarks_before, METH_VARARGS, "How many filemarks come before an object." },
	{ "filemark", segment_py_filemark, METH_VARARGS, "The object that is the n-th filemark." },
	{ "filemark_run", segment_py_filemark_run, METH_VARARGS, "Looks for filemarks in a row." },
	{ "cut_point", segment_py_cut_point, METH_VARARGS, "What a cut at an object would leave." },
	{ "checkpoint", segment_py_checkpoint, METH_NOARGS, "The index, encoded." },
	{ "flush", py_flush, METH_NOARGS, "Hand everything to the file system." },
	{ "sync", py_sync, METH_NOARGS, "Make everything durable." },
	{ "seal", py_seal, METH_NOARGS, "End the log; the segment is immutable from now on." },
	{ "close", py_close, METH_NOARGS, "Close the file without flushing." },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot segment_slots[] = {
	{ Py_tp_dealloc, segment_dealloc },
	{ Py_tp_methods, segment_methods },
	{ Py_tp_getset, attributes },
	{ Py_tp_doc, "One segment file of a cartridge." },
	{ 0, NULL },
};

static PyType_Spec segment_spec = {
	.name = "datamover.engine._engine.Segment",
	.basicsize = sizeof(struct segment),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = segment_slots,
};

int register_segment(PyObject *module)
{
	damaged_error = PyErr_NewExceptionWithDoc("datamover.engine._engine.SegmentDamaged",
						  "An object that cannot be read; its number is the argument.", NULL, NULL);
	segment_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &segment_spec, NULL);
	if (!damaged_error || !segment_type)
		return -1;
	if (PyModule_AddObjectRef(module, "SegmentDamaged", damaged_error) < 0)
		return -1;
	if (PyModule_AddIntConstant(module, "READ_FILEMARK", READ_FILEMARK) < 0 ||
	    PyModule_AddIntConstant(module, "READ_ENCODED", READ_ENCODED) < 0 ||
	    PyModule_AddIntConstant(module, "READ_END", READ_END) < 0 ||
	    PyModule_AddIntConstant(module, "READ_DAMAGED", READ_DAMAGED) < 0)
		return -1;
	return PyModule_AddObjectRef(module, "Segment", (PyObject *)segment_type);
}
