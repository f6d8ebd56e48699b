/* objects.c and methods.c: what Python sees of a connection. All of it with the GIL. */
#ifndef TAPEBAY_OBJECTS_H
#define TAPEBAY_OBJECTS_H

#include "connection/connection.h"

struct command {
	PyObject_HEAD
	struct connection *connection;
	struct request *request;		/* NULL once answered or discarded; guarded by the connection's lock */
	bool discarded;
	unsigned long long lun;
	unsigned int tag, cmd_sn, expected, bidirectional_read_length;
	int task_attribute, data_error;
	char immediate, read, write;
	PyObject *cdb, *data_out;
};

extern PyTypeObject *connection_command_type;

PyObject *connection_command_new(struct connection *c, struct request *r);
PyObject *connection_pdu_new(struct connection *c, struct request *r);
void connection_discard_command(struct command *command);
int connection_add_object_types(PyObject *module);

extern PyObject *connection_closed_error, *connection_protocol_error;
extern PyMethodDef connection_methods[];

/* Releases what only Python can of output that was sent. */
void connection_release_views(struct connection *c);

#endif
