/* Tapebay's engine: the C that touches bytes. Python decides; nothing here knows what a CDB, a sense key or a mode page is.
 *
 * Every limit of the engine is named in this header. One .c file per concern; each registers what it gives to Python
 * through its register_*() function, called once by module.c. Built against the limited API of Python 3.11.
 */
#ifndef TAPEBAY_ENGINE_H
#define TAPEBAY_ENGINE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>

/* ---- limits ------------------------------------------------------------------------------------------------ */

/* The largest transfer of one SCSI command: a tape block is 16 MiB - 1 at the most (24-bit TRANSFER LENGTH). */
#define LIMIT_TRANSFER_BYTES (16u << 20)

/* ---- crc32c.c ------------------------------------------------------------------------------------------------ */

/* CRC32C (Castagnoli, reflected, as RFC 7143 12.1 and SSC-5 use it) of `length` bytes at `data`, continued from `crc`
 * (0 to start). Needs no GIL. */
uint32_t engine_crc32c(uint32_t crc, const void *data, size_t length);

/* ---- registration ---------------------------------------------------------------------------------------------- */

int register_crc32c(PyObject *module);

#endif
