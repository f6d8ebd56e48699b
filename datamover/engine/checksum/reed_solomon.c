/* The Reed-Solomon CRC of logical block protection (SSC-5 4.2.27, method 01h; ECMA-319 defines it for LTO).
 *
 * It is the remainder of the block, as a polynomial over GF(256), divided by the generator
 * x^4 + 38h x^3 + CFh x^2 + 38h x + 1, where GF(256) is built on x^8 + x^4 + x^3 + x^2 + 1. On the wire it stands most
 * significant byte first, behind the block.
 */
#include "engine.h"

#define FIELD_POLYNOMIAL 0x11Du
#define SLICES 8

static const uint8_t generator[4] = { 0x38, 0xCF, 0x38, 0x01 };

/* table[k][b]: what byte b does to the register when k more bytes follow it. */
static uint32_t table[SLICES][256];

static uint8_t multiply(unsigned a, unsigned b)
{
	unsigned product = 0;

	for (; b; b >>= 1, a = a & 0x80 ? a << 1 ^ FIELD_POLYNOMIAL : a << 1)
		if (b & 1)
			product ^= a;
	return (uint8_t)product;
}

static void make_tables(void)
{
	for (unsigned byte = 0; byte < 256; byte++)
		for (int i = 0; i < 4; i++)
			table[0][byte] = table[0][byte] << 8 | multiply(byte, generator[i]);
	for (int slice = 1; slice < SLICES; slice++)
		for (unsigned byte = 0; byte < 256; byte++) {
			uint32_t before = table[slice - 1][byte];

			table[slice][byte] = before << 8 ^ table[0][before >> 24];
		}
}

uint32_t engine_reed_solomon_crc(uint32_t crc, const void *data, size_t length)
{
	const uint8_t *byte = data;

	for (; length >= SLICES; byte += SLICES, length -= SLICES)
		crc = table[7][byte[0] ^ crc >> 24] ^ table[6][byte[1] ^ (crc >> 16 & 0xFF)] ^
		      table[5][byte[2] ^ (crc >> 8 & 0xFF)] ^ table[4][byte[3] ^ (crc & 0xFF)] ^ table[3][byte[4]] ^
		      table[2][byte[5]] ^ table[1][byte[6]] ^ table[0][byte[7]];
	for (; length; byte++, length--)
		crc = crc << 8 ^ table[0][*byte ^ crc >> 24];
	return crc;
}

static PyObject *py_reed_solomon_crc(PyObject *self, PyObject *args)
{
	Py_buffer view;
	unsigned int crc = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*|I:reed_solomon_crc", &view, &crc))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	crc = engine_reed_solomon_crc(crc, view.buf, (size_t)view.len);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&view);
	return PyLong_FromUnsignedLong(crc);
}

static PyMethodDef methods[] = {
	{ "reed_solomon_crc", py_reed_solomon_crc, METH_VARARGS,
	  "reed_solomon_crc(data, crc=0) -> int: the CRC of logical block protection method 1, continued from crc." },
	{ NULL, NULL, 0, NULL },
};

int register_reed_solomon(PyObject *module)
{
	make_tables();
	return PyModule_AddFunctions(module, methods);
}
