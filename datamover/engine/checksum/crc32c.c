/* CRC32C (Castagnoli): the portable form, the choice of the fastest variant at load time, and what Python sees. */
#include <string.h>

#include "engine.h"

#define POLYNOMIAL 0x82F63B78u		/* reflected */
#define COPY_CHUNK_BYTES 8192u		/* copied, then read again by the CRC while it is in the first-level cache */

/* ---- arithmetic modulo the polynomial ---------------------------------------------------------------------------- */

static uint32_t multiply_by_x(uint32_t a)
{
	return a & 1 ? a >> 1 ^ POLYNOMIAL : a >> 1;
}

static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = 1u << 31; bit; bit >>= 1) {		/* reflected: the top bit is x^0 */
		if (a & bit)
			product ^= b;
		b = multiply_by_x(b);
	}
	return product;
}

uint32_t crc32c_x_power(uint64_t n)
{
	uint32_t power = 1u << 31, square = 1u << 30;		/* x^0 and x^1 */

	for (; n; n >>= 1) {
		if (n & 1)
			power = multiply(power, square);
		square = multiply(square, square);
	}
	return power;
}

uint32_t engine_crc32c_combine(uint32_t crc_first, uint32_t crc_second, uint64_t length_second)
{
	return multiply(crc32c_x_power(length_second * 8), crc_first) ^ crc_second;
}

/* ---- slicing by 8, for any CPU ----------------------------------------------------------------------------------- */

static uint32_t table[8][256];

static bool make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;
		for (int bit = 0; bit < 8; bit++)
			crc = multiply_by_x(crc);
		table[0][i] = crc;
	}
	for (int slice = 1; slice < 8; slice++)
		for (int i = 0; i < 256; i++)
			table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 0xff];
	return true;
}

static uint32_t update_portable(uint32_t state, const unsigned char *p, size_t length)
{
	for (; length >= 8; p += 8, length -= 8) {
		state ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
		state = table[7][state & 0xff] ^ table[6][state >> 8 & 0xff] ^ table[5][state >> 16 & 0xff] ^
			table[4][state >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
	}
	while (length--)
		state = table[0][(state ^ *p++) & 0xff] ^ state >> 8;
	return state;
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

#define VARIANTS_MAX 8

static struct crc32c_variant variants[VARIANTS_MAX];	/* those this CPU runs, the fastest first, portable last */
static int variant_count;
static crc32c_function *fastest = update_portable;

static void choose_variants(void)
{
	for (const struct crc32c_variant *v = crc32c_variants_cpu; v->name; v++)
		if (v->available())
			variants[variant_count++] = *v;
	variants[variant_count++] = (struct crc32c_variant){ "portable", make_tables, update_portable };
	make_tables();
	fastest = variants[0].update;
}

uint32_t engine_crc32c(uint32_t crc, const void *data, size_t length)
{
	return ~fastest(~crc, data, length);
}

uint32_t engine_copy_crc32c(void *destination, const void *source, size_t length, uint32_t crc)
{
	unsigned char *to = destination;
	const unsigned char *from = source;

	crc = ~crc;
	while (length) {
		size_t chunk = length < COPY_CHUNK_BYTES ? length : COPY_CHUNK_BYTES;
		memcpy(to, from, chunk);
		crc = fastest(crc, to, chunk);
		to += chunk;
		from += chunk;
		length -= chunk;
	}
	return ~crc;
}

/* ---- Python ------------------------------------------------------------------------------------------------------ */

static PyObject *crc_of_view(crc32c_function *update, Py_buffer *view, uint32_t crc)
{
	if (view->len < LIMIT_GIL_BYTES) {
		crc = ~update(~crc, view->buf, (size_t)view->len);
	} else {
		Py_BEGIN_ALLOW_THREADS
		crc = ~update(~crc, view->buf, (size_t)view->len);
		Py_END_ALLOW_THREADS
	}
	PyBuffer_Release(view);
	return PyLong_FromUnsignedLong(crc);
}

static PyObject *py_crc32c(PyObject *module, PyObject *args)
{
	Py_buffer view;
	unsigned int crc = 0;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*|I:crc32c", &view, &crc))
		return NULL;
	return crc_of_view(fastest, &view, crc);
}

static PyObject *py_crc32c_with(PyObject *module, PyObject *args)
{
	const char *name;
	Py_buffer view;
	unsigned int crc = 0;

	(void)module;
	if (!PyArg_ParseTuple(args, "sy*|I:crc32c_with", &name, &view, &crc))
		return NULL;
	for (int i = 0; i < variant_count; i++)
		if (!strcmp(name, variants[i].name))
			return crc_of_view(variants[i].update, &view, crc);
	PyBuffer_Release(&view);
	return PyErr_Format(PyExc_ValueError, "this CPU has no CRC32C variant \"%s\"", name);
}

static PyObject *py_crc32c_combine(PyObject *module, PyObject *args)
{
	unsigned int first, second;
	unsigned long long length;

	(void)module;
	if (!PyArg_ParseTuple(args, "IIK:crc32c_combine", &first, &second, &length))
		return NULL;
	return PyLong_FromUnsignedLong(engine_crc32c_combine(first, second, length));
}

static PyMethodDef methods[] = {
	{ "crc32c", py_crc32c, METH_VARARGS, "crc32c(data, crc=0, /): CRC32C of a buffer, continued from crc." },
	{ "crc32c_with", py_crc32c_with, METH_VARARGS, "crc32c_with(implementation, data, crc=0, /): by one variant." },
	{ "crc32c_combine", py_crc32c_combine, METH_VARARGS,
	  "crc32c_combine(crc_first, crc_second, length_second, /): CRC32C of two adjoining pieces." },
	{ NULL, NULL, 0, NULL },
};

int register_crc32c(PyObject *module)
{
	PyObject *names;

	choose_variants();
	names = PyTuple_New(variant_count);
	for (int i = 0; names && i < variant_count; i++)
		PyTuple_SetItem(names, i, PyUnicode_FromString(variants[i].name));
	if (PyErr_Occurred() || PyModule_AddObjectRef(module, "crc32c_implementations", names) < 0) {
		Py_XDECREF(names);
		return -1;
	}
	Py_DECREF(names);
	if (PyModule_AddStringConstant(module, "crc32c_implementation", variants[0].name) < 0)
		return -1;
	return PyModule_AddFunctions(module, methods);
}
