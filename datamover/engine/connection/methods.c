/* The methods of Connection that Python calls; what they promise is in _engine.pyi. */
#include "connection/input.h"
#include "connection/objects.h"
#include "connection/output.h"
#include "connection/requests.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

PyObject *connection_closed_error, *connection_protocol_error;

/* ---- shared by the methods --------------------------------------------------------------------------------------- */

/* What of a queue of flushed output only Python can release. */
void connection_release_views(struct connection *c)
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

static bool on_owners_thread(const struct connection *c)
{
	return pthread_equal(c->owner, pthread_self());
}

static bool much_is_queued(struct connection *c)
{
	size_t queued;

	pthread_mutex_lock(&c->lock);
	queued = c->filling->bytes;
	pthread_mutex_unlock(&c->lock);
	return queued >= LIMIT_OUTPUT_COALESCE_BYTES;
}

/* Sends what is queued. On the owner's thread, GIL held. */
static bool send_now(struct connection *c)
{
	bool open;

	c->occupied = true;
	Py_BEGIN_ALLOW_THREADS
	open = connection_flush(c);
	Py_END_ALLOW_THREADS
	c->occupied = false;
	connection_release_views(c);
	return open;
}

/* After the owner queued output: receive() sends it, or we do when a good deal has come together. */
static bool send_soon(struct connection *c)
{
	return !much_is_queued(c) || send_now(c);
}

static PyObject *raise_closed(struct connection *c)
{
	const char *why;

	pthread_mutex_lock(&c->lock);
	why = c->closed;
	pthread_mutex_unlock(&c->lock);
	PyErr_SetString(connection_closed_error, why);
	return NULL;
}

/* Takes positional and keyword arguments of a fast call apart, in the order of `names`; absent ones stay NULL. */
static bool collect(const char *const *names, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
		    PyObject **out)
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

/* ---- receive() --------------------------------------------------------------------------------------------------- */

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

static enum outcome wait_for_request(struct connection *c, int64_t timeout_us, struct request **r)
{
	enum outcome outcome;

	do {
		Py_BEGIN_ALLOW_THREADS
		outcome = connection_next(c, timeout_us, r);
		Py_END_ALLOW_THREADS
		connection_release_views(c);
	} while (outcome == OUTCOME_VIEWS || (outcome == OUTCOME_INTERRUPTED && PyErr_CheckSignals() == 0));
	return outcome;
}

static PyObject *receive(struct connection *c, int64_t timeout_us)
{
	struct request *r = NULL;

	switch (wait_for_request(c, timeout_us, &r)) {
	case OUTCOME_REQUEST:
		return r->kind == KIND_COMMAND ? connection_command_new(c, r) : connection_pdu_new(c, r);
	case OUTCOME_TIMEOUT:
		Py_RETURN_NONE;
	case OUTCOME_PROTOCOL_ERROR:
		PyErr_SetString(connection_protocol_error, c->error);
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
	if (c->occupied) {
		PyErr_SetString(PyExc_RuntimeError, "another thread is inside receive() of this connection");
		return NULL;
	}
	c->occupied = true;
	c->owner = pthread_self();
	result = receive(c, timeout_us);
	c->occupied = false;
	return result;
}

/* ---- respond() and its like -------------------------------------------------------------------------------------- */

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
	connection_release_views(c);
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

/* Leaves an answer to the owner. False, with no error set: the connection is closed. */
static bool defer_answer(struct connection *c, struct request *r, const struct answer *answer)
{
	struct deferred_answer *deferred = deferred_answer_new(r, answer);
	bool open;

	pthread_mutex_lock(&c->lock);
	open = !c->closed && deferred;
	if (open)
		output_defer(c, deferred);
	else
		request_free(c, r);
	pthread_mutex_unlock(&c->lock);
	if (open)
		connection_wake(c);
	else if (deferred)
		free(deferred);
	else
		PyErr_NoMemory();
	return open;
}

/* Makes the PDUs of an answer, on the owner's thread; with the GIL when they are few and short. */
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
		c->occupied = true;
		Py_BEGIN_ALLOW_THREADS
		pthread_mutex_lock(&c->lock);
		output_answer(c, r, answer);
		open = !c->closed;
		pthread_mutex_unlock(&c->lock);
		Py_END_ALLOW_THREADS
		c->occupied = false;
	}
	return open && send_soon(c);
}

static struct command *command_from(struct connection *c, PyObject *object)
{
	if (!object || Py_TYPE(object) != connection_command_type) {
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
	if (r && !(on_owners_thread(c) ? send_answer : defer_answer)(c, r, answer))
		return PyErr_Occurred() ? NULL : raise_closed(c);
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
	connection_discard_command(command);
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

	if (!on_owners_thread(c)) {
		PyErr_SetString(PyExc_RuntimeError, "only the thread of receive() sends PDUs");
		return NULL;
	}
	if (data->length > c->negotiated.max_send_data_segment_length)
		return PyErr_Format(PyExc_ValueError, "data has %zu bytes: the peer takes %u", data->length,
				    c->negotiated.max_send_data_segment_length);
	c->occupied = true;
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&c->lock);
	open = queue_pdu(c, bhs, data);
	pthread_mutex_unlock(&c->lock);
	Py_END_ALLOW_THREADS
	c->occupied = false;
	if (!open || !send_soon(c))
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

/* Read with the GIL or with `lock`, so written with both. */
static PyObject *connection_set_max_send(PyObject *object, PyObject *argument)
{
	struct connection *c = (struct connection *)object;
	unsigned long length = PyLong_AsUnsignedLong(argument);

	if (PyErr_Occurred())
		return NULL;
	if (length < 512 || length > 0xffffff)
		return PyErr_Format(PyExc_ValueError, "max_send_data_segment_length is %lu: RFC 7143 allows 512 to 16777215",
				    length);
	pthread_mutex_lock(&c->lock);
	c->negotiated.max_send_data_segment_length = (uint32_t)length;
	pthread_mutex_unlock(&c->lock);
	Py_RETURN_NONE;
}

static PyObject *connection_flush_method(PyObject *object, PyObject *unused)
{
	struct connection *c = (struct connection *)object;

	(void)unused;
	if (!on_owners_thread(c)) {
		connection_wake(c);
		Py_RETURN_NONE;
	}
	pthread_mutex_lock(&c->lock);
	if (c->filling->bytes == 0 || output_has_room(c, 4))
		output_deferred_answers(c);
	pthread_mutex_unlock(&c->lock);
	if (!send_now(c))
		return raise_closed(c);
	Py_RETURN_NONE;
}

static PyObject *connection_wake_method(PyObject *object, PyObject *unused)
{
	struct connection *c = (struct connection *)object;

	(void)unused;
	pthread_mutex_lock(&c->lock);
	c->called = true;
	pthread_mutex_unlock(&c->lock);
	connection_wake(c);
	Py_RETURN_NONE;
}

/* Data-In memory; what other threads have answered and the peer has not read yet counts against the connection. */
static PyObject *connection_acquire(PyObject *object, PyObject *argument)
{
	struct connection *c = (struct connection *)object;
	Py_ssize_t length = PyLong_AsSsize_t(argument);
	struct buffer_block *block = NULL;
	size_t held;

	if (length == -1 && PyErr_Occurred())
		return NULL;
	if (length < 0 || (size_t)length > LIMIT_TRANSFER_BYTES)
		return PyErr_Format(PyExc_ValueError, "%zd bytes: a buffer has 0 to %u", length, LIMIT_TRANSFER_BYTES);
	pthread_mutex_lock(&c->lock);
	held = c->deferred_bytes;
	pthread_mutex_unlock(&c->lock);
	if (!held || (held + (size_t)length <= c->negotiated.buffer_budget &&
		      engine_pool_grants(c->pool, held, (size_t)length)))
		block = engine_block_acquire(c->pool, (size_t)length);
	if (!block) {
		PyErr_SetString(engine_pool_exhausted, "no memory for Data-In: the pool or this connection's share is used up");
		return NULL;
	}
	return engine_data_buffer_new(block, (size_t)length);
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

/* What connection_close() found, for Python: (StatSN, CmdSN), or None. */
static PyObject *connection_settled(PyObject *object, PyObject *unused)
{
	struct connection *c = (struct connection *)object;
	uint32_t stat_sn, cmd_sn;
	bool settled;

	(void)unused;
	pthread_mutex_lock(&c->lock);
	settled = c->closed && c->settled;
	stat_sn = c->settled_stat_sn;
	cmd_sn = c->settled_cmd_sn;
	pthread_mutex_unlock(&c->lock);
	if (!settled)
		Py_RETURN_NONE;
	return Py_BuildValue("(kk)", (unsigned long)stat_sn, (unsigned long)cmd_sn);
}

/* ---- task management --------------------------------------------------------------------------------------------- */

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

	if (!tags)
		return PyErr_NoMemory();
	pthread_mutex_lock(&c->lock);
	count = requests_abort(c, filter, tags);
	pthread_mutex_unlock(&c->lock);
	connection_wake(c);				/* what stood behind them may go on */
	list = list_of(tags, count);
	free(tags);
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
	connection_wake(c);
	return PyBool_FromLong(plugged);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

#define FAST METH_FASTCALL | METH_KEYWORDS

PyMethodDef connection_methods[] = {
	{ "receive", (PyCFunction)(void (*)(void))connection_receive, FAST,
	  "receive(timeout_seconds=None): the next request." },
	{ "respond", (PyCFunction)(void (*)(void))connection_respond, FAST,
	  "respond(command, status, sense=b'', data_in=None, data_length=-1): ends a command." },
	{ "discard", connection_discard, METH_O, "discard(command): no response; its place is free again." },
	{ "abort", (PyCFunction)(void (*)(void))connection_abort, FAST,
	  "abort(*, initiator_task_tag=None, lun=None, before_cmd_sn=None): drops commands not handed out." },
	{ "plug", connection_plug, METH_O, "plug(cmd_sn): counts a CmdSN that never came as received." },
	{ "send_pdu", (PyCFunction)(void (*)(void))connection_send_pdu, FAST, "send_pdu(bhs, data=b''): sends a PDU." },
	{ "set_max_send_data_segment_length", connection_set_max_send, METH_O,
	  "set_max_send_data_segment_length(length): the peer declared another one (13.12)." },
	{ "flush", connection_flush_method, METH_NOARGS, "flush(): sends now what is queued." },
	{ "acquire", connection_acquire, METH_O, "acquire(length): memory for Data-In, from the connection's share." },
	{ "wake", connection_wake_method, METH_NOARGS, "wake(): receive() returns None soon, from any thread." },
	{ "settled", connection_settled, METH_NOARGS, "settled(): the StatSN and CmdSN that a closed connection left." },
	{ "shutdown", connection_shutdown, METH_NOARGS, "shutdown(): ends the connection from any thread." },
	{ NULL, NULL, 0, NULL },
};
