/* The methods of Segment, beside those of segment.c, and what they share. All are called with the GIL. */
#ifndef TAPEBAY_SEGMENT_METHODS_H
#define TAPEBAY_SEGMENT_METHODS_H

#include "segment/segment.h"

/* False: an exception is set. The segment is in use until WITHOUT_GIL is through, or in_use is cleared. */
bool segment_enter(struct segment *segment);
bool segment_enter_writable(struct segment *segment);
/* Sets the exception for a result below 0, or SEGMENT_DAMAGED; returns NULL. */
PyObject *segment_fail(const struct segment *segment, int rc, uint32_t object);
bool segment_has_object(const struct segment *segment, unsigned long object, bool or_end);

#define WITHOUT_GIL(segment, statement)                                                                                \
	do {                                                                                                           \
		Py_BEGIN_ALLOW_THREADS                                                                                 \
		statement;                                                                                             \
		Py_END_ALLOW_THREADS                                                                                   \
		(segment)->in_use = false;                                                                             \
	} while (0)

/* ---- blocks.c --------------------------------------------------------------------------------------------------- */

/* False: ValueError is set. */
bool segment_check_block_length(Py_ssize_t length);
/* Appends a block as the initiator wrote it; `crc` is its CRC32C. As segment_append(). */
int segment_append_plain(struct segment *segment, const void *data, size_t length, uint32_t crc);

/* Reads blocks of exactly block_length; *result says what the first object that was none is. With a method of logical
 * block protection (0: none) its information follows each block. checksums: NULL, or where the blocks' CRC32C go. */
int segment_read_many(struct segment *segment, uint32_t object, char *into, size_t block_length, uint32_t count,
		      int method, uint32_t *checksums, uint32_t *done, int64_t *result);
/* One object as segment_read() gives it, and behind a block as much of its protection information as `room` holds. */
int segment_read_protected(struct segment *segment, uint32_t object, char *into, size_t room,
			   enum protection_method method, int64_t *result);

PyObject *segment_py_append(PyObject *self, PyObject *data);
PyObject *segment_py_append_many(PyObject *self, PyObject *args);
PyObject *segment_py_append_encoded(PyObject *self, PyObject *args);
PyObject *segment_py_append_filemarks(PyObject *self, PyObject *args);
PyObject *segment_py_read(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *segment_py_read_many(PyObject *self, PyObject *args);
PyObject *segment_py_read_stored(PyObject *self, PyObject *args);
PyObject *segment_py_verify(PyObject *self, PyObject *args);
PyObject *segment_py_describe(PyObject *self, PyObject *args);
PyObject *segment_py_filemarks_before(PyObject *self, PyObject *args);
PyObject *segment_py_filemark(PyObject *self, PyObject *args);
PyObject *segment_py_filemark_run(PyObject *self, PyObject *args);
PyObject *segment_py_cut_point(PyObject *self, PyObject *args);
PyObject *segment_py_checkpoint(PyObject *self, PyObject *unused);

/* ---- protected.c: blocks with protection information --------------------------------------------------------- */

PyObject *segment_py_append_protected(PyObject *self, PyObject *args);
PyObject *segment_py_read_protected(PyObject *self, PyObject *args);
PyObject *segment_py_read_many_protected(PyObject *self, PyObject *args);

/* ---- files.c: blocks out of a file ------------------------------------------------------------------- */

PyObject *segment_py_append_file(PyObject *self, PyObject *args);

#endif
