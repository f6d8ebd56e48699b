/* Early writeback, in a thread of its own: a filemark behind gigabytes then finds most of them on the disk already.
 *
 * What was written is left alone for a moment first, so that a burst runs at the speed of memory, as it does without any
 * of this; only a stream that lasts longer shares the machine with the disk. A thread of its own because
 * sync_file_range() makes its caller wait while the disk's queue is full.
 *
 * Nothing here promises anything. A request that finds the queue full is refused, and comes again with more.
 */
#include "segment/storage.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define DELAY_NANOSECONDS 700000000L
#define REQUESTS_MAX 32u

struct request {
	int fd;
	uint64_t offset, length;
	struct timespec due;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* a request has come, or the one in hand is done */
static struct request requests[REQUESTS_MAX];            /* a ring, the oldest first */
static unsigned first, waiting;
static int in_hand = -1;                                  /* the descriptor that the thread is busy with */
static bool running;

/* With the lock held: the next request when its time has come. */
static struct request wait_for_request(void)
{
	struct request request;

	for (;;) {
		while (!waiting)
			pthread_cond_wait(&changed, &lock);
		request = requests[first];
		if (pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &request.due) != ETIMEDOUT)
			continue;
		/* It may have been forgotten in the meantime. */
		if (waiting && requests[first].fd == request.fd && requests[first].offset == request.offset)
			break;
	}
	first = (first + 1) % REQUESTS_MAX;
	waiting--;
	return request;
}

static void *serve(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&lock);
	for (;;) {
		struct request request = wait_for_request();

		in_hand = request.fd;
		pthread_mutex_unlock(&lock);
		/* Errors stay with the pages, and the next fdatasync of the file reports them. */
		(void)sync_file_range(request.fd, (off_t)request.offset, (off_t)request.length, SYNC_FILE_RANGE_WRITE);
		pthread_mutex_lock(&lock);
		in_hand = -1;
		pthread_cond_broadcast(&changed);
	}
	return NULL;
}

/* The child of a fork has no thread, and the requests are its parent's. */
static void begin_anew(void)
{
	pthread_mutex_init(&lock, NULL);
	pthread_cond_init(&changed, NULL);
	waiting = 0;
	in_hand = -1;
	running = false;
}

/* With the lock held. */
static bool ensure_thread(void)
{
	static bool registered;
	sigset_t all, before;
	pthread_t thread;

	if (running)
		return true;
	if (!registered && pthread_atfork(NULL, NULL, begin_anew))
		return false;
	registered = true;
	sigfillset(&all); /* signals are for threads that can be interrupted: Python's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	running = !pthread_create(&thread, NULL, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (running) {
		pthread_setname_np(thread, "writeback"); /* for ps, top and gdb; 15 characters at most */
		pthread_detach(thread);
	}
	return running;
}

static struct timespec due_time(void)
{
	struct timespec due;

	clock_gettime(CLOCK_MONOTONIC, &due);
	due.tv_nsec += DELAY_NANOSECONDS;
	if (due.tv_nsec >= 1000000000L) {
		due.tv_nsec -= 1000000000L;
		due.tv_sec++;
	}
	return due;
}

bool writeback_start(const struct storage_file *file, uint64_t offset, uint64_t length)
{
	bool taken = false;

	pthread_mutex_lock(&lock);
	if (waiting < REQUESTS_MAX && ensure_thread()) {
		requests[(first + waiting++) % REQUESTS_MAX] = (struct request){ file->fd, offset, length, due_time() };
		if (waiting == 1)
			pthread_cond_broadcast(&changed);
		taken = true;
	}
	pthread_mutex_unlock(&lock);
	return taken;
}

void writeback_forget(const struct storage_file *file)
{
	unsigned kept = 0;

	pthread_mutex_lock(&lock);
	for (unsigned i = 0; i < waiting; i++)
		if (requests[(first + i) % REQUESTS_MAX].fd != file->fd)
			requests[(first + kept++) % REQUESTS_MAX] = requests[(first + i) % REQUESTS_MAX];
	waiting = kept;
	while (in_hand == file->fd)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}
