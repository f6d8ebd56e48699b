/* The Connection object: how one is made and ends. Its methods are in connection_methods.c. */
#include "connection/objects.h"
#include "connection/output.h"
#include "connection/requests.h"

#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- making a connection ----------------------------------------------------------------------------------------- */

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

static bool is_timeout(const char *name, double seconds)
{
	if (seconds > 0 && seconds <= 86400)
		return true;
	PyErr_Format(PyExc_ValueError, "%s must be over 0 and at most 86400", name);
	return false;
}

static bool check_parameters(const struct parameters *p, const struct negotiated *n)
{
	const Py_ssize_t longest = (1 << 24) - 1;	/* RFC 7143 13.12 to 13.14, 13.17 */

	if (!is_timeout("send_timeout_seconds", n->send_timeout_seconds) ||
	    !is_timeout("data_timeout_seconds", n->data_timeout_seconds))
		return false;
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

/* Blocking, so that sending waits by itself; small responses leave at once (the peer waits for them). */
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

bool connection_init(struct connection *c)
{
	pthread_mutex_init(&c->lock, NULL);
	c->owner = pthread_self();
	c->next_target_transfer_tag = 1;
	c->heard_at_us = monotonic_us();
	c->wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (c->wake_descriptor < 0)
		return false;
	c->input = malloc(LIMIT_INPUT_BYTES);
	c->filling = calloc(1, sizeof *c->filling);
	c->sending = calloc(1, sizeof *c->sending);
	return c->input && c->filling && c->sending && requests_init(c) == 0;
}

void connection_clear(struct connection *c)
{
	output_clear(c);
	requests_clear(c);
	free(c->input);
	if (c->wake_descriptor >= 0)
		close(c->wake_descriptor);
	pthread_mutex_destroy(&c->lock);
}

void connection_close(struct connection *c, const char *why)
{
	if (c->closed)
		return;
	c->closed = why;
	c->settled = !requests_any(c);
	c->settled_stat_sn = c->stat_sn;
	c->settled_cmd_sn = c->exp_cmd_sn;
	shutdown(c->descriptor, SHUT_RDWR);		/* wakes an owner that waits for the socket */
}

void connection_wake(struct connection *c)
{
	const uint64_t one = 1;

	if (atomic_exchange(&c->owner_state, OWNER_AWAKE) != OWNER_ASLEEP)
		return;
	while (write(c->wake_descriptor, &one, sizeof one) < 0 && errno == EINTR)
		;
}

static bool parse_arguments(PyObject *args, PyObject *keywords, struct connection *values)
{
	static char *names[] = {
		"descriptor", "pool", "stat_sn", "exp_cmd_sn", "header_digest", "data_digest",
		"max_recv_data_segment_length", "max_send_data_segment_length", "first_burst_length",
		"max_burst_length", "initial_r2t", "immediate_data", "max_outstanding_r2t", "command_window",
		"buffer_budget_bytes", "send_timeout_seconds", "data_timeout_seconds", "discovery", NULL,
	};
	struct negotiated *n = &values->negotiated;
	int header_digest, data_digest, initial_r2t, immediate_data, discovery;
	unsigned long stat_sn, exp_cmd_sn;
	struct parameters p;

	if (!PyArg_ParseTupleAndKeywords(
		    args, keywords, "iO$kkppnnnnppnnnddp:Connection", names, &values->descriptor, &values->pool_object,
		    &stat_sn, &exp_cmd_sn, &header_digest, &data_digest, &p.max_recv, &p.max_send, &p.first_burst,
		    &p.max_burst, &initial_r2t, &immediate_data, &p.outstanding_r2t, &p.window, &p.budget,
		    &n->send_timeout_seconds, &n->data_timeout_seconds, &discovery))
		return false;
	values->stat_sn = (uint32_t)stat_sn;
	values->exp_cmd_sn = (uint32_t)exp_cmd_sn;
	n->discovery = discovery;
	n->header_digest = header_digest;
	n->data_digest = data_digest;
	n->initial_r2t = initial_r2t;
	n->immediate_data = immediate_data;
	values->pool = engine_buffer_pool(values->pool_object);
	if (!values->pool || !check_parameters(&p, n))
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
	Py_INCREF(self->pool_object);
	errno = 0;
	if (!connection_init(self)) {
		if (self->wake_descriptor < 0)
			PyErr_SetFromErrno(PyExc_OSError);
		else
			PyErr_NoMemory();
		Py_DECREF(self);
		return NULL;
	}
	self->descriptor = values.descriptor;
	return (PyObject *)self;
}

static void connection_dealloc(PyObject *object)
{
	struct connection *c = (struct connection *)object;
	PyTypeObject *type = Py_TYPE(object);

	if (c->descriptor >= 0)
		close(c->descriptor);
	output_clear(c);
	connection_release_views(c);
	connection_clear(c);
	Py_DECREF(c->pool_object);
	PyObject_Free(object);
	Py_DECREF(type);
}

/* ---- the type ---------------------------------------------------------------------------------------------------- */

static PyMemberDef connection_members[] = {
	{ "commands", T_ULONGLONG, offsetof(struct connection, commands), READONLY, "SCSI commands handed out" },
	{ "bytes_in", T_ULONGLONG, offsetof(struct connection, bytes_in), READONLY, "bytes read from the socket" },
	{ "bytes_out", T_ULONGLONG, offsetof(struct connection, bytes_out), READONLY, "bytes written to the socket" },
	{ "pdus_in", T_ULONGLONG, offsetof(struct connection, pdus_in), READONLY, NULL },
	{ "pdus_out", T_ULONGLONG, offsetof(struct connection, pdus_out), READONLY, NULL },
	{ "heard_at_microseconds", T_LONGLONG, offsetof(struct connection, heard_at_us), READONLY, "of the last byte" },
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
	PyTypeObject *type;

	connection_closed_error = add_exception(module, "ConnectionClosed", "datamover.engine.ConnectionClosed",
					  "The connection is over; str() says why.");
	connection_protocol_error = add_exception(module, "ProtocolError", "datamover.engine.ProtocolError",
				       "The peer broke RFC 7143 beyond what a Reject can mend.");
	type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &connection_spec, NULL);
	if (!connection_closed_error || !connection_protocol_error || !type || PyModule_AddType(module, type) < 0)
		return -1;
	Py_DECREF(type);				/* the module and its objects hold it */
	if (connection_add_object_types(module) < 0)
		return -1;
	return add_data_errors(module);
}
