/* ChunkSaver: what a file holds is saved before it is changed, without the GIL and without waiting for where it goes.
 *
 * Two threads for each object. One reads a chunk of the file into a buffer, and then whoever waited may go on; the other
 * brings the buffers to the store, each into the slot that it was given. A store that is slow lets the buffers run out,
 * and only then does anybody wait for it. Whatever hangs, the store or the file, keeps these threads; save() comes back
 * after its timeout.
 *
 * Threads and object share the memory below, and the last of them frees it: an object may die while a thread hangs.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engine.h"

#define LIMIT_CHUNK_BYTES (1u << 20)
#define LIMIT_BUFFERS 4096u

enum outcome { ZEROS, STORED, FULL, FAILED, CLOSED, READ_ERROR, TIMED_OUT };
enum buffer_state { FREE, QUEUED, WRITING };

struct buffer {
	struct buffer *next;		/* among the free, or in the queue */
	unsigned char *memory;
	size_t length;
	int64_t slot;
	enum buffer_state state;
};

struct request {
	struct request *next;
	int fd;
	off_t offset;
	size_t length;
	int64_t slot;			/* negative: there is none; only zeros can be saved */
	enum outcome outcome;
	int error;
	bool begun, done, gone;		/* gone: nobody waits any more, and the thread frees it */
	pthread_cond_t answered;
};

struct saver {
	pthread_mutex_t lock;
	pthread_cond_t to_read, to_write;
	unsigned users;			/* the object and its threads */
	int store, failure;		/* failure: errno of the store */
	bool closed, has_object;
	size_t chunk_bytes, count;
	unsigned char *memory;		/* of all buffers; mapped, as a heap would not give so much back */
	struct buffer *buffers, *free, *queue, **queue_end;
	struct request *requests, **requests_end, *in_hand;
};

struct saver_object {
	PyObject_HEAD
	struct saver *saver;
};

/* ---- with the lock held ------------------------------------------------------------------------------------------ */

static void free_buffers(struct saver *saver)
{
	if (saver->memory)
		munmap(saver->memory, saver->count * saver->chunk_bytes);
	free(saver->buffers);
	saver->memory = NULL;
	saver->buffers = saver->free = NULL;
	saver->count = 0;
}

static void leave(struct saver *saver) /* releases the lock */
{
	bool last = --saver->users == 0;

	if (saver->closed && saver->has_object && saver->users == 1)
		free_buffers(saver); /* the object may be kept for long, and the threads are gone */
	pthread_mutex_unlock(&saver->lock);
	if (!last)
		return;
	free_buffers(saver);
	pthread_cond_destroy(&saver->to_read);
	pthread_cond_destroy(&saver->to_write);
	pthread_mutex_destroy(&saver->lock);
	free(saver);
}

static void free_request(struct request *request)
{
	pthread_cond_destroy(&request->answered);
	free(request);
}

static void answer(struct request *request, enum outcome outcome, int error)
{
	if (request->gone) {
		free_request(request);
		return;
	}
	request->outcome = outcome;
	request->error = error;
	request->done = true;
	pthread_cond_signal(&request->answered);
}

static struct request *first_request(struct saver *saver)
{
	struct request *request = saver->requests;

	saver->requests = request->next;
	if (!saver->requests)
		saver->requests_end = &saver->requests;
	return request;
}

static void answer_all(struct saver *saver, enum outcome outcome)
{
	while (saver->requests)
		answer(first_request(saver), outcome, 0);
}

static void drop_request(struct saver *saver, struct request *unwanted)
{
	struct request **link = &saver->requests;

	while (*link != unwanted)
		link = &(*link)->next;
	*link = unwanted->next;
	if (!*link)
		saver->requests_end = link;
}

static void give_buffer_back(struct saver *saver, struct buffer *buffer)
{
	buffer->state = FREE;
	buffer->next = saver->free;
	saver->free = buffer;
	pthread_cond_signal(&saver->to_read);
}

static void enqueue(struct saver *saver, struct buffer *buffer)
{
	buffer->state = QUEUED;
	buffer->next = NULL;
	*saver->queue_end = buffer;
	saver->queue_end = &buffer->next;
	pthread_cond_signal(&saver->to_write);
}

static void drop_queued(struct saver *saver, struct buffer *unwanted)
{
	struct buffer **link = &saver->queue;

	while (*link != unwanted)
		link = &(*link)->next;
	*link = unwanted->next;
	if (!*link)
		saver->queue_end = link;
}

/* The buffer that holds a slot, or NULL: the store has it. */
static struct buffer *find(struct saver *saver, int64_t slot)
{
	for (size_t i = 0; i < saver->count; i++)
		if (saver->buffers[i].state != FREE && saver->buffers[i].slot == slot)
			return &saver->buffers[i];
	return NULL;
}

/* ---- the threads ------------------------------------------------------------------------------------------------- */

/* 0 or errno; EIO where the file ends before. */
static int read_whole(int fd, unsigned char *to, size_t length, off_t offset)
{
	while (length) {
		ssize_t count = pread(fd, to, length, offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? errno : EIO;
		to += count;
		offset += count;
		length -= (size_t)count;
	}
	return 0;
}

static int write_whole(int fd, const unsigned char *from, size_t length, off_t offset)
{
	while (length) {
		ssize_t count = pwrite(fd, from, length, offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return count < 0 ? errno : EIO;
		from += count;
		offset += count;
		length -= (size_t)count;
	}
	return 0;
}

static bool all_zeros(const unsigned char *memory, size_t length)
{
	return !memory[0] && !memcmp(memory, memory + 1, length - 1);
}

static void *read_chunks(void *shared)
{
	struct saver *saver = shared;

	pthread_mutex_lock(&saver->lock);
	for (;;) {
		struct request *request;
		struct buffer *buffer;
		enum outcome outcome;
		int error;

		while (!saver->closed && !(saver->requests && saver->free))
			pthread_cond_wait(&saver->to_read, &saver->lock);
		if (saver->closed)
			break;
		request = first_request(saver);
		request->begun = true;
		saver->in_hand = request;
		buffer = saver->free;
		saver->free = buffer->next;
		pthread_mutex_unlock(&saver->lock);
		error = read_whole(request->fd, buffer->memory, request->length, request->offset);
		if (error)
			outcome = READ_ERROR;
		else if (all_zeros(buffer->memory, request->length))
			outcome = ZEROS;
		else
			outcome = request->slot < 0 ? FULL : STORED;
		pthread_mutex_lock(&saver->lock);
		saver->in_hand = NULL;
		if (outcome == STORED && saver->failure)
			outcome = FAILED;
		if (outcome == STORED && !request->gone) {
			buffer->slot = request->slot;
			buffer->length = request->length;
			enqueue(saver, buffer);
		} else {
			give_buffer_back(saver, buffer);
		}
		answer(request, outcome, error);
	}
	leave(saver);
	return NULL;
}

static void *write_chunks(void *shared)
{
	struct saver *saver = shared;

	pthread_mutex_lock(&saver->lock);
	for (;;) {
		struct buffer *buffer;
		int error;

		while (!saver->closed && (saver->failure || !saver->queue))
			pthread_cond_wait(&saver->to_write, &saver->lock);
		if (saver->closed)
			break;
		buffer = saver->queue;
		saver->queue = buffer->next;
		if (!saver->queue)
			saver->queue_end = &saver->queue;
		buffer->state = WRITING;
		pthread_mutex_unlock(&saver->lock);
		error = write_whole(saver->store, buffer->memory, buffer->length,
				    (off_t)(buffer->slot * (int64_t)saver->chunk_bytes));
		pthread_mutex_lock(&saver->lock);
		if (error) {	/* what it holds can still be read */
			saver->failure = error;
			enqueue(saver, buffer);
			answer_all(saver, FAILED);
		} else {
			give_buffer_back(saver, buffer);
		}
	}
	pthread_mutex_unlock(&saver->lock);
	close(saver->store); /* may take as long as the store likes */
	pthread_mutex_lock(&saver->lock);
	saver->store = -1;
	leave(saver);
	return NULL;
}

static bool start_thread(struct saver *saver, void *(*run)(void *), const char *name)
{
	sigset_t all, before;
	pthread_t thread;
	bool started;

	saver->users++;
	sigfillset(&all); /* signals are for threads that can be interrupted: Python's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = !pthread_create(&thread, NULL, run, saver);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (started) {
		pthread_setname_np(thread, name); /* for ps, top and gdb; 15 characters at most */
		pthread_detach(thread);
	} else
		saver->users--;
	return started;
}

static void close_saver(struct saver *saver)
{
	saver->closed = true;
	answer_all(saver, CLOSED);
	if (saver->in_hand)
		pthread_cond_signal(&saver->in_hand->answered);
	pthread_cond_broadcast(&saver->to_read);
	pthread_cond_broadcast(&saver->to_write);
}

/* ---- save() ------------------------------------------------------------------------------------------------------ */

static struct timespec time_in(double seconds)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	time.tv_sec += (time_t)seconds;
	time.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
	if (time.tv_nsec >= 1000000000L) {
		time.tv_nsec -= 1000000000L;
		time.tv_sec++;
	}
	return time;
}

static enum outcome save(struct saver *saver, struct request *request, double seconds, int *error)
{
	struct timespec until = time_in(seconds);
	enum outcome outcome;
	bool late = false;

	pthread_mutex_lock(&saver->lock);
	if (saver->closed || saver->failure) {
		outcome = saver->closed ? CLOSED : FAILED;
		pthread_mutex_unlock(&saver->lock);
		free_request(request);
		return outcome;
	}
	*saver->requests_end = request;
	saver->requests_end = &request->next;
	pthread_cond_signal(&saver->to_read);
	while (!request->done && !saver->closed && !late)
		late = pthread_cond_clockwait(&request->answered, &saver->lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT;
	outcome = request->done ? request->outcome : saver->closed ? CLOSED : TIMED_OUT;
	*error = request->error;
	if (!request->done && request->begun) {
		request->gone = true;
	} else {
		if (!request->done)
			drop_request(saver, request);
		free_request(request);
	}
	pthread_mutex_unlock(&saver->lock);
	return outcome;
}

static struct saver *saver_of(PyObject *self)
{
	return ((struct saver_object *)self)->saver;
}

static PyObject *py_save(PyObject *self, PyObject *args)
{
	struct saver *saver = saver_of(self);
	struct request *request;
	enum outcome outcome;
	long long offset, slot;
	Py_ssize_t length;
	double seconds;
	int fd, error = 0;

	if (!PyArg_ParseTuple(args, "iLnLd:save", &fd, &offset, &length, &slot, &seconds))
		return NULL;
	if (offset < 0 || length <= 0 || (size_t)length > saver->chunk_bytes || !(seconds >= 0 && seconds < 1e6)) {
		PyErr_SetString(PyExc_ValueError, "no chunk, or no time to save it in");
		return NULL;
	}
	request = calloc(1, sizeof *request);
	if (!request)
		return PyErr_NoMemory();
	request->fd = fd;
	request->offset = (off_t)offset;
	request->length = (size_t)length;
	request->slot = slot;
	pthread_cond_init(&request->answered, NULL);
	Py_BEGIN_ALLOW_THREADS
	outcome = save(saver, request, seconds, &error);
	Py_END_ALLOW_THREADS
	if (outcome == TIMED_OUT) {
		PyErr_SetNone(PyExc_TimeoutError);
		return NULL;
	}
	if (outcome == READ_ERROR) {
		errno = error;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	return PyLong_FromLong(outcome);
}

/* ---- the object -------------------------------------------------------------------------------------------------- */

static PyObject *py_read_into(PyObject *self, PyObject *args)
{
	struct saver *saver = saver_of(self);
	struct buffer *held;
	long long slot, offset;
	Py_buffer into;
	bool fits = true;

	if (!PyArg_ParseTuple(args, "w*LL:read_into", &into, &slot, &offset))
		return NULL;
	Py_BEGIN_ALLOW_THREADS
	pthread_mutex_lock(&saver->lock);
	held = find(saver, slot);
	if (held) {
		fits = offset >= 0 && (size_t)offset <= held->length && (size_t)into.len <= held->length - (size_t)offset;
		if (fits)
			memcpy(into.buf, held->memory + offset, (size_t)into.len);
	}
	pthread_mutex_unlock(&saver->lock);
	Py_END_ALLOW_THREADS
	PyBuffer_Release(&into);
	if (!fits) {
		PyErr_SetString(PyExc_ValueError, "the slot does not hold so much");
		return NULL;
	}
	return PyBool_FromLong(held != NULL);
}

static PyObject *py_forget(PyObject *self, PyObject *args)
{
	struct saver *saver = saver_of(self);
	struct buffer *held;
	long long slot;
	bool busy;

	if (!PyArg_ParseTuple(args, "L:forget", &slot))
		return NULL;
	pthread_mutex_lock(&saver->lock);
	held = find(saver, slot);
	busy = held && held->state == WRITING;
	if (held && !busy) {
		drop_queued(saver, held);
		give_buffer_back(saver, held);
	}
	pthread_mutex_unlock(&saver->lock);
	return PyBool_FromLong(!busy);
}

static PyObject *py_close(PyObject *self, PyObject *unused)
{
	struct saver *saver = saver_of(self);

	(void)unused;
	pthread_mutex_lock(&saver->lock);
	close_saver(saver);
	pthread_mutex_unlock(&saver->lock);
	return Py_NewRef(Py_None);
}

static PyObject *get_failure(PyObject *self, void *unused)
{
	struct saver *saver = saver_of(self);
	int failure;

	(void)unused;
	pthread_mutex_lock(&saver->lock);
	failure = saver->failure;
	pthread_mutex_unlock(&saver->lock);
	return PyLong_FromLong(failure);
}

static PyObject *get_threads(PyObject *self, void *unused)
{
	struct saver *saver = saver_of(self);
	unsigned threads;

	(void)unused;
	pthread_mutex_lock(&saver->lock);
	threads = saver->users - 1;
	pthread_mutex_unlock(&saver->lock);
	return PyLong_FromUnsignedLong(threads);
}

static bool make_buffers(struct saver *saver, size_t count)
{
	void *memory = mmap(NULL, count * saver->chunk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return false;
	saver->memory = memory;
	saver->count = count;
	saver->buffers = calloc(count, sizeof *saver->buffers);
	if (!saver->buffers)
		return false;
	for (size_t i = 0; i < count; i++) {
		struct buffer *buffer = &saver->buffers[i];

		buffer->memory = saver->memory + i * saver->chunk_bytes;
		buffer->next = saver->free;
		saver->free = buffer;
	}
	return true;
}

static struct saver *new_saver(size_t chunk_bytes, size_t count)
{
	struct saver *saver = calloc(1, sizeof *saver);

	if (!saver)
		return NULL;
	pthread_mutex_init(&saver->lock, NULL);
	pthread_cond_init(&saver->to_read, NULL);
	pthread_cond_init(&saver->to_write, NULL);
	saver->users = 1;
	saver->store = -1;
	saver->chunk_bytes = chunk_bytes;
	saver->queue_end = &saver->queue;
	saver->requests_end = &saver->requests;
	if (make_buffers(saver, count))
		return saver;
	pthread_mutex_lock(&saver->lock);
	leave(saver);
	return NULL;
}

static void abandon(struct saver *saver)
{
	pthread_mutex_lock(&saver->lock);
	close_saver(saver);
	saver->has_object = false;
	leave(saver);
}

static PyObject *saver_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "", "", "", NULL };
	struct saver_object *object;
	struct saver *saver;
	Py_ssize_t chunk_bytes, count;
	int store;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "inn:ChunkSaver", names, &store, &chunk_bytes, &count))
		return NULL;
	if (chunk_bytes <= 0 || chunk_bytes % LIMIT_SMALLEST_BUFFER_BYTES || chunk_bytes > (Py_ssize_t)LIMIT_CHUNK_BYTES ||
	    count <= 0 || count > (Py_ssize_t)LIMIT_BUFFERS) {
		PyErr_Format(PyExc_ValueError, "%zd buffers of %zd bytes", count, chunk_bytes);
		return NULL;
	}
	saver = new_saver((size_t)chunk_bytes, (size_t)count);
	if (!saver)
		return PyErr_NoMemory();
	saver->store = fcntl(store, F_DUPFD_CLOEXEC, 0);
	if (saver->store < 0) {
		abandon(saver);
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	if (!start_thread(saver, write_chunks, "snapshot write")) {
		close(saver->store);
		abandon(saver);
		PyErr_SetString(PyExc_OSError, "no thread could be started");
		return NULL;
	}
	object = start_thread(saver, read_chunks, "snapshot read") ? (struct saver_object *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0)
						 : NULL;
	if (!object) {
		abandon(saver); /* the writing thread closes the store */
		if (!PyErr_Occurred())
			PyErr_SetString(PyExc_OSError, "no thread could be started");
		return NULL;
	}
	pthread_mutex_lock(&saver->lock);
	saver->has_object = true;
	pthread_mutex_unlock(&saver->lock);
	object->saver = saver;
	return (PyObject *)object;
}

static void saver_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	if (saver_of(self))
		abandon(saver_of(self));
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

static PyMethodDef methods[] = {
	{ "save", py_save, METH_VARARGS, "save(descriptor, offset, length, slot, timeout_seconds, /): an outcome." },
	{ "read_into", py_read_into, METH_VARARGS, "read_into(buffer, slot, offset, /): whether it is in memory." },
	{ "forget", py_forget, METH_VARARGS, "forget(slot, /): False while it is being written." },
	{ "close", py_close, METH_NOARGS, "close(): the threads end when they come out of what they do." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef attributes[] = {
	{ "failure", get_failure, NULL, "errno of the store, or 0.", NULL },
	{ "threads", get_threads, NULL, "How many of its threads have not ended.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot slots[] = {
	{ Py_tp_new, (void *)saver_new },
	{ Py_tp_dealloc, (void *)saver_dealloc },
	{ Py_tp_methods, methods },
	{ Py_tp_getset, attributes },
	{ 0, NULL },
};

static PyType_Spec spec = {
	.name = "datamover.engine.ChunkSaver",
	.basicsize = sizeof(struct saver_object),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = slots,
};

int register_saver(PyObject *module)
{
	static const struct { const char *name; enum outcome value; } constants[] = {
		{ "SAVER_ZEROS", ZEROS }, { "SAVER_STORED", STORED }, { "SAVER_FULL", FULL },
		{ "SAVER_FAILED", FAILED }, { "SAVER_CLOSED", CLOSED },
	};
	PyObject *type = PyType_FromSpec(&spec);
	int result;

	if (!type)
		return -1;
	result = PyModule_AddObjectRef(module, "ChunkSaver", type);
	Py_DECREF(type);
	for (size_t i = 0; !result && i < sizeof constants / sizeof *constants; i++)
		result = PyModule_AddIntConstant(module, constants[i].name, constants[i].value);
	return result;
}
