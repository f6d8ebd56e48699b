/* The Python side of the iSCSI connection: Connection, ScsiCommand, Pdu. What the methods promise is in _engine.pyi. */
#include "connection.h"

#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static PyTypeObject *connection_type, *command_type, *pdu_type;
static PyObject *connection_closed, *protocol_error;

/* ---- ScsiCommand ----------------------------------------------------------------------------------------------------- */

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

static PyObject *command_new(struct connection *c, struct request *r)
{
	struct command *self = PyObject_New(struct command, command_type);

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

/* What of a queue of flushed output only Python can release. */
static void release_views(struct connection *c)
{
	struct payload *payload, *next;

	pthread_mutex_lock(&c->lock);
	payload = c->finished_views;
	c->finished_views = NULL;
	pthread_mutex_unlock(&c->lock);
	for (; payload; payload = next) {
		next = payload->next;
		PyBuffer_Release(&payload->view);
		free(payload);
	}
}

static bool on_receivers_thread(const struct connection *c)
{
	return c->has_receiver && pthread_equal(c->receiver, pthread_self());
}

/* After output was queued: other threads send at once, receive()'s own when a good deal has come together. GIL held. */
static bool send_soon(struct connection *c, bool now)
{
	bool open = true;

	if (now || !on_receivers_thread(c) || c->filling->bytes >= LIMIT_OUTPUT_COALESCE_BYTES) {
		Py_BEGIN_ALLOW_THREADS
		open = connection_flush(c);
		Py_END_ALLOW_THREADS
		release_views(c);
	}
	return open;
}

static void discard_command(struct command *command)
{
	struct connection *c = command->connection;
	bool queued;

	pthread_mutex_lock(&c->lock);
	if (command->request)
		discard_request(c, command->request);
	command->request = NULL;
	command->discarded = true;
	queued = c->filling->bytes;
	pthread_mutex_unlock(&c->lock);
	if (queued)
		send_soon(c, false);
}

static void command_dealloc(PyObject *object)
{
	struct command *self = (struct command *)object;
	PyTypeObject *type = Py_TYPE(object);

	if (self->request)
		discard_command(self);
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

/* ---- Pdu -------------------------------------------------------------------------------------------------------------- */

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
static PyObject *pdu_new(struct connection *c, struct request *r)
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

/* ---- making a connection ----------------------------------------------------------------------------------------------- */

/* Numbers as they come from Python, before they are known to fit. */
struct parameters {
	Py_ssize_t max_recv, max_send, first_burst, max_burst, outstanding_r2t, window, budget;
};

static bool in_range(const char *name, Py_ssize_t value, Py_ssize_t low, Py_ssize_t high)
{
	if (value >= low && value <= high)
		return true;
	PyErr_Format(PyExc_ValueError, "%s is %zd: it must be %zd to %zd", name, value, low, high);
	return false;
}

static bool check_parameters(const struct parameters *p, double send_timeout_seconds)
{
	const Py_ssize_t longest = (1 << 24) - 1;	/* RFC 7143 13.12 to 13.14, 13.17 */

	if (!(send_timeout_seconds > 0 && send_timeout_seconds <= 86400)) {
		PyErr_SetString(PyExc_ValueError, "send_timeout_seconds must be over 0 and at most 86400");
		return false;
	}
	return in_range("max_recv_data_segment_length", p->max_recv, 512, longest) &&
	       in_range("max_send_data_segment_length", p->max_send, 512, longest) &&
	       in_range("max_burst_length", p->max_burst, 512, longest) &&
	       in_range("first_burst_length", p->first_burst, 512, p->max_burst) &&
	       in_range("max_outstanding_r2t", p->outstanding_r2t, 1, 65535) &&
	       in_range("command_window", p->window, 1, LIMIT_COMMAND_WINDOW) &&
	       in_range("buffer_budget_bytes", p->budget, 1, PY_SSIZE_T_MAX / 2);
}

static void set_negotiated(struct negotiated *n, const struct parameters *p)
{
	n->max_recv_data_segment_length = (uint32_t)p->max_recv;
	n->max_send_data_segment_length = (uint32_t)p->max_send;
	n->first_burst_length = (uint32_t)p->first_burst;
	n->max_burst_length = (uint32_t)p->max_burst;
	n->max_outstanding_r2t = smaller((uint32_t)p->outstanding_r2t, LIMIT_OUTSTANDING_R2T);
	n->command_window = (uint32_t)p->window;
	n->buffer_budget = (size_t)p->budget;
}

/* Every place of the window may bring a first burst that nobody asked for, so the budget bounds the places. */
static void fit_window(struct negotiated *n)
{
	size_t places = n->buffer_budget / engine_block_size_for(n->first_burst_length);

	if (n->command_window > places)
		n->command_window = places ? (uint32_t)places : 1;
}

/* Blocking, so that a wait costs one system call; small responses leave at once (the peer waits for them). */
static bool set_up_socket(int descriptor, double send_timeout_seconds)
{
	struct timeval timeout = { .tv_sec = (time_t)send_timeout_seconds };
	int on = 1, flags = fcntl(descriptor, F_GETFL);

	timeout.tv_usec = (suseconds_t)((send_timeout_seconds - (double)timeout.tv_sec) * 1e6);
	if (!timeout.tv_sec && !timeout.tv_usec)
		timeout.tv_usec = 1;
	if (flags < 0 || fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		return false;
	}
	/* a Unix socket, as in tests, has no such option and needs none */
	setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return true;
}

static bool allocate(struct connection *c)
{
	c->input = malloc(LIMIT_INPUT_BYTES);
	c->filling = malloc(sizeof *c->filling);
	c->sending = malloc(sizeof *c->sending);
	if (!c->input || !c->filling || !c->sending || requests_init(c) < 0) {
		PyErr_NoMemory();
		return false;
	}
	c->filling->piece_count = c->filling->payload_count = c->sending->piece_count = c->sending->payload_count = 0;
	c->filling->bytes = c->filling->scratch_used = c->sending->bytes = c->sending->scratch_used = 0;
	return true;
}

static bool parse_arguments(PyObject *args, PyObject *keywords, struct connection *values)
{
	static char *names[] = {
		"descriptor", "pool", "stat_sn", "exp_cmd_sn", "header_digest", "data_digest",
		"max_recv_data_segment_length", "max_send_data_segment_length", "first_burst_length", "max_burst_length",
		"initial_r2t", "immediate_data", "max_outstanding_r2t", "command_window", "buffer_budget_bytes",
		"send_timeout_seconds", NULL,
	};
	struct negotiated *n = &values->negotiated;
	int header_digest, data_digest, initial_r2t, immediate_data;
	unsigned long stat_sn, exp_cmd_sn;
	struct parameters p;

	if (!PyArg_ParseTupleAndKeywords(
		    args, keywords, "iO$kkppnnnnppnnnd:Connection", names, &values->descriptor, &values->pool_object,
		    &stat_sn, &exp_cmd_sn, &header_digest, &data_digest, &p.max_recv, &p.max_send, &p.first_burst,
		    &p.max_burst, &initial_r2t, &immediate_data, &p.outstanding_r2t, &p.window, &p.budget,
		    &n->send_timeout_seconds))
		return false;
	values->stat_sn = (uint32_t)stat_sn;
	values->exp_cmd_sn = (uint32_t)exp_cmd_sn;
	n->header_digest = header_digest;
	n->data_digest = data_digest;
	n->initial_r2t = initial_r2t;
	n->immediate_data = immediate_data;
	values->pool = engine_buffer_pool(values->pool_object);
	if (!values->pool || !check_parameters(&p, n->send_timeout_seconds))
		return false;
	set_negotiated(n, &p);
	return true;
}

static PyObject *connection_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	struct connection values = { 0 }, *self;
	PyObject head;

	if (!parse_arguments(args, keywords, &values))
		return NULL;
	if (!set_up_socket(values.descriptor, values.negotiated.send_timeout_seconds))
		return NULL;
	self = PyObject_New(struct connection, type);
	if (!self)
		return NULL;
	fit_window(&values.negotiated);
	head = self->ob_base;
	*self = values;
	self->ob_base = head;
	self->descriptor = -1;				/* the caller's until all is well */
	self->receive_timeout_us = -2;
	self->next_target_transfer_tag = 1;
	Py_INCREF(self->pool_object);
	pthread_mutex_init(&self->lock, NULL);
	pthread_mutex_init(&self->send_lock, NULL);
	if (!allocate(self)) {
		Py_DECREF(self);
		return NULL;
	}
	self->descriptor = values.descriptor;
	return (PyObject *)self;
}

static void drop_output(struct connection *c, struct batch *batch)
{
	for (int i = 0; batch && i < batch->payload_count; i++)
		payload_drop(c, batch->payloads[i]);
	free(batch);
}

static void connection_dealloc(PyObject *object)
{
	struct connection *c = (struct connection *)object;
	PyTypeObject *type = Py_TYPE(object);

	if (c->descriptor >= 0)
		close(c->descriptor);
	requests_clear(c);
	drop_output(c, c->filling);
	drop_output(c, c->sending);
	release_views(c);
	free(c->input);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->send_lock);
	Py_DECREF(c->pool_object);
	PyObject_Free(object);
	Py_DECREF(type);
}

/* ---- receive() --------------------------------------------------------------------------------------------------------- */

static PyObject *raise_closed(struct connection *c)
{
	const char *why;

	pthread_mutex_lock(&c->lock);
	why = c->closed;
	pthread_mutex_unlock(&c->lock);
	PyErr_SetString(connection_closed, why);
	return NULL;
}

static bool timeout_from(PyObject *object, int64_t *timeout_us)
{
	double seconds;

	*timeout_us = -1;
	if (!object || object == Py_None)
		return true;
	seconds = PyFloat_AsDouble(object);
	if (seconds == -1.0 && PyErr_Occurred())
		return false;
	if (!(seconds >= 0 && seconds <= 1e9)) {
		PyErr_SetString(PyExc_ValueError, "timeout_seconds must be 0 to 1e9, or None");
		return false;
	}
	*timeout_us = (int64_t)ceil(seconds * 1e6);
	return true;
}

/* Takes positional and keyword arguments of a fast call apart, in the order of `names`; absent ones stay NULL. */
static bool collect(const char *const *names, PyObject *const *args, Py_ssize_t count, PyObject *keywords, PyObject **out)
{
	Py_ssize_t keyword_count = keywords ? PyTuple_Size(keywords) : 0, known = 0;

	while (names[known])
		known++;
	if (count > known) {
		PyErr_Format(PyExc_TypeError, "at most %zd arguments are wanted", known);
		return false;
	}
	for (Py_ssize_t i = 0; i < count; i++)
		out[i] = args[i];
	for (Py_ssize_t k = 0; k < keyword_count; k++) {
		PyObject *name = PyTuple_GetItem(keywords, k);
		Py_ssize_t i = 0;
		while (names[i] && PyUnicode_CompareWithASCIIString(name, names[i]))
			i++;
		if (!names[i] || out[i]) {
			PyErr_Format(PyExc_TypeError, "%s argument '%U'", names[i] ? "a second" : "an unknown", name);
			return false;
		}
		out[i] = args[count + k];
	}
	return true;
}

static enum outcome wait_for_request(struct connection *c, int64_t timeout_us, struct request **r)
{
	enum outcome outcome;

	do {
		Py_BEGIN_ALLOW_THREADS
		outcome = connection_next(c, timeout_us, r);
		Py_END_ALLOW_THREADS
		release_views(c);
	} while (outcome == OUTCOME_VIEWS || (outcome == OUTCOME_INTERRUPTED && PyErr_CheckSignals() == 0));
	return outcome;
}

static PyObject *receive(struct connection *c, int64_t timeout_us)
{
	struct request *r = NULL;

	switch (wait_for_request(c, timeout_us, &r)) {
	case OUTCOME_REQUEST:
		return r->kind == KIND_COMMAND ? command_new(c, r) : pdu_new(c, r);
	case OUTCOME_TIMEOUT:
		Py_RETURN_NONE;
	case OUTCOME_PROTOCOL_ERROR:
		PyErr_SetString(protocol_error, c->error);
		return NULL;
	case OUTCOME_CLOSED:
		return raise_closed(c);
	default:
		return NULL;				/* a signal handler raised */
	}
}

static PyObject *connection_receive(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
	static const char *const names[] = { "timeout_seconds", NULL };
	struct connection *c = (struct connection *)object;
	PyObject *timeout = NULL, *result;
	int64_t timeout_us;

	if (!collect(names, args, count, keywords, &timeout) || !timeout_from(timeout, &timeout_us))
		return NULL;
	if (c->receiving) {
		PyErr_SetString(PyExc_RuntimeError, "another thread is inside receive() of this connection");
		return NULL;
	}
	c->receiving = true;
	c->receiver = pthread_self();
	c->has_receiver = true;
	result = receive(c, timeout_us);
	c->receiving = false;
	return result;
}

/* ---- respond() and its like ------------------------------------------------------------------------------------------- */

static struct payload *new_payload(PyObject *object, Py_buffer *view)
{
	struct payload *payload = calloc(1, sizeof *payload);

	if (!payload) {
		PyErr_NoMemory();
		return NULL;
	}
	payload->references = 1;
	payload->data = view->buf;
	payload->block = engine_data_buffer_block(object);
	if (payload->block) {
		engine_block_retain(payload->block);
		PyBuffer_Release(view);
	} else {
		payload->view = *view;
	}
	return payload;
}

/* A buffer argument: short data stay in the view for copying, long ones become a payload to refer to. */
struct data_argument {
	Py_buffer view;
	bool viewed;
	struct payload *payload;
	const unsigned char *data;
	size_t length;
};

static bool open_data(struct data_argument *argument, PyObject *object)
{
	*argument = (struct data_argument){ 0 };
	if (!object || object == Py_None)
		return true;
	if (PyObject_GetBuffer(object, &argument->view, PyBUF_SIMPLE) < 0)
		return false;
	argument->viewed = true;
	argument->data = argument->view.buf;
	argument->length = (size_t)argument->view.len;
	if (argument->length <= LIMIT_OUTPUT_COPY_BYTES)
		return true;
	argument->payload = new_payload(object, &argument->view);
	argument->viewed = !argument->payload;
	if (!argument->payload)
		PyBuffer_Release(&argument->view);
	return argument->payload;
}

static void close_data(struct connection *c, struct data_argument *argument)
{
	if (argument->viewed)
		PyBuffer_Release(&argument->view);
	if (!argument->payload)
		return;
	pthread_mutex_lock(&c->lock);
	payload_drop(c, argument->payload);
	pthread_mutex_unlock(&c->lock);
	release_views(c);
}

/* The request behind a command that is to be answered, taken from it. NULL: there is none; *error says whether that is
 * the caller's mistake. */
static struct request *take_request(struct connection *c, struct command *command, bool *error)
{
	struct request *r;

	pthread_mutex_lock(&c->lock);
	r = command->request;
	command->request = NULL;
	*error = !r && !command->discarded;
	pthread_mutex_unlock(&c->lock);
	if (*error)
		PyErr_SetString(PyExc_ValueError, "the command was answered already");
	return r;
}

/* Makes the PDUs of an answer; with the GIL when they are few and short. */
static bool send_answer(struct connection *c, struct request *r, const struct answer *answer)
{
	bool queued = false, open;

	pthread_mutex_lock(&c->lock);
	open = !c->closed;
	if (!open || (!answer->payload && output_has_room(c, 4))) {
		output_answer(c, r, answer);
		queued = true;
	}
	pthread_mutex_unlock(&c->lock);
	if (!queued) {
		Py_BEGIN_ALLOW_THREADS
		pthread_mutex_lock(&c->lock);
		output_answer(c, r, answer);
		open = !c->closed;
		pthread_mutex_unlock(&c->lock);
		Py_END_ALLOW_THREADS
	}
	return open && send_soon(c, false);
}

static struct command *command_from(struct connection *c, PyObject *object)
{
	if (!object || Py_TYPE(object) != command_type) {
		PyErr_SetString(PyExc_TypeError, "a ScsiCommand is wanted");
		return NULL;
	}
	if (((struct command *)object)->connection != c) {
		PyErr_SetString(PyExc_ValueError, "the command is of another connection");
		return NULL;
	}
	return (struct command *)object;
}

static bool parse_status(PyObject *status, PyObject *data_length, struct answer *answer)
{
	long value;

	if (!status) {
		PyErr_SetString(PyExc_TypeError, "respond() wants a command and a status");
		return false;
	}
	value = PyLong_AsLong(status);
	if (PyErr_Occurred())
		return false;
	if (value < 0 || value > 255) {
		PyErr_SetString(PyExc_ValueError, "status must be 0 to 255");
		return false;
	}
	answer->status = (unsigned char)value;
	answer->wanted = data_length ? PyLong_AsLongLong(data_length) : -1;
	return !PyErr_Occurred();
}

static PyObject *respond(struct connection *c, struct command *command, struct answer *answer)
{
	bool error;
	struct request *r = take_request(c, command, &error);

	if (error)
		return NULL;
	if (r && !send_answer(c, r, answer))
		return raise_closed(c);
	Py_RETURN_NONE;
}

static PyObject *connection_respond(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
	static const char *const names[] = { "command", "status", "sense", "data_in", "data_length", NULL };
	struct connection *c = (struct connection *)object;
	PyObject *values[5] = { NULL }, *result = NULL;
	struct data_argument sense, data_in;
	struct answer answer;
	struct command *command;

	if (!collect(names, args, count, keywords, values))
		return NULL;
	command = command_from(c, values[0]);
	if (!command || !parse_status(values[1], values[4], &answer) || !open_data(&sense, values[2]))
		return NULL;
	if (sense.length > LIMIT_SENSE_BYTES)
		PyErr_Format(PyExc_ValueError, "sense has %zu bytes: at most %d", sense.length, LIMIT_SENSE_BYTES);
	else if (open_data(&data_in, values[3])) {
		answer.sense = sense.data;
		answer.sense_length = (uint32_t)sense.length;
		answer.payload = data_in.payload;
		answer.data = data_in.data;
		answer.data_length = data_in.length;
		result = respond(c, command, &answer);
		close_data(c, &data_in);
	}
	close_data(c, &sense);
	return result;
}

static PyObject *connection_discard(PyObject *object, PyObject *argument)
{
	struct command *command = command_from((struct connection *)object, argument);

	if (!command)
		return NULL;
	discard_command(command);
	Py_RETURN_NONE;
}

/* Queues a PDU of Python's; `lock` held, and let go while a full batch is sent. */
static bool queue_pdu(struct connection *c, unsigned char *bhs, const struct data_argument *data)
{
	while (!c->closed && !output_has_room(c, 1)) {
		pthread_mutex_unlock(&c->lock);
		connection_flush(c);
		pthread_mutex_lock(&c->lock);
	}
	if (c->closed)
		return false;
	/* 11.19.2: a NOP-In that asks for an answer, or wants none, carries the next StatSN and does not use it up. */
	bool own_ping = (bhs[0] & 0x3f) == NOP_IN && get_32(bhs + 16) == RESERVED_TAG;
	put_32(bhs + 24, own_ping ? c->stat_sn : output_take_stat_sn(c));
	output_pdu(c, bhs, data->data, (uint32_t)data->length, data->payload);
	return true;
}

static PyObject *send_pdu(struct connection *c, unsigned char *bhs, const struct data_argument *data)
{
	bool open;

	if (data->length > c->negotiated.max_send_data_segment_length)
		return PyErr_Format(PyExc_ValueError, "data has %zu bytes: the peer takes %u", data->length,
				    c->negotiated.max_send_data_segment_length);
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&c->lock);
	open = queue_pdu(c, bhs, data);
	pthread_mutex_unlock(&c->lock);
	Py_END_ALLOW_THREADS
	if (!open || !send_soon(c, false))
		return raise_closed(c);
	Py_RETURN_NONE;
}

static PyObject *connection_send_pdu(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
	static const char *const names[] = { "bhs", "data", NULL };
	struct connection *c = (struct connection *)object;
	PyObject *values[2] = { NULL }, *result = NULL;
	unsigned char bhs[BHS_BYTES];
	struct data_argument header, data;

	if (!collect(names, args, count, keywords, values) || !open_data(&header, values[0]))
		return NULL;
	if (header.length != BHS_BYTES) {
		PyErr_Format(PyExc_ValueError, "bhs has %zu bytes: it must have 48", header.length);
	} else if (open_data(&data, values[1])) {
		memcpy(bhs, header.data, BHS_BYTES);
		result = send_pdu(c, bhs, &data);
		close_data(c, &data);
	}
	close_data(c, &header);
	return result;
}

static PyObject *connection_flush_method(PyObject *object, PyObject *unused)
{
	struct connection *c = (struct connection *)object;

	(void)unused;
	if (!send_soon(c, true))
		return raise_closed(c);
	Py_RETURN_NONE;
}

static PyObject *connection_shutdown(PyObject *object, PyObject *unused)
{
	struct connection *c = (struct connection *)object;

	(void)unused;
	pthread_mutex_lock(&c->lock);
	connection_close(c, "shutdown() was called");
	pthread_mutex_unlock(&c->lock);
	Py_RETURN_NONE;
}

/* ---- task management ---------------------------------------------------------------------------------------------------- */

static bool number_argument(PyObject *object, bool *given, uint64_t *value)
{
	*given = object && object != Py_None;
	*value = *given ? PyLong_AsUnsignedLongLong(object) : 0;
	return !PyErr_Occurred();
}

static PyObject *list_of(const uint32_t *tags, size_t count)
{
	PyObject *list = PyList_New((Py_ssize_t)count);

	for (size_t i = 0; list && i < count; i++) {
		PyObject *tag = PyLong_FromUnsignedLong(tags[i]);
		if (!tag) {
			Py_DECREF(list);
			return NULL;
		}
		PyList_SetItem(list, (Py_ssize_t)i, tag);
	}
	return list;
}

static PyObject *abort_matching(struct connection *c, const struct abort_filter *filter)
{
	uint32_t *tags = malloc(requests_slot_count(c) * sizeof *tags);
	PyObject *list;
	size_t count;
	bool queued;

	if (!tags)
		return PyErr_NoMemory();
	pthread_mutex_lock(&c->lock);
	count = requests_abort(c, filter, tags);
	queued = c->filling->bytes;
	pthread_mutex_unlock(&c->lock);
	list = list_of(tags, count);
	free(tags);
	if (queued)
		send_soon(c, false);
	return list;
}

static PyObject *connection_abort(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
	static const char *const names[] = { "initiator_task_tag", "lun", "before_cmd_sn", NULL };
	PyObject *values[3] = { NULL };
	struct abort_filter filter;
	uint64_t tag, before;

	if (count) {
		PyErr_SetString(PyExc_TypeError, "abort() takes keyword arguments only");
		return NULL;
	}
	if (!collect(names, args, count, keywords, values) || !number_argument(values[0], &filter.by_tag, &tag) ||
	    !number_argument(values[1], &filter.by_lun, &filter.lun) ||
	    !number_argument(values[2], &filter.by_cmd_sn, &before))
		return NULL;
	filter.tag = (uint32_t)tag;
	filter.before_cmd_sn = (uint32_t)before;
	return abort_matching((struct connection *)object, &filter);
}

static PyObject *connection_plug(PyObject *object, PyObject *argument)
{
	struct connection *c = (struct connection *)object;
	unsigned long cmd_sn = PyLong_AsUnsignedLong(argument);
	bool plugged;

	if (PyErr_Occurred())
		return NULL;
	pthread_mutex_lock(&c->lock);
	plugged = requests_plug(c, (uint32_t)cmd_sn);
	requests_solicit(c);
	pthread_mutex_unlock(&c->lock);
	return PyBool_FromLong(plugged);
}

/* ---- the type ------------------------------------------------------------------------------------------------------------ */

#define FAST METH_FASTCALL | METH_KEYWORDS

static PyMethodDef connection_methods[] = {
	{ "receive", (PyCFunction)(void (*)(void))connection_receive, FAST, "receive(timeout_seconds=None): the next request." },
	{ "respond", (PyCFunction)(void (*)(void))connection_respond, FAST,
	  "respond(command, status, sense=b'', data_in=None, data_length=-1): ends a command." },
	{ "discard", connection_discard, METH_O, "discard(command): no response; its place is free again." },
	{ "abort", (PyCFunction)(void (*)(void))connection_abort, FAST,
	  "abort(*, initiator_task_tag=None, lun=None, before_cmd_sn=None): drops commands not handed out." },
	{ "plug", connection_plug, METH_O, "plug(cmd_sn): counts a CmdSN that never came as received." },
	{ "send_pdu", (PyCFunction)(void (*)(void))connection_send_pdu, FAST, "send_pdu(bhs, data=b''): sends a PDU." },
	{ "flush", connection_flush_method, METH_NOARGS, "flush(): sends now what is queued." },
	{ "shutdown", connection_shutdown, METH_NOARGS, "shutdown(): ends the connection from any thread." },
	{ NULL, NULL, 0, NULL },
};

static PyMemberDef connection_members[] = {
	{ "commands", T_ULONGLONG, offsetof(struct connection, commands), READONLY, "SCSI commands handed out" },
	{ "bytes_in", T_ULONGLONG, offsetof(struct connection, bytes_in), READONLY, "bytes read from the socket" },
	{ "bytes_out", T_ULONGLONG, offsetof(struct connection, bytes_out), READONLY, "bytes written to the socket" },
	{ "pdus_in", T_ULONGLONG, offsetof(struct connection, pdus_in), READONLY, NULL },
	{ "pdus_out", T_ULONGLONG, offsetof(struct connection, pdus_out), READONLY, NULL },
	{ NULL, 0, 0, 0, NULL },
};

static PyType_Slot connection_slots[] = {
	{ Py_tp_doc, "The full feature phase of one iSCSI connection (RFC 7143)." },
	{ Py_tp_new, (void *)connection_new },
	{ Py_tp_dealloc, (void *)connection_dealloc },
	{ Py_tp_methods, connection_methods },
	{ Py_tp_members, connection_members },
	{ 0, NULL },
};

static PyType_Spec connection_spec = {
	.name = "datamover.engine.Connection",
	.basicsize = sizeof(struct connection),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = connection_slots,
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
	PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);

	return type && PyModule_AddType(module, type) == 0 ? type : NULL;
}

static PyObject *add_exception(PyObject *module, const char *name, const char *full_name, const char *doc)
{
	PyObject *exception = PyErr_NewExceptionWithDoc(full_name, doc, NULL, NULL);

	return exception && PyModule_AddObjectRef(module, name, exception) == 0 ? exception : NULL;
}

static int add_data_errors(PyObject *module)
{
	static const struct { const char *name; enum data_error value; } constants[] = {
		{ "DATA_ERROR_NONE", DATA_OK }, { "DATA_ERROR_DIGEST", DATA_DIGEST },
		{ "DATA_ERROR_SEQUENCE", DATA_SEQUENCE }, { "DATA_ERROR_UNEXPECTED", DATA_UNEXPECTED },
		{ "DATA_ERROR_AMOUNT", DATA_AMOUNT }, { "DATA_ERROR_NO_BUFFER", DATA_NO_BUFFER },
		{ "DATA_ERROR_TOO_LARGE", DATA_TOO_LARGE },
	};

	for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
		if (PyModule_AddIntConstant(module, constants[i].name, constants[i].value) < 0)
			return -1;
	return 0;
}

int register_connection(PyObject *module)
{
	connection_closed = add_exception(module, "ConnectionClosed", "datamover.engine.ConnectionClosed",
					  "The connection is over; str() says why.");
	protocol_error = add_exception(module, "ProtocolError", "datamover.engine.ProtocolError",
				       "The peer broke RFC 7143 beyond what a Reject can mend.");
	connection_type = add_type(module, &connection_spec);
	command_type = add_type(module, &command_spec);
	pdu_type = add_type(module, &pdu_spec);
	if (!connection_closed || !protocol_error || !connection_type || !command_type || !pdu_type)
		return -1;
	return add_data_errors(module);
}
