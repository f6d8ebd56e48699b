/* The Segment type: one segment file of a cartridge, as Python sees it. Which segment, where to cut and when to sync
 * is Python's business (vlib_images/partition.py); every method that may wait or moves much gives up the GIL.
 */
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

static PyTypeObject *segment_type;
static PyObject *damaged_error;

/* ---- entering and leaving ------------------------------------------------------------------------------------------ */

/* The caller holds its logical unit's lock; this only turns a mistake into an exception instead of a corrupt log. */
static bool enter(struct segment *segment)
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

static bool enter_writable(struct segment *segment)
{
	if (!enter(segment))
		return false;
	if (segment->writable)
		return true;
	segment->in_use = false;
	PyErr_SetString(PyExc_ValueError, "the segment is sealed or read-only");
	return false;
}

#define WITHOUT_GIL(segment, statement)                                                                                \
	do {                                                                                                           \
		Py_BEGIN_ALLOW_THREADS                                                                                 \
		statement;                                                                                             \
		Py_END_ALLOW_THREADS                                                                                   \
		(segment)->in_use = false;                                                                             \
	} while (0)

static PyObject *fail(const struct segment *segment, int rc, uint32_t object)
{
	PyObject *number;

	if (rc == -ENOMEM)
		return PyErr_NoMemory();
	if (rc != SEGMENT_DAMAGED) {
		errno = -rc;
		return PyErr_SetFromErrnoWithFilename(PyExc_OSError, segment->file.path);
	}
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
		return fail(segment, rc, 0);
	Py_RETURN_NONE;
}

static bool check_object(const struct segment *segment, unsigned long object, bool or_end)
{
	if (object < segment->tables[TABLE_OBJECTS].count || (or_end && object == segment->tables[TABLE_OBJECTS].count))
		return true;
	PyErr_Format(PyExc_IndexError, "the segment has no object %lu", object);
	return false;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

static struct segment *new_segment(const char *path, int flags)
{
	struct segment *segment = PyObject_New(struct segment, segment_type);
	int rc;

	if (!segment)
		return NULL;
	memset((char *)segment + sizeof(PyObject), 0, sizeof(*segment) - sizeof(PyObject));
	Py_BEGIN_ALLOW_THREADS
	rc = storage_open(&segment->file, path, flags);
	Py_END_ALLOW_THREADS
	if (rc) {
		fail(segment, rc, 0);
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
	static char *names[] = { "path", "header", "limit_bytes", "limit_objects", NULL };
	const char *path;
	Py_buffer header;
	unsigned long long limit_bytes;
	unsigned int limit_objects;
	struct segment *segment;
	struct iovec part;
	int rc;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "sy*KI:create", names, &path, &header, &limit_bytes,
					 &limit_objects))
		return NULL;
	segment = header.len == SEGMENT_HEADER_BYTES ? new_segment(path, O_RDWR | O_CREAT | O_EXCL) : NULL;
	if (segment) {
		segment->writable = segment->resident = segment->allocates = true;
		segment->limit_bytes = limit_bytes;
		segment->limit_objects = limit_objects;
		segment->seed = get32((unsigned char *)header.buf + SEGMENT_HEADER_BYTES - 4);
		part = (struct iovec){ header.buf, SEGMENT_HEADER_BYTES };
		rc = storage_writev(&segment->file, &part, 1, 0);
		segment->flushed = SEGMENT_HEADER_BYTES;
		if (rc) {
			fail(segment, rc, 0);
			Py_CLEAR(segment);
		}
	} else if (!PyErr_Occurred()) {
		PyErr_Format(PyExc_ValueError, "a segment header has %d bytes", SEGMENT_HEADER_BYTES);
	}
	PyBuffer_Release(&header);
	return (PyObject *)segment;
}

static PyObject *py_open_sealed(PyObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "path", "seed", "data_bytes", "objects", "filemarks", "dead", "writable", NULL };
	const char *path;
	unsigned int seed, objects, filemarks, dead;
	unsigned long long data_bytes;
	int writable = 0;
	struct segment *segment;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "sIKIII|p:open_sealed", names, &path, &seed, &data_bytes, &objects,
					 &filemarks, &dead, &writable))
		return NULL;
	segment = new_segment(path, writable ? O_RDWR : O_RDONLY);
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
	static char *names[] = { "path", "seed", "limit_bytes", "limit_objects", "writable", "index", "promised_bytes",
				 "promised_objects", "promised_filemarks", "promised_epoch", NULL };
	const char *path;
	unsigned int seed, limit_objects;
	unsigned long long limit_bytes;
	int writable, rc;
	Py_buffer index;
	struct promise promise;
	struct segment *segment;

	(void)type;
	if (!PyArg_ParseTupleAndKeywords(args, keywords, "sIKIpy*KIII:recover", names, &path, &seed, &limit_bytes,
					 &limit_objects, &writable, &index, &promise.bytes, &promise.objects,
					 &promise.filemarks, &promise.epoch))
		return NULL;
	segment = new_segment(path, writable ? O_RDWR : O_RDONLY);
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
			fail(segment, rc, 0);
			Py_CLEAR(segment);
		}
	}
	PyBuffer_Release(&index);
	return (PyObject *)segment;
}

/* ---- appending ------------------------------------------------------------------------------------------------ */

static int append_plain(struct segment *segment, const void *data, size_t length)
{
	uint32_t crc = engine_crc32c(0, data, length);
	struct record record = {
		.kind = RECORD_BLOCK,
		.logical_length = (uint32_t)length,
		.stored_length = (uint32_t)length,
		.stored_crc = crc,
		.logical_crc = crc,
	};

	return segment_append(segment, &record, NULL, data);
}

static bool check_block_length(Py_ssize_t length)
{
	if (length >= 1 && length < (Py_ssize_t)LIMIT_TRANSFER_BYTES)
		return true;
	PyErr_Format(PyExc_ValueError, "a block has 1 to %d bytes, not %zd", LIMIT_TRANSFER_BYTES - 1, length);
	return false;
}

static PyObject *py_append(PyObject *self, PyObject *data)
{
	struct segment *segment = (struct segment *)self;
	Py_buffer view;
	int rc;

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	if (!check_block_length(view.len) || !enter_writable(segment)) {
		PyBuffer_Release(&view);
		return NULL;
	}
	if (segment_append_blocks(segment, (size_t)view.len))
		WITHOUT_GIL(segment, rc = append_plain(segment, view.buf, (size_t)view.len));
	else
		rc = append_plain(segment, view.buf, (size_t)view.len);
	segment->in_use = false;
	PyBuffer_Release(&view);
	return rc && rc != SEGMENT_FULL ? fail(segment, rc, 0) : PyBool_FromLong(!rc);
}

static PyObject *py_append_many(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	Py_ssize_t offset, block_length, count, done = 0;
	Py_buffer view;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "y*nnn:append_many", &view, &offset, &block_length, &count))
		return NULL;
	if (!check_block_length(block_length) || offset < 0 || count < 0 || offset > view.len ||
	    count > (view.len - offset) / block_length) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (enter_writable(segment)) {
		WITHOUT_GIL(segment, {
			const char *from = (const char *)view.buf + offset;

			while (done < count && !(rc = append_plain(segment, from + done * block_length, (size_t)block_length)))
				done++;
		});
	}
	PyBuffer_Release(&view);
	if (PyErr_Occurred())
		return NULL;
	/* An error behind the first block comes again with the next call, when the caller has counted what was taken. */
	return rc && rc != SEGMENT_FULL && !done ? fail(segment, rc, 0) : PyLong_FromSsize_t(done);
}

static PyObject *py_append_encoded(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	struct record record = { .kind = RECORD_BLOCK };
	Py_buffer stored, extension;
	PyObject *result = NULL;
	int rc;

	if (!PyArg_ParseTuple(args, "y*IIby*:append_encoded", &stored, &record.logical_length, &record.logical_crc,
			      &record.form, &extension))
		return NULL;
	if (extension.len % RECORD_ALIGNMENT || extension.len > (Py_ssize_t)(255 * RECORD_ALIGNMENT)) {
		PyErr_SetString(PyExc_ValueError, "an extension has a multiple of 8 bytes, at most 2040");
	} else if (check_block_length(record.logical_length) && stored.len < (Py_ssize_t)(2 * LIMIT_TRANSFER_BYTES) &&
		   enter_writable(segment)) {
		record.stored_length = (uint32_t)stored.len;
		record.extension_units = (uint8_t)(extension.len / (Py_ssize_t)RECORD_ALIGNMENT);
		WITHOUT_GIL(segment, {
			record.stored_crc = engine_crc32c(0, stored.buf, (size_t)stored.len);
			rc = segment_append(segment, &record, extension.buf, stored.buf);
		});
		result = rc && rc != SEGMENT_FULL ? fail(segment, rc, 0) : PyBool_FromLong(!rc);
	}
	PyBuffer_Release(&stored);
	PyBuffer_Release(&extension);
	return result;
}

static PyObject *py_append_filemarks(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int count, done = 0;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "I:append_filemarks", &count) || !enter_writable(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		for (; done < count; done++) {
			struct record record = { .kind = RECORD_FILEMARK };

			rc = segment_append(segment, &record, NULL, NULL);
			if (rc)
				break;
		}
	});
	return rc && rc != SEGMENT_FULL && !done ? fail(segment, rc, 0) : PyLong_FromUnsignedLong(done);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static PyObject *py_read(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
	struct segment *segment = (struct segment *)self;
	unsigned long object;
	Py_buffer into;
	int64_t result;
	int rc;

	if (count != 2)
		return PyErr_Format(PyExc_TypeError, "read() takes 2 arguments, not %zd", count);
	object = PyLong_AsUnsignedLong(args[0]);
	if (PyErr_Occurred() || !check_object(segment, object, false) ||
	    PyObject_GetBuffer(args[1], &into, PyBUF_WRITABLE) < 0)
		return NULL;
	if (!enter(segment)) {
		PyBuffer_Release(&into);
		return NULL;
	}
	if (segment_at_hand(segment, (uint32_t)object))
		rc = segment_read(segment, (uint32_t)object, into.buf, (size_t)into.len, &result);
	else
		WITHOUT_GIL(segment, rc = segment_read(segment, (uint32_t)object, into.buf, (size_t)into.len, &result));
	segment->in_use = false;
	PyBuffer_Release(&into);
	return rc ? fail(segment, rc, (uint32_t)object) : PyLong_FromLongLong(result);
}

/* Reads blocks of exactly block_length; *result says what the first object that was none is. */
static int read_many(struct segment *segment, uint32_t object, char *into, size_t block_length, uint32_t count,
		     uint32_t *done, int64_t *result)
{
	for (*done = 0, *result = (int64_t)block_length; *done < count; (*done)++) {
		int rc;

		if (object + *done >= segment->tables[TABLE_OBJECTS].count) {
			*result = READ_END;
			return 0;
		}
		rc = segment_read(segment, object + *done, into + *done * block_length, block_length, result);
		if (rc == SEGMENT_DAMAGED)
			*result = READ_DAMAGED;
		else if (rc)
			return rc;
		if (*result != (int64_t)block_length)
			return 0;
	}
	return 0;
}

static PyObject *py_read_many(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object, count, done = 0;
	Py_ssize_t offset, block_length;
	int64_t result = 0;
	Py_buffer into;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*nnI:read_many", &object, &into, &offset, &block_length, &count))
		return NULL;
	if (!check_block_length(block_length) || offset < 0 || offset > into.len ||
	    (Py_ssize_t)count > (into.len - offset) / block_length) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (enter(segment)) {
		WITHOUT_GIL(segment, rc = read_many(segment, object, (char *)into.buf + offset, (size_t)block_length, count,
						    &done, &result));
	}
	PyBuffer_Release(&into);
	if (PyErr_Occurred())
		return NULL;
	return rc ? fail(segment, rc, object + done) : Py_BuildValue("(IL)", done, (long long)result);
}

static PyObject *py_read_stored(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned char extension[255 * RECORD_ALIGNMENT];
	struct record record;
	unsigned int object;
	Py_buffer into;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*:read_stored", &object, &into))
		return NULL;
	if (check_object(segment, object, false) && enter(segment))
		WITHOUT_GIL(segment, rc = segment_read_stored(segment, object, into.buf, (size_t)into.len, &record, extension));
	PyBuffer_Release(&into);
	if (PyErr_Occurred())
		return NULL;
	if (rc)
		return fail(segment, rc, object);
	return Py_BuildValue("(iIIIy#)", record.form, record.logical_length, record.stored_length, record.logical_crc,
			     extension, (Py_ssize_t)(record.extension_units * RECORD_ALIGNMENT));
}

/* Objects from `object` on are checked until the first damaged one, `count` are, or something else fails. */
static PyObject *py_verify(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object, count, done = 0;
	uint64_t bytes = 0;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "II:verify", &object, &count) || !check_object(segment, object, true))
		return NULL;
	if (count > segment->tables[TABLE_OBJECTS].count - object)
		count = segment->tables[TABLE_OBJECTS].count - object;
	if (!enter(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		while (done < count && !(rc = segment_verify(segment, object + done, &bytes)))
			done++;
	});
	if (rc && rc != SEGMENT_DAMAGED)
		return fail(segment, rc, object + done);
	return Py_BuildValue("(IK)", done, (unsigned long long)bytes);
}

static PyObject *py_describe(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned char extension[255 * RECORD_ALIGNMENT];
	struct record record;
	unsigned int object;
	uint64_t offset = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:describe", &object) || !check_object(segment, object, false) || !enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_describe(segment, object, &record, &offset, extension));
	if (rc)
		return fail(segment, rc, object);
	return Py_BuildValue("(iiIIIKy#)", record.kind, record.form, record.logical_length, record.stored_length,
			     record.logical_crc, (unsigned long long)offset, extension,
			     (Py_ssize_t)(record.extension_units * RECORD_ALIGNMENT));
}

/* ---- index ------------------------------------------------------------------------------------------------------ */

static PyObject *py_filemarks_before(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	uint32_t filemarks = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:filemarks_before", &object) || !check_object(segment, object, true) ||
	    !enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_filemarks_before(segment, object, &filemarks));
	return rc ? fail(segment, rc, object) : PyLong_FromUnsignedLong(filemarks);
}

static PyObject *py_filemark(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int number;
	uint32_t object = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:filemark", &number))
		return NULL;
	if (number >= segment->tables[TABLE_FILEMARKS].count)
		return PyErr_Format(PyExc_IndexError, "the segment has no filemark %u", number);
	if (!enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_get(segment, TABLE_FILEMARKS, number, &object));
	return rc ? fail(segment, rc, 0) : PyLong_FromUnsignedLong(object);
}

static PyObject *py_cut_point(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	uint64_t end = 0, used_bytes = 0;
	uint32_t filemarks = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:cut_point", &object) || !check_object(segment, object, true) || !enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_cut_point(segment, object, &end, &filemarks, &used_bytes));
	if (rc)
		return fail(segment, rc, object);
	return Py_BuildValue("(KIK)", (unsigned long long)end, filemarks, (unsigned long long)used_bytes);
}

static PyObject *py_checkpoint(PyObject *self, PyObject *unused)
{
	struct segment *segment = (struct segment *)self;
	size_t length;
	unsigned char *data;
	PyObject *bytes;

	(void)unused;
	if (!segment->resident) {
		PyErr_SetString(PyExc_ValueError, "a sealed segment has its tables in the file");
		return NULL;
	}
	length = index_encoded_bytes(segment);
	data = malloc(length);
	if (!data)
		return PyErr_NoMemory();
	index_encode(segment, data);
	bytes = PyBytes_FromStringAndSize((char *)data, (Py_ssize_t)length);
	free(data);
	return bytes;
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static PyObject *py_truncate(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	int rc;

	if (!PyArg_ParseTuple(args, "I:truncate", &object) || !check_object(segment, object, true) ||
	    !enter_writable(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_truncate(segment, object));
	return rc && rc != SEGMENT_FULL ? fail(segment, rc, 0) : PyBool_FromLong(!rc);
}

static PyObject *py_shorten(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	int rc;

	if (!PyArg_ParseTuple(args, "I:shorten", &object) || !check_object(segment, object, true) || !enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_shorten(segment, object));
	return none_or_fail(segment, rc);
}

static PyObject *call(PyObject *self, bool writes, int (*function)(struct segment *))
{
	struct segment *segment = (struct segment *)self;
	int rc;

	if (!(writes ? enter_writable(segment) : enter(segment)))
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
	if (!enter(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		if (segment->writable && !segment->failure && segment->allocated > segment->flushed)
			(void)storage_truncate(&segment->file, segment->flushed); /* recover() does it otherwise */
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
	{ "append", py_append, METH_O, "Append a block; False: the segment is full." },
	{ "append_many", py_append_many, METH_VARARGS, "Append equal blocks; returns how many were taken." },
	{ "append_encoded", py_append_encoded, METH_VARARGS, "Append a block in another form; False: full." },
	{ "append_filemarks", py_append_filemarks, METH_VARARGS, "Append filemarks; returns how many were taken." },
	{ "truncate", py_truncate, METH_VARARGS, "Drop objects from this one on; False: too often." },
	{ "shorten", py_shorten, METH_VARARGS, "Cut the file at an object and seal it." },
	{ "read", FUNCTION(py_read), METH_FASTCALL, "Read one object." },
	{ "read_many", py_read_many, METH_VARARGS, "Read equal blocks." },
	{ "read_stored", py_read_stored, METH_VARARGS, "Read a block's payload as it is stored." },
	{ "verify", py_verify, METH_VARARGS, "Check objects as reading them would." },
	{ "describe", py_describe, METH_VARARGS, "An object's header." },
	{ "filemarks_before", py_filemarks_before, METH_VARARGS, "How many filemarks come before an object." },
	{ "filemark", py_filemark, METH_VARARGS, "The object that is the n-th filemark." },
	{ "cut_point", py_cut_point, METH_VARARGS, "What a cut at an object would leave." },
	{ "checkpoint", py_checkpoint, METH_NOARGS, "The index, encoded." },
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
