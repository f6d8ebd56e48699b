/* Protection information of logical blocks (SSC-5 4.2.27): 4 bytes behind a block on its way between an initiator and
 * the medium. The Reed-Solomon CRC stands there most significant byte first, CRC32C least significant byte first, as
 * iSCSI sends it (RFC 7143 13.1) and LTFS expects it.
 */
#include "engine.h"

#include <endian.h>
#include <string.h>

bool engine_protection_known(int method)
{
	if (method == PROTECTION_REED_SOLOMON || method == PROTECTION_CRC32C)
		return true;
	PyErr_Format(PyExc_ValueError, "there is no logical block protection method %d", method);
	return false;
}

void engine_protect(enum protection_method method, const void *block, size_t length, uint32_t crc,
		    unsigned char information[PROTECTION_BYTES])
{
	uint32_t value =
		method == PROTECTION_CRC32C ? htole32(crc) : htobe32(engine_reed_solomon_crc(0, block, length));

	memcpy(information, &value, PROTECTION_BYTES);
}

bool engine_protection_verifies(enum protection_method method, const void *block, size_t length, uint32_t *crc)
{
	unsigned char information[PROTECTION_BYTES];

	*crc = engine_crc32c(0, block, length);
	engine_protect(method, block, length, *crc, information);
	return !memcmp(information, (const unsigned char *)block + length, PROTECTION_BYTES);
}

static PyObject *py_protection_information(PyObject *self, PyObject *args)
{
	unsigned char information[PROTECTION_BYTES];
	Py_buffer view;
	int method;
	bool known;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*i:protection_information", &view, &method))
		return NULL;
	known = engine_protection_known(method);
	if (known) {
		Py_BEGIN_ALLOW_THREADS
		engine_protect((enum protection_method)method, view.buf, (size_t)view.len,
			       method == PROTECTION_CRC32C ? engine_crc32c(0, view.buf, (size_t)view.len) : 0, information);
		Py_END_ALLOW_THREADS
	}
	PyBuffer_Release(&view);
	return known ? PyBytes_FromStringAndSize((const char *)information, PROTECTION_BYTES) : NULL;
}

static PyObject *py_protection_check(PyObject *self, PyObject *args)
{
	Py_buffer view;
	int method;
	uint32_t crc = 0;
	bool verifies = false;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*i:protection_check", &view, &method))
		return NULL;
	if (view.len <= (Py_ssize_t)PROTECTION_BYTES)
		PyErr_SetString(PyExc_ValueError, "there is no block before the protection information");
	else if (engine_protection_known(method)) {
		Py_BEGIN_ALLOW_THREADS
		verifies = engine_protection_verifies((enum protection_method)method, view.buf,
						      (size_t)view.len - PROTECTION_BYTES, &crc);
		Py_END_ALLOW_THREADS
		if (!verifies)
			PyErr_SetNone(engine_protection_mismatch);
	}
	PyBuffer_Release(&view);
	return verifies ? PyLong_FromUnsignedLong(crc) : NULL;
}

static PyMethodDef methods[] = {
	{ "protection_information", py_protection_information, METH_VARARGS,
	  "protection_information(data, method) -> bytes: the 4 bytes that protect a block." },
	{ "protection_check", py_protection_check, METH_VARARGS,
	  "protection_check(data, method) -> int: check a block by the 4 bytes behind it; its CRC32C." },
	{ NULL, NULL, 0, NULL },
};

PyObject *engine_protection_mismatch;

int register_protection(PyObject *module)
{
	engine_protection_mismatch =
		PyErr_NewExceptionWithDoc("datamover.engine._engine.ProtectionMismatch",
					  "What stands behind a block is not its protection information.", NULL, NULL);
	if (!engine_protection_mismatch ||
	    PyModule_AddObjectRef(module, "ProtectionMismatch", engine_protection_mismatch) < 0)
		return -1;
	if (PyModule_AddIntConstant(module, "PROTECTION_REED_SOLOMON", PROTECTION_REED_SOLOMON) < 0 ||
	    PyModule_AddIntConstant(module, "PROTECTION_CRC32C", PROTECTION_CRC32C) < 0 ||
	    PyModule_AddIntConstant(module, "PROTECTION_BYTES", PROTECTION_BYTES) < 0)
		return -1;
	return PyModule_AddFunctions(module, methods);
}
