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

static uint32_t squares[64];					/* x^(2^i) */

static void make_squares(void)
{
	squares[0] = 1u << 30;					/* x^1 */
	for (int i = 1; i < 64; i++)
		squares[i] = multiply(squares[i - 1], squares[i - 1]);
}

uint32_t crc32c_x_power(uint64_t n)
{
	uint32_t power = 1u << 31;				/* x^0 */

	for (int i = 0; n; i++, n >>= 1)
		if (n & 1)
			power = multiply(power, squares[i]);
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
	make_squares();
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

/* What blocks have been gathered from: `open` is the CRC of the `filled` bytes of the block that is begun. */
struct gathering {
	uint32_t crc, open, power;	/* power: x^(8 block_length), by which a whole block moves what is before it */
	size_t block_length, filled;
};

/* Takes what of `data` belongs to the block that is begun; true: it is complete, and its CRC is `open`. */
static bool gather(struct gathering *g, const unsigned char **data, size_t *length)
{
	size_t taken = g->block_length - g->filled < *length ? g->block_length - g->filled : *length;
	uint32_t crc = engine_crc32c(0, *data, taken);

	g->crc = taken == g->block_length ? multiply(g->power, g->crc) ^ crc : engine_crc32c_combine(g->crc, crc, taken);
	g->open = g->filled ? engine_crc32c_combine(g->open, crc, taken) : crc;
	g->filled = (g->filled + taken) % g->block_length;
	*data += taken;
	*length -= taken;
	return !g->filled;
}

static void gather_all(struct gathering *g, const unsigned char *data, size_t length, char *checksums)
{
	while (length)
		if (gather(g, &data, &length)) {
			memcpy(checksums, &g->open, sizeof(g->open));
			checksums += sizeof(g->open);
			g->open = 0;
		}
}

static PyObject *py_crc32c_blocks(PyObject *module, PyObject *args)
{
	struct gathering g = { 0 };
	Py_ssize_t block_length, filled;
	PyObject *checksums = NULL;
	Py_buffer view;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*InnI:crc32c_blocks", &view, &g.crc, &block_length, &filled, &g.open))
		return NULL;
	if (filled < 0 || filled >= block_length) {
		PyErr_SetString(PyExc_ValueError, "a block has at least one byte, and is begun before its end");
	} else {
		g.block_length = (size_t)block_length;
		g.filled = (size_t)filled;
		g.power = crc32c_x_power((uint64_t)block_length * 8);
		checksums = PyBytes_FromStringAndSize(NULL, (filled + view.len) / block_length * (Py_ssize_t)sizeof(g.open));
	}
	if (checksums) {
		char *to = PyBytes_AsString(checksums);

		if (view.len < LIMIT_GIL_BYTES) {
			gather_all(&g, view.buf, (size_t)view.len, to);
		} else {
			Py_BEGIN_ALLOW_THREADS
			gather_all(&g, view.buf, (size_t)view.len, to);
			Py_END_ALLOW_THREADS
		}
	}
	PyBuffer_Release(&view);
	return checksums ? Py_BuildValue("(IIN)", g.crc, g.open, checksums) : NULL;
}

/* The CRC of equal blocks from their own CRCs, continued from `crc`. */
static PyObject *py_crc32c_join(PyObject *module, PyObject *args)
{
	unsigned int crc;
	Py_ssize_t block_length;
	Py_buffer view;
	uint32_t power;

	(void)module;
	if (!PyArg_ParseTuple(args, "Iy*n:crc32c_join", &crc, &view, &block_length))
		return NULL;
	power = crc32c_x_power((uint64_t)block_length * 8);
	for (Py_ssize_t at = 0; at + (Py_ssize_t)sizeof(uint32_t) <= view.len; at += (Py_ssize_t)sizeof(uint32_t)) {
		uint32_t next;

		memcpy(&next, (const char *)view.buf + at, sizeof(next));
		crc = multiply(power, crc) ^ next;
	}
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef methods[] = {
	{ "crc32c_blocks", py_crc32c_blocks, METH_VARARGS, "One pass: the CRC32C of data and of the blocks that it fills." },
	{ "crc32c_join", py_crc32c_join, METH_VARARGS, "CRC32C of equal blocks from their own CRCs." },
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
