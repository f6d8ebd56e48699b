/* What receive() hands out: ScsiCommand and Pdu. */
#include "connection/objects.h"
#include "connection/requests.h"

#include <structmember.h>

#include <string.h>

PyTypeObject *connection_command_type;
static PyTypeObject *pdu_type;

/* ---- ScsiCommand ------------------------------------------------------------------------------------------------- */

static PyMemberDef command_members[] = {
	{ "initiator_task_tag", T_UINT, offsetof(struct command, tag), READONLY, NULL },
	{ "lun", T_ULONGLONG, offsetof(struct command, lun), READONLY, "the 8-byte LUN field" },
	{ "cdb", T_OBJECT_EX, offsetof(struct command, cdb), READONLY, NULL },
	{ "cmd_sn", T_UINT, offsetof(struct command, cmd_sn), READONLY, NULL },
	{ "immediate", T_BOOL, offsetof(struct command, immediate), READONLY, NULL },
	{ "task_attribute", T_INT, offsetof(struct command, task_attribute), READONLY, NULL },
	{ "read", T_BOOL, offsetof(struct command, read), READONLY, NULL },
	{ "write", T_BOOL, offsetof(struct command, write), READONLY, NULL },
	{ "expected_data_transfer_length", T_UINT, offsetof(struct command, expected), READONLY, NULL },
	{ "bidirectional_read_length", T_UINT, offsetof(struct command, bidirectional_read_length), READONLY, NULL },
	{ "data_out", T_OBJECT, offsetof(struct command, data_out), READONLY, NULL },
	{ "data_error", T_INT, offsetof(struct command, data_error), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyObject *cdb_of(const struct request *r)
{
	unsigned char cdb[LIMIT_CDB_BYTES];

	memcpy(cdb, r->bhs + 32, 16);
	memcpy(cdb + 16, r->extended_cdb, r->extended_cdb_length);
	return PyBytes_FromStringAndSize((const char *)cdb, 16 + (Py_ssize_t)r->extended_cdb_length);
}

/* Moves the gathered Data-Out to a Python object; the bytes still count against the budget until the answer. */
static PyObject *data_out_of(struct request *r)
{
	struct buffer_block *block = r->block;

	r->block = NULL;
	return block ? engine_data_buffer_new(block, r->expected) : NULL;
}

static void discard_request(struct connection *c, struct request *r)	/* lock held */
{
	bool was_closed = requests_max_cmd_sn(c) == c->exp_cmd_sn - 1;

	request_free(c, r);
	requests_solicit(c);
	requests_announce_window(c, was_closed);
}

PyObject *connection_command_new(struct connection *c, struct request *r)
{
	struct command *self = PyObject_New(struct command, connection_command_type);

	if (!self) {
		pthread_mutex_lock(&c->lock);
		discard_request(c, r);
		pthread_mutex_unlock(&c->lock);
		return NULL;
	}
	Py_INCREF((PyObject *)c);
	self->connection = c;
	self->request = r;
	self->discarded = false;
	self->lun = get_64(r->bhs + 8);
	self->tag = r->tag;
	self->cmd_sn = r->cmd_sn;
	self->expected = get_32(r->bhs + 20);
	self->bidirectional_read_length = r->bidirectional_read_length;
	self->task_attribute = r->bhs[1] & 7;
	self->data_error = (int)r->data_error;
	self->immediate = r->immediate;
	self->read = r->read;
	self->write = r->write;
	self->cdb = cdb_of(r);
	self->data_out = data_out_of(r);
	if (PyErr_Occurred()) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

void connection_discard_command(struct command *command)
{
	struct connection *c = command->connection;

	pthread_mutex_lock(&c->lock);
	if (command->request)
		discard_request(c, command->request);
	command->request = NULL;
	command->discarded = true;
	pthread_mutex_unlock(&c->lock);
	connection_wake(c);				/* what waits for its place or memory may go on */
}

static void command_dealloc(PyObject *object)
{
	struct command *self = (struct command *)object;
	PyTypeObject *type = Py_TYPE(object);

	if (self->request)
		connection_discard_command(self);
	Py_XDECREF(self->cdb);
	Py_XDECREF(self->data_out);
	Py_DECREF(self->connection);
	PyObject_Free(object);
	Py_DECREF(type);
}

static PyType_Slot command_slots[] = {
	{ Py_tp_doc, "One SCSI Command PDU with its Data-Out." },
	{ Py_tp_dealloc, (void *)command_dealloc },
	{ Py_tp_members, command_members },
	{ 0, NULL },
};

static PyType_Spec command_spec = {
	.name = "datamover.engine.ScsiCommand",
	.basicsize = sizeof(struct command),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = command_slots,
};

/* ---- Pdu --------------------------------------------------------------------------------------------------------- */

struct pdu {
	PyObject_HEAD
	PyObject *bhs, *data;
	unsigned int tag, cmd_sn;
	int opcode;
	char immediate;
};

static PyMemberDef pdu_members[] = {
	{ "bhs", T_OBJECT_EX, offsetof(struct pdu, bhs), READONLY, "the 48 bytes of the basic header segment" },
	{ "data", T_OBJECT_EX, offsetof(struct pdu, data), READONLY, "the data segment" },
	{ "opcode", T_INT, offsetof(struct pdu, opcode), READONLY, "without the immediate bit" },
	{ "immediate", T_BOOL, offsetof(struct pdu, immediate), READONLY, NULL },
	{ "initiator_task_tag", T_UINT, offsetof(struct pdu, tag), READONLY, NULL },
	{ "cmd_sn", T_UINT, offsetof(struct pdu, cmd_sn), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static void fill_pdu(struct pdu *self, const struct request *r)
{
	self->bhs = PyBytes_FromStringAndSize((const char *)r->bhs, BHS_BYTES);
	self->data = PyBytes_FromStringAndSize((const char *)r->data, (Py_ssize_t)r->data_length);
	self->tag = r->tag;
	self->cmd_sn = r->cmd_sn;
	self->opcode = r->bhs[0] & 0x3f;
	self->immediate = r->immediate;
}

/* A PDU that is not a SCSI command holds its place only until Python has it. */
PyObject *connection_pdu_new(struct connection *c, struct request *r)
{
	struct pdu *self = PyObject_New(struct pdu, pdu_type);

	if (self)
		fill_pdu(self, r);
	pthread_mutex_lock(&c->lock);
	request_free(c, r);
	pthread_mutex_unlock(&c->lock);
	if (self && PyErr_Occurred()) {
		Py_DECREF(self);
		return NULL;
	}
	return (PyObject *)self;
}

static void pdu_dealloc(PyObject *object)
{
	struct pdu *self = (struct pdu *)object;
	PyTypeObject *type = Py_TYPE(object);

	Py_XDECREF(self->bhs);
	Py_XDECREF(self->data);
	PyObject_Free(object);
	Py_DECREF(type);
}

static PyType_Slot pdu_slots[] = {
	{ Py_tp_doc, "A PDU of the initiator other than SCSI Command and Data-Out." },
	{ Py_tp_dealloc, (void *)pdu_dealloc },
	{ Py_tp_members, pdu_members },
	{ 0, NULL },
};

static PyType_Spec pdu_spec = {
	.name = "datamover.engine.Pdu",
	.basicsize = sizeof(struct pdu),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = pdu_slots,
};

int connection_add_object_types(PyObject *module)
{
	connection_command_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &command_spec, NULL);
	pdu_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pdu_spec, NULL);
	if (!connection_command_type || !pdu_type || PyModule_AddType(module, connection_command_type) < 0)
		return -1;
	return PyModule_AddType(module, pdu_type);
}
