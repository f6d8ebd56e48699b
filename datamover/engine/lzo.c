/* Decompression of LZO1X, which mhVTL cartridges are often compressed with. Reading only: Tapebay writes zstd.
 *
 * The stream is a run of instructions; what an instruction below 16 means depends on how many literals came before it.
 * The format is described in the Linux kernel's Documentation/staging/lzo.rst.
 */
#include "engine.h"

#include <string.h>

struct stream {
	const uint8_t *in, *in_end;
	uint8_t *out, *out_begin, *out_end;
};

#define AFTER_RUN 4 /* the state behind a run of four literals or more */

/* A length that did not fit its bits goes on in bytes: zeros count 255 each, the first other ends it. */
static bool long_length(struct stream *s, size_t bits, size_t *length)
{
	if (*length)
		return true;
	for (*length = bits; s->in < s->in_end && !*s->in; s->in++)
		*length += 255;
	if (s->in == s->in_end)
		return false;
	*length += *s->in++;
	return true;
}

static bool copy_literals(struct stream *s, size_t length)
{
	if (length > (size_t)(s->in_end - s->in) || length > (size_t)(s->out_end - s->out))
		return false;
	memcpy(s->out, s->in, length);
	s->in += length;
	s->out += length;
	return true;
}

/* Source and target may overlap: what was just written is copied again. */
static bool copy_match(struct stream *s, size_t distance, size_t length)
{
	if (distance > (size_t)(s->out - s->out_begin) || length > (size_t)(s->out_end - s->out))
		return false;
	for (; length; length--, s->out++)
		*s->out = s->out[-(ptrdiff_t)distance];
	return true;
}

/* Instructions 16 to 63: two bytes of distance follow. *state: the literals behind the match. */
static bool far_match(struct stream *s, unsigned op, unsigned *state, bool *end)
{
	bool farther = op < 32;
	size_t length = farther ? op & 7 : op & 31, distance;

	if (!long_length(s, farther ? 7 : 31, &length) || s->in_end - s->in < 2)
		return false;
	distance = (size_t)(s->in[0] >> 2 | s->in[1] << 6);
	*state = s->in[0] & 3;
	s->in += 2;
	distance += farther ? 16384 + ((op & 8) << 11) : 1;
	*end = farther && distance == 16384;
	return *end || copy_match(s, distance, length + 2);
}

/* Instructions 64 to 255, and below 16 behind literals: one byte of distance follows. */
static bool near_match(struct stream *s, unsigned op, unsigned *state)
{
	size_t length, distance;

	if (s->in == s->in_end)
		return false;
	if (op >= 64) {
		length = op >= 128 ? 5 + (op >> 5 & 3) : 3 + (op >> 5 & 1);
		distance = ((size_t)*s->in++ << 3) + (op >> 2 & 7) + 1;
	} else {
		length = *state == AFTER_RUN ? 3 : 2;
		distance = ((size_t)*s->in++ << 2) + (op >> 2) + (*state == AFTER_RUN ? 2049 : 1);
	}
	*state = op & 3;
	return copy_match(s, distance, length);
}

static bool first_literals(struct stream *s, unsigned *state)
{
	size_t length;

	if (s->in == s->in_end || *s->in < 18)
		return true;
	length = (size_t)*s->in++ - 17;
	*state = length < AFTER_RUN ? (unsigned)length : AFTER_RUN;
	return copy_literals(s, length);
}

/* False: the stream is damaged, or makes more than fits. */
static bool decompress(struct stream *s)
{
	unsigned state = 0;
	bool end = false, good = first_literals(s, &state);

	while (good && !end) {
		unsigned op;

		if (s->in == s->in_end)
			return false;
		op = *s->in++;
		if (op < 16 && state == 0) {
			size_t length = op;

			good = long_length(s, 15, &length) && copy_literals(s, length + 3);
			state = AFTER_RUN;
			continue;
		}
		good = op >= 16 && op < 64 ? far_match(s, op, &state, &end) : near_match(s, op, &state);
		if (good && !end && state)
			good = copy_literals(s, state);
	}
	return good;
}

static PyObject *py_lzo_decompress(PyObject *self, PyObject *args)
{
	struct stream s;
	Py_ssize_t length;
	PyObject *result;
	Py_buffer view;
	bool good;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*n:lzo_decompress", &view, &length))
		return NULL;
	if (length < 0 || length > (Py_ssize_t)LIMIT_TRANSFER_BYTES) {
		PyBuffer_Release(&view);
		return PyErr_Format(PyExc_ValueError, "a block has at most %d bytes", LIMIT_TRANSFER_BYTES);
	}
	result = PyBytes_FromStringAndSize(NULL, length);
	if (result) {
		s.in = view.buf;
		s.in_end = s.in + view.len;
		s.out = s.out_begin = (uint8_t *)PyBytes_AsString(result);
		s.out_end = s.out + length;
		Py_BEGIN_ALLOW_THREADS
		good = decompress(&s) && s.out == s.out_end && s.in == s.in_end;
		Py_END_ALLOW_THREADS
		if (!good) {
			Py_CLEAR(result);
			PyErr_SetString(PyExc_ValueError, "not an LZO1X stream of that length");
		}
	}
	PyBuffer_Release(&view);
	return result;
}

static PyMethodDef methods[] = {
	{ "lzo_decompress", py_lzo_decompress, METH_VARARGS,
	  "lzo_decompress(data, length) -> bytes: an LZO1X stream that makes exactly `length` bytes." },
	{ NULL, NULL, 0, NULL },
};

int register_lzo(PyObject *module)
{
	return PyModule_AddFunctions(module, methods);
}
