/* The methods of Segment for blocks that travel with protection information (SSC-5 4.2.27). It is checked before a
 * block is appended and made when a block is read; it is not stored, for every record has the block's CRC32C.
 */
#include "segment/log.h"
#include "segment/methods.h"

#define SEGMENT_MISMATCH 3

static int append_protected(struct segment *segment, const char *block, size_t length, enum protection_method method)
{
	uint32_t crc;

	if (!engine_protection_verifies(method, block, length, &crc))
		return SEGMENT_MISMATCH;
	return segment_append_plain(segment, block, length, crc);
}

PyObject *segment_py_append_protected(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	Py_ssize_t offset, block_length, count, done = 0;
	Py_buffer view;
	int method, rc = 0;

	if (!PyArg_ParseTuple(args, "y*nnni:append_protected", &view, &offset, &block_length, &count, &method))
		return NULL;
	if (!segment_check_block_length(block_length) || !engine_protection_known(method)) {
		/* ValueError is set. */
	} else if (offset < 0 || count < 0 || offset > view.len ||
		   count > (view.len - offset) / (block_length + (Py_ssize_t)PROTECTION_BYTES)) {
		PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (segment_enter_writable(segment)) {
		WITHOUT_GIL(segment, {
			const char *block = (const char *)view.buf + offset;

			for (; done < count; done++, block += block_length + (Py_ssize_t)PROTECTION_BYTES) {
				rc = append_protected(segment, block, (size_t)block_length, (enum protection_method)method);
				if (rc)
					break;
			}
		});
	}
	PyBuffer_Release(&view);
	if (PyErr_Occurred())
		return NULL;
	/* What stops it behind the first block comes again with the next call, when the caller has counted what was taken. */
	if (!rc || rc == SEGMENT_FULL || done)
		return PyLong_FromSsize_t(done);
	if (rc != SEGMENT_MISMATCH)
		return segment_fail(segment, rc, 0);
	PyErr_SetNone(engine_protection_mismatch);
	return NULL;
}

int segment_read_protected(struct segment *segment, uint32_t object, char *into, size_t room,
			   enum protection_method method, int64_t *result)
{
	unsigned char information[PROTECTION_BYTES];
	struct record record;
	uint64_t offset;
	size_t length;
	int rc = segment_describe(segment, object, &record, &offset, NULL);

	if (!rc)
		rc = segment_read(segment, object, into, room, result);
	if (rc || *result < 0 || (size_t)*result >= room)
		return rc;
	length = (size_t)*result;
	engine_protect(method, into, length, record.logical_crc, information);
	memcpy(into + length, information, room - length < PROTECTION_BYTES ? room - length : PROTECTION_BYTES);
	return 0;
}

PyObject *segment_py_read_protected(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object;
	Py_buffer into;
	int64_t result = 0;
	int method, rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*i:read_protected", &object, &into, &method))
		return NULL;
	if (engine_protection_known(method) && segment_has_object(segment, object, false) && segment_enter(segment))
		WITHOUT_GIL(segment, rc = segment_read_protected(segment, object, into.buf, (size_t)into.len,
								 (enum protection_method)method, &result));
	PyBuffer_Release(&into);
	if (PyErr_Occurred())
		return NULL;
	return rc ? segment_fail(segment, rc, object) : PyLong_FromLongLong(result);
}

PyObject *segment_py_read_many_protected(PyObject *self, PyObject *args)
{
	struct segment *segment = (struct segment *)self;
	unsigned int object, count, done = 0;
	Py_ssize_t offset, block_length;
	int64_t result = 0;
	Py_buffer into;
	int method, rc = 0;

	if (!PyArg_ParseTuple(args, "Iw*nnIi:read_many_protected", &object, &into, &offset, &block_length, &count, &method))
		return NULL;
	if (!segment_check_block_length(block_length) || !engine_protection_known(method)) {
		/* ValueError is set. */
	} else if (offset < 0 || offset > into.len ||
		   (Py_ssize_t)count > (into.len - offset) / (block_length + (Py_ssize_t)PROTECTION_BYTES)) {
		PyErr_SetString(PyExc_ValueError, "the buffer does not hold that many blocks");
	} else if (segment_enter(segment)) {
		WITHOUT_GIL(segment, rc = segment_read_many(segment, object, (char *)into.buf + offset,
							    (size_t)block_length, count, method, NULL, &done, &result));
	}
	PyBuffer_Release(&into);
	if (PyErr_Occurred())
		return NULL;
	return rc ? segment_fail(segment, rc, object + done) : Py_BuildValue("(IL)", done, (long long)result);
}
