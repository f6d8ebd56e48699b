/* Files of a cartridge: every byte of one goes through here, so that faults can be injected and writes recorded. */
#ifndef TAPEBAY_STORAGE_H
#define TAPEBAY_STORAGE_H

#include "engine.h"

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

struct storage_file {
	int fd;
	char *path;
};

/* All return 0 (or a count) or a negative errno. None needs the GIL. */

/* Only a regular file of its own folder: -ELOOP, -ENXIO or -EMLINK for a link, a pipe or device, and, to be written, for
 * a file that has other names. */
int storage_open(struct storage_file *file, const char *path, int flags);
/* Another descriptor of an open file, which has no path. */
int storage_adopt(struct storage_file *file, int fd);
void storage_close(struct storage_file *file);
ssize_t storage_read(const struct storage_file *file, void *data, size_t length, uint64_t offset);
ssize_t storage_readv(const struct storage_file *file, const struct iovec *parts, int count, uint64_t offset);
int storage_writev(const struct storage_file *file, struct iovec *parts, int count, uint64_t offset);
int storage_allocate(const struct storage_file *file, uint64_t offset, uint64_t length);
int storage_truncate(const struct storage_file *file, uint64_t length);
int storage_sync(const struct storage_file *file);
int storage_size(const struct storage_file *file, uint64_t *length);
/* With the GIL: sets the OSError of a negative errno; returns NULL. */
PyObject *storage_os_error(int rc, const char *path);

/* What storage.c and small_files.c share. A folder is opened by its own name, which must not be a link. */
int storage_open_directory(const char *directory);
/* The folder of `path` as a descriptor, and the name in it. */
int storage_open_parent(const char *path, const char **name);
/* The file is closed as yet; storage_close() it whatever follows. */
int storage_prepare(struct storage_file *file, const char *path);
/* A prepared file, opened by its name in a folder; what storage_open() refuses. */
int storage_open_in(struct storage_file *file, int directory, const char *name, int flags);

/* writeback.c: asks for these bytes of the file to be written to the disk soon. False: too much is waiting, ask again
 * later. */
bool writeback_start(const struct storage_file *file, uint64_t offset, uint64_t length);
/* Takes back what was asked for; when it returns, nothing uses the file's descriptor. storage_close() calls it. */
void writeback_forget(const struct storage_file *file);

#endif
