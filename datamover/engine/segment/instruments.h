/* Two test-only facilities, which cost one relaxed load when unused: faults (fail the n-th operation of a kind with an
 * errno, after a partial transfer if wanted) and a trace (every change of storage in order, for a log-and-replay crash test).
 */
#ifndef TAPEBAY_INSTRUMENTS_H
#define TAPEBAY_INSTRUMENTS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum operation {
	OP_OPEN, OP_READ, OP_WRITE, OP_ALLOCATE, OP_TRUNCATE, OP_SYNC, OP_RENAME, OP_UNLINK, OP_SYNC_DIRECTORY,
	OP_EXCHANGE, OP_SYNC_FILE_SYSTEM, OPERATIONS
};

/* The errno that an operation is to fail with, 0: none; *partial: how much of it happens before. */
int storage_fault_due(enum operation operation, const char *path, size_t *partial);
/* An operation has happened. */
void storage_trace(enum operation operation, const char *path, uint64_t offset, const struct iovec *parts, int count);

#endif
