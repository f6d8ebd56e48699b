/* What disks do to whole ranges of bytes: compare, combine. Python passes views; nothing is copied. */
#include "engine.h"

#include <string.h>

#define WINDOW 4096

/* Index of the first byte that differs, or `length`. memcmp finds the window, a loop the byte in it. */
static size_t first_difference(const unsigned char *one, const unsigned char *other, size_t length)
{
	size_t at = 0;

	while (at < length) {
		size_t window = length - at < WINDOW ? length - at : WINDOW;

		if (memcmp(one + at, other + at, window)) {
			while (one[at] == other[at])
				at++;
			return at;
		}
		at += window;
	}
	return length;
}

static PyObject *py_first_difference(PyObject *module, PyObject *args)
{
	Py_buffer one, other;
	PyObject *result = NULL;
	size_t length, at;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*y*:first_difference", &one, &other))
		return NULL;
	if (one.len != other.len) {
		PyErr_Format(PyExc_ValueError, "the buffers have %zd and %zd bytes", one.len, other.len);
	} else {
		length = (size_t)one.len;
		Py_BEGIN_ALLOW_THREADS
		at = first_difference(one.buf, other.buf, length);
		Py_END_ALLOW_THREADS
		result = PyLong_FromSsize_t(at == length ? -1 : (Py_ssize_t)at);
	}
	PyBuffer_Release(&one);
	PyBuffer_Release(&other);
	return result;
}

static void or_into(unsigned char *restrict target, const unsigned char *restrict source, size_t length)
{
	for (size_t i = 0; i < length; i++)
		target[i] |= source[i];
}

static PyObject *py_or_into(PyObject *module, PyObject *args)
{
	Py_buffer target, source;
	bool same_length;

	(void)module;
	if (!PyArg_ParseTuple(args, "w*y*:or_into", &target, &source))
		return NULL;
	same_length = target.len == source.len;
	if (!same_length) {
		PyErr_Format(PyExc_ValueError, "the buffers have %zd and %zd bytes", target.len, source.len);
	} else if (target.buf != source.buf) {
		Py_BEGIN_ALLOW_THREADS
		or_into(target.buf, source.buf, (size_t)target.len);
		Py_END_ALLOW_THREADS
	}
	PyBuffer_Release(&target);
	PyBuffer_Release(&source);
	return same_length ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
	{ "first_difference", py_first_difference, METH_VARARGS,
	  "first_difference(one, other, /): index of the first byte that differs, -1 when there is none." },
	{ "or_into", py_or_into, METH_VARARGS, "or_into(target, source, /): target |= source, byte by byte." },
	{ NULL, NULL, 0, NULL },
};

int register_bytes(PyObject *module)
{
	return PyModule_AddFunctions(module, methods);
}
