/* Bounded, reused memory for payloads: BufferPool and DataBuffer.
 *
 * A block keeps its memory when it is released, so that a stream of 256 KiB buffers touches the same warm pages again
 * instead of asking the kernel for zeroed ones. Blocks are counted by themselves, not by Python's counts, so that the
 * connection can hold and release them without the GIL; a pool lives until its last block is back.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "engine.h"

#define SIZE_CLASSES 13			/* 4 KiB, 8 KiB ... 16 MiB */
_Static_assert(LIMIT_SMALLEST_BUFFER_BYTES << (SIZE_CLASSES - 1) == LIMIT_TRANSFER_BYTES, "classes end at the limit");

struct buffer_block {
	struct buffer_block *next;	/* in the pool's store */
	struct buffer_pool *pool;
	unsigned char *memory;
	int size_class;
	atomic_uint references;
};

struct buffer_pool {
	pthread_mutex_t lock;
	size_t capacity, in_use, stored;	/* in_use + stored <= capacity, but for what is being allocated */
	size_t users;				/* the Python object and every block in use */
	struct buffer_block *store[SIZE_CLASSES];
};

PyObject *engine_pool_exhausted;
static PyTypeObject *pool_type, *buffer_type;

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static int class_for(size_t length)
{
	int size_class = 0;

	while ((size_t)LIMIT_SMALLEST_BUFFER_BYTES << size_class < length)
		size_class++;
	return size_class;
}

static size_t class_size(int size_class)
{
	return (size_t)LIMIT_SMALLEST_BUFFER_BYTES << size_class;
}

size_t engine_block_size_for(size_t length)
{
	return class_size(class_for(length));
}

static void free_block(struct buffer_block *block)
{
	free(block->memory);
	free(block);
}

static struct buffer_block *new_block(struct buffer_pool *pool, int size_class)
{
	struct buffer_block *block = calloc(1, sizeof *block);

	if (!block)
		return NULL;
	block->pool = pool;
	block->size_class = size_class;
	block->memory = aligned_alloc(LIMIT_SMALLEST_BUFFER_BYTES, class_size(size_class));
	if (!block->memory) {
		free(block);
		return NULL;
	}
	return block;
}

static struct buffer_block *take_stored(struct buffer_pool *pool, int size_class)
{
	struct buffer_block *block = pool->store[size_class];

	if (block) {
		pool->store[size_class] = block->next;
		pool->stored -= class_size(size_class);
	}
	return block;
}

/* Gives stored memory of other sizes back to the system until `size` more bytes fit under the bound. */
static void make_room(struct buffer_pool *pool, size_t size)
{
	for (int i = SIZE_CLASSES - 1; i >= 0; i--)
		while (pool->store[i] && pool->in_use + pool->stored + size > pool->capacity)
			free_block(take_stored(pool, i));
}

static void drop_pool_user(struct buffer_pool *pool)	/* the lock is held, and released here */
{
	bool last = --pool->users == 0;

	pthread_mutex_unlock(&pool->lock);
	if (!last)
		return;
	for (int i = 0; i < SIZE_CLASSES; i++)
		while (pool->store[i])
			free_block(take_stored(pool, i));
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

bool engine_pool_grants(struct buffer_pool *pool, size_t held, size_t length)
{
	size_t size = engine_block_size_for(length), left;

	pthread_mutex_lock(&pool->lock);
	left = pool->capacity - pool->in_use;
	pthread_mutex_unlock(&pool->lock);
	return size <= left && held + size <= (left - size) / 2;
}

bool engine_pool_has_plenty(struct buffer_pool *pool, size_t length)
{
	size_t size = engine_block_size_for(length), used;

	pthread_mutex_lock(&pool->lock);
	used = pool->in_use;
	pthread_mutex_unlock(&pool->lock);
	return used + size <= pool->capacity - pool->capacity / 4;
}

struct buffer_block *engine_block_acquire(struct buffer_pool *pool, size_t length)
{
	int size_class = class_for(length);
	size_t size = class_size(size_class);
	struct buffer_block *block;

	pthread_mutex_lock(&pool->lock);
	if (size > pool->capacity - pool->in_use) {
		pthread_mutex_unlock(&pool->lock);
		return NULL;
	}
	block = take_stored(pool, size_class);
	if (!block) {
		make_room(pool, size);
		block = new_block(pool, size_class);
	}
	if (block) {
		pool->in_use += size;
		pool->users++;
		block->references = 1;
	}
	pthread_mutex_unlock(&pool->lock);
	return block;
}

void engine_block_retain(struct buffer_block *block)
{
	atomic_fetch_add_explicit(&block->references, 1, memory_order_relaxed);
}

void engine_block_release(struct buffer_block *block)
{
	struct buffer_pool *pool = block->pool;
	size_t size = class_size(block->size_class);

	if (atomic_fetch_sub_explicit(&block->references, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_lock(&pool->lock);
	block->next = pool->store[block->size_class];
	pool->store[block->size_class] = block;
	pool->stored += size;
	pool->in_use -= size;
	drop_pool_user(pool);
}

unsigned char *engine_block_memory(struct buffer_block *block)
{
	return block->memory;
}

/* ---- DataBuffer -------------------------------------------------------------------------------------------------- */

struct data_buffer {
	PyObject_HEAD
	struct buffer_block *block;
	Py_ssize_t length;
};

PyObject *engine_data_buffer_new(struct buffer_block *block, size_t length)
{
	struct data_buffer *self = PyObject_New(struct data_buffer, buffer_type);

	if (!self) {
		engine_block_release(block);
		return NULL;
	}
	self->block = block;
	self->length = (Py_ssize_t)length;
	return (PyObject *)self;
}

struct buffer_block *engine_data_buffer_block(PyObject *object)
{
	return Py_TYPE(object) == buffer_type ? ((struct data_buffer *)object)->block : NULL;
}

static void data_buffer_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);

	engine_block_release(((struct data_buffer *)object)->block);
	PyObject_Free(object);
	Py_DECREF(type);
}

static Py_ssize_t data_buffer_length(PyObject *object)
{
	return ((struct data_buffer *)object)->length;
}

static int data_buffer_get(PyObject *object, Py_buffer *view, int flags)
{
	struct data_buffer *self = (struct data_buffer *)object;

	return PyBuffer_FillInfo(view, object, self->block->memory, self->length, 0, flags);
}

static PyType_Slot data_buffer_slots[] = {
	{ Py_tp_doc, "Engine memory: a writable buffer that goes back to its pool when the object dies." },
	{ Py_tp_dealloc, (void *)data_buffer_dealloc },
	{ Py_sq_length, (void *)data_buffer_length },
	{ Py_bf_getbuffer, (void *)data_buffer_get },
	{ 0, NULL },
};

static PyType_Spec data_buffer_spec = {
	.name = "datamover.engine.DataBuffer",
	.basicsize = sizeof(struct data_buffer),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = data_buffer_slots,
};

/* ---- BufferPool -------------------------------------------------------------------------------------------------- */

struct pool_object {
	PyObject_HEAD
	struct buffer_pool *pool;
};

struct buffer_pool *engine_buffer_pool(PyObject *object)
{
	if (Py_TYPE(object) != pool_type) {
		PyErr_SetString(PyExc_TypeError, "a BufferPool is wanted");
		return NULL;
	}
	return ((struct pool_object *)object)->pool;
}

static PyObject *pool_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
	static char *names[] = { "capacity_bytes", NULL };
	Py_ssize_t capacity;
	struct pool_object *self;

	if (!PyArg_ParseTupleAndKeywords(args, keywords, "n:BufferPool", names, &capacity))
		return NULL;
	if (capacity <= 0)
		return PyErr_Format(PyExc_ValueError, "capacity_bytes is %zd: it must be positive", capacity);
	self = PyObject_New(struct pool_object, type);
	if (!self)
		return NULL;
	self->pool = calloc(1, sizeof *self->pool);
	if (!self->pool) {
		Py_DECREF(self);
		return PyErr_NoMemory();
	}
	pthread_mutex_init(&self->pool->lock, NULL);
	self->pool->capacity = (size_t)capacity;
	self->pool->users = 1;
	return (PyObject *)self;
}

static void pool_dealloc(PyObject *object)
{
	PyTypeObject *type = Py_TYPE(object);
	struct buffer_pool *pool = ((struct pool_object *)object)->pool;

	if (pool) {
		pthread_mutex_lock(&pool->lock);
		drop_pool_user(pool);
	}
	PyObject_Free(object);
	Py_DECREF(type);
}

static PyObject *pool_acquire(PyObject *object, PyObject *argument)
{
	struct buffer_pool *pool = ((struct pool_object *)object)->pool;
	Py_ssize_t length = PyLong_AsSsize_t(argument);
	struct buffer_block *block;

	if (length == -1 && PyErr_Occurred())
		return NULL;
	if (length < 0 || length > (Py_ssize_t)LIMIT_TRANSFER_BYTES)
		return PyErr_Format(PyExc_ValueError, "length is %zd: a buffer has 0 to %u bytes", length,
				    LIMIT_TRANSFER_BYTES);
	block = engine_block_acquire(pool, (size_t)length);
	if (!block)
		return PyErr_Format(engine_pool_exhausted, "no room for %zd bytes: %zu of %zu bytes are in use", length,
				    pool->in_use, pool->capacity);
	return engine_data_buffer_new(block, (size_t)length);
}

static PyObject *pool_capacity(PyObject *object, void *closure)
{
	(void)closure;
	return PyLong_FromSize_t(((struct pool_object *)object)->pool->capacity);
}

static PyObject *pool_in_use(PyObject *object, void *closure)
{
	struct buffer_pool *pool = ((struct pool_object *)object)->pool;
	size_t in_use;

	(void)closure;
	pthread_mutex_lock(&pool->lock);
	in_use = pool->in_use;
	pthread_mutex_unlock(&pool->lock);
	return PyLong_FromSize_t(in_use);
}

static PyMethodDef pool_methods[] = {
	{ "acquire", pool_acquire, METH_O, "acquire(length): a DataBuffer; PoolExhausted when the bound is reached." },
	{ NULL, NULL, 0, NULL },
};

static PyGetSetDef pool_attributes[] = {
	{ "capacity_bytes", pool_capacity, NULL, "the bound", NULL },
	{ "in_use_bytes", pool_in_use, NULL, "what buffers hold now, in whole size classes", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyType_Slot pool_slots[] = {
	{ Py_tp_doc, "BufferPool(capacity_bytes): a bounded store of reused memory." },
	{ Py_tp_new, (void *)pool_new },
	{ Py_tp_dealloc, (void *)pool_dealloc },
	{ Py_tp_methods, pool_methods },
	{ Py_tp_getset, pool_attributes },
	{ 0, NULL },
};

static PyType_Spec pool_spec = {
	.name = "datamover.engine.BufferPool",
	.basicsize = sizeof(struct pool_object),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = pool_slots,
};

int register_buffer(PyObject *module)
{
	engine_pool_exhausted = PyErr_NewExceptionWithDoc("datamover.engine.PoolExhausted",
							  "The bound of a BufferPool is reached.", NULL, NULL);
	pool_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pool_spec, NULL);
	buffer_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &data_buffer_spec, NULL);
	if (!engine_pool_exhausted || !pool_type || !buffer_type)
		return -1;
	if (PyModule_AddObjectRef(module, "PoolExhausted", engine_pool_exhausted) < 0 ||
	    PyModule_AddType(module, pool_type) < 0 || PyModule_AddType(module, buffer_type) < 0)
		return -1;
	return PyModule_AddIntConstant(module, "LIMIT_TRANSFER_BYTES", LIMIT_TRANSFER_BYTES);
}
