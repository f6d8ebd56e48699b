/* CRC32C (Castagnoli). Portable byte-table form; the variants that use the CPU's instructions are chosen at run time. */
#include "engine.h"

static uint32_t table[256];

static void make_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
		table[i] = crc;
	}
}

uint32_t engine_crc32c(uint32_t crc, const void *data, size_t length)
{
	const unsigned char *byte = data;

	crc = ~crc;
	while (length--)
		crc = table[(crc ^ *byte++) & 0xff] ^ crc >> 8;
	return ~crc;
}

static PyObject *py_crc32c(PyObject *self, PyObject *args)
{
	Py_buffer view;
	unsigned int crc = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*|I:crc32c", &view, &crc))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	crc = engine_crc32c(crc, view.buf, (size_t)view.len);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef methods[] = {
	{ "crc32c", py_crc32c, METH_VARARGS, "crc32c(data, crc=0) -> int: CRC32C of a buffer, continued from crc." },
	{ NULL, NULL, 0, NULL },
};

int register_crc32c(PyObject *module)
{
	make_table();
	return PyModule_AddFunctions(module, methods);
}
