/* The methods of Segment that append, read, check and look up objects. Arguments are checked here, once; what the calls
 * mean is in _engine.pyi.
 */
#include "segment/index.h"
#include "segment/log.h"
#include "segment/methods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHECKSUM_BYTES ((Py_ssize_t)sizeof(uint32_t))

/* ---- appending ------------------------------------------------------------------------------------------------ */

int segment_append_plain(struct segment *segment, const void *data, size_t length, uint32_t crc)
{
	struct record record = {
		.kind = RECORD_BLOCK,
		.logical_length = (uint32_t)length,
		.stored_length = (uint32_t)length,
		.stored_crc = crc,
		.logical_crc = crc,
	};

	return segment_append(segment, &record, NULL, data);
}

static int append_plain(struct segment *segment, const void *data, size_t length)
{
	return segment_append_plain(segment, data, length, engine_crc32c(0, data, length));
}

/* With the CRC32C that came with block `number`, if any did: the bytes are not looked at again. */
static int append_checked(struct segment *segment, const void *data, size_t length, const char *checksums,
			  Py_ssize_t number)
{
	uint32_t crc;

	if (!checksums)
		return append_plain(segment, data, length);
	memcpy(&crc, checksums + number * CHECKSUM_BYTES, sizeof(crc));
	return segment_append_plain(segment, data, length, crc);
}

bool segment_check_block_length(Py_ssize_t length)
{
	if (length >= 1 && length < (Py_ssize_t)LIMIT_TRANSFER_BYTES)
		return true;
	PyErr_Format(PyExc_ValueError, "a block has 1 to %d bytes, not %zd", LIMIT_TRANSFER_BYTES - 1, length);
	return false;
}

PyObject *segment_py_append(PyObject *self, PyObject *data)
{
	struct segment *segment = (struct segment *)self;
	Py_buffer view;
	int rc;

	if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
		return NULL;
	if (!segment_check_block_length(view.len) || !segment_enter_writable(segment)) {
		PyBuffer_Release(&view);
		return NULL;
	}
	if (segment_append_blocks(segment, (size_t)view.len))
		WITHOUT_GIL(segment, rc = append_plain(segment, view.buf, (size_t)view.len));
	else
		rc = append_plain(segment, view.buf, (size_t)view.len);
	segment->in_use = false;
	PyBuffer_Release(&view);
	return rc && rc != SEGMENT_FULL ? segment_fail(segment, rc, 0) : PyBool_FromLong(!rc);
}

PyObject *segment_py_append_many(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	Py_ssize_t offset, block_length, count, done = 0;
	Py_buffer view, checksums = { 0 };
	int rc = 0;

	if (!PyArg_ParseTuple(args, "y*nnn|y*:append_many", &view, &offset, &block_length, &count, &checksums))
		return NULL;
	if (!segment_check_block_length(block_length) || offset < 0 || count < 0 || offset > view.len ||
	    count > (view.len - offset) / block_length || (checksums.buf && count > checksums.len / CHECKSUM_BYTES)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (segment_enter_writable(segment)) {
		WITHOUT_GIL(segment, {
			const char *from = (const char *)view.buf + offset;

			for (; done < count; done++, from += block_length) {
				rc = append_checked(segment, from, (size_t)block_length, checksums.buf, done);
				if (rc)
					break;
			}
		});
	}
	PyBuffer_Release(&view);
	PyBuffer_Release(&checksums);
	if (PyErr_Occurred())
		return NULL;
	/* An error behind the first block comes again with the next call, when the caller has counted what was taken. */
	return rc && rc != SEGMENT_FULL && !done ? segment_fail(segment, rc, 0) : PyLong_FromSsize_t(done);
}

PyObject *segment_py_append_encoded(PyObject *self, PyObject *args)
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
	} else if (segment_check_block_length(record.logical_length) && stored.len < (Py_ssize_t)(2 * LIMIT_TRANSFER_BYTES) &&
		   segment_enter_writable(segment)) {
		record.stored_length = (uint32_t)stored.len;
		record.extension_units = (uint8_t)(extension.len / (Py_ssize_t)RECORD_ALIGNMENT);
		WITHOUT_GIL(segment, {
			record.stored_crc = engine_crc32c(0, stored.buf, (size_t)stored.len);
			rc = segment_append(segment, &record, extension.buf, stored.buf);
		});
		result = rc && rc != SEGMENT_FULL ? segment_fail(segment, rc, 0) : PyBool_FromLong(!rc);
	}
	PyBuffer_Release(&stored);
	PyBuffer_Release(&extension);
	return result;
}

PyObject *segment_py_append_filemarks(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int count, done = 0;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "I:append_filemarks", &count) || !segment_enter_writable(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		for (; done < count; done++) {
			struct record record = { .kind = RECORD_FILEMARK };

			rc = segment_append(segment, &record, NULL, NULL);
			if (rc)
				break;
		}
	});
	return rc && rc != SEGMENT_FULL && !done ? segment_fail(segment, rc, 0) : PyLong_FromUnsignedLong(done);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

PyObject *segment_py_read(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
	struct segment *segment = (struct segment *)self;
	unsigned long object;
	Py_buffer into;
	int64_t result;
	int rc;

	if (count != 2)
		return PyErr_Format(PyExc_TypeError, "read() takes 2 arguments, not %zd", count);
	object = PyLong_AsUnsignedLong(args[0]);
	if (PyErr_Occurred() || !segment_has_object(segment, object, false) ||
	    PyObject_GetBuffer(args[1], &into, PyBUF_WRITABLE) < 0)
		return NULL;
	if (!segment_enter(segment)) {
		PyBuffer_Release(&into);
		return NULL;
	}
	if (segment_at_hand(segment, (uint32_t)object))
		rc = segment_read(segment, (uint32_t)object, into.buf, (size_t)into.len, &result);
	else
		WITHOUT_GIL(segment, rc = segment_read(segment, (uint32_t)object, into.buf, (size_t)into.len, &result));
	segment->in_use = false;
	PyBuffer_Release(&into);
	return rc ? segment_fail(segment, rc, (uint32_t)object) : PyLong_FromLongLong(result);
}

int segment_read_many(struct segment *segment, uint32_t object, char *into, size_t block_length, uint32_t count,
		      int method, uint32_t *checksums, uint32_t *done, int64_t *result)
{
	size_t slot = block_length + (method ? PROTECTION_BYTES : 0);

	for (*done = 0, *result = (int64_t)block_length; *done < count; (*done)++) {
		int rc;

		if (object + *done >= segment->tables[TABLE_OBJECTS].count) {
			*result = READ_END;
			return 0;
		}
		if (method)
			rc = segment_read_protected(segment, object + *done, into + *done * slot, slot,
						    (enum protection_method)method, result);
		else
			rc = segment_read(segment, object + *done, into + *done * slot, slot, result);
		if (rc == SEGMENT_DAMAGED)
			*result = READ_DAMAGED;
		else if (rc)
			return rc;
		if (*result != (int64_t)block_length)
			return 0;
		if (checksums)
			memcpy(checksums + *done, &segment->read_crc, sizeof(segment->read_crc));
	}
	return 0;
}

PyObject *segment_py_read_many(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object, count, done = 0;
	Py_ssize_t offset, block_length;
	Py_buffer into, checksums = { 0 };
	int64_t result = 0;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*nnI|w*:read_many", &object, &into, &offset, &block_length, &count, &checksums))
		return NULL;
	if (!segment_check_block_length(block_length) || offset < 0 || offset > into.len ||
	    (Py_ssize_t)count > (into.len - offset) / block_length ||
	    (checksums.buf && (Py_ssize_t)count > checksums.len / CHECKSUM_BYTES)) {
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (segment_enter(segment)) {
		WITHOUT_GIL(segment, rc = segment_read_many(segment, object, (char *)into.buf + offset,
							    (size_t)block_length, count, 0, checksums.buf, &done, &result));
	}
	PyBuffer_Release(&into);
	PyBuffer_Release(&checksums);
	if (PyErr_Occurred())
		return NULL;
	return rc ? segment_fail(segment, rc, object + done) : Py_BuildValue("(IL)", done, (long long)result);
}

PyObject *segment_py_read_stored(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned char extension[255 * RECORD_ALIGNMENT];
	struct record record;
	unsigned int object;
	Py_buffer into;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*:read_stored", &object, &into))
		return NULL;
	if (segment_has_object(segment, object, false) && segment_enter(segment))
		WITHOUT_GIL(segment, rc = segment_read_stored(segment, object, into.buf, (size_t)into.len, &record, extension));
	PyBuffer_Release(&into);
	if (PyErr_Occurred())
		return NULL;
	if (rc)
		return segment_fail(segment, rc, object);
	return Py_BuildValue("(iIIIy#)", record.form, record.logical_length, record.stored_length, record.logical_crc,
			     extension, (Py_ssize_t)(record.extension_units * RECORD_ALIGNMENT));
}

/* Objects from `object` on are checked until the first damaged one, `count` are, or something else fails. */
PyObject *segment_py_verify(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object, count, done = 0;
	uint64_t bytes = 0;
	int rc = 0;

	if (!PyArg_ParseTuple(args, "II:verify", &object, &count) || !segment_has_object(segment, object, true))
		return NULL;
	if (count > segment->tables[TABLE_OBJECTS].count - object)
		count = segment->tables[TABLE_OBJECTS].count - object;
	if (!segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, {
		while (done < count && !(rc = segment_verify(segment, object + done, &bytes)))
			done++;
	});
	if (rc && rc != SEGMENT_DAMAGED)
		return segment_fail(segment, rc, object + done);
	return Py_BuildValue("(IK)", done, (unsigned long long)bytes);
}

PyObject *segment_py_describe(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned char extension[255 * RECORD_ALIGNMENT];
	struct record record;
	unsigned int object;
	uint64_t offset = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:describe", &object) || !segment_has_object(segment, object, false) || !segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = segment_describe(segment, object, &record, &offset, extension));
	if (rc)
		return segment_fail(segment, rc, object);
	return Py_BuildValue("(iiIIIKy#)", record.kind, record.form, record.logical_length, record.stored_length,
			     record.logical_crc, (unsigned long long)offset, extension,
			     (Py_ssize_t)(record.extension_units * RECORD_ALIGNMENT));
}

/* ---- index ------------------------------------------------------------------------------------------------------ */

PyObject *segment_py_filemarks_before(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	uint32_t filemarks = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:filemarks_before", &object) || !segment_has_object(segment, object, true) ||
	    !segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_filemarks_before(segment, object, &filemarks));
	return rc ? segment_fail(segment, rc, object) : PyLong_FromUnsignedLong(filemarks);
}

PyObject *segment_py_filemark(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int number;
	uint32_t object = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:filemark", &number))
		return NULL;
	if (number >= segment->tables[TABLE_FILEMARKS].count)
		return PyErr_Format(PyExc_IndexError, "the segment has no filemark %u", number);
	if (!segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_get(segment, TABLE_FILEMARKS, number, &object));
	return rc ? segment_fail(segment, rc, 0) : PyLong_FromUnsignedLong(object);
}

PyObject *segment_py_filemark_run(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int number;
	long long previous;
	unsigned long long length, wanted;
	int backwards, rc;
	int64_t at;
	uint64_t run;

	if (!PyArg_ParseTuple(args, "ILKKp:filemark_run", &number, &previous, &length, &wanted, &backwards) ||
	    !segment_enter(segment))
		return NULL;
	at = previous;
	run = length;
	WITHOUT_GIL(segment, rc = index_filemark_run(segment, number, backwards, wanted, &at, &run));
	return rc ? segment_fail(segment, rc, 0) : Py_BuildValue("(LK)", (long long)at, (unsigned long long)run);
}

PyObject *segment_py_cut_point(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	uint64_t end = 0, used_bytes = 0;
	uint32_t filemarks = 0;
	int rc;

	if (!PyArg_ParseTuple(args, "I:cut_point", &object) || !segment_has_object(segment, object, true) || !segment_enter(segment))
		return NULL;
	WITHOUT_GIL(segment, rc = index_cut_point(segment, object, &end, &filemarks, &used_bytes));
	if (rc)
		return segment_fail(segment, rc, object);
	return Py_BuildValue("(KIK)", (unsigned long long)end, filemarks, (unsigned long long)used_bytes);
}

PyObject *segment_py_checkpoint(PyObject *self, PyObject *unused)
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
