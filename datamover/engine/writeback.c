/* Early writeback in a thread of its own: so that a filemark behind gigabytes finds most of them on disk already, without
 * making the writer wait, which sync_file_range() does when the disk's queue is full.
 *
 * Nothing here promises anything. A request that finds the queue full is refused, and comes again with more.
 */
#include "segment.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define REQUESTS_MAX 16u

struct request {
	int fd; /* a duplicate: the file may be closed before its turn comes */
	uint64_t offset, length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived = PTHREAD_COND_INITIALIZER;
static struct request requests[REQUESTS_MAX];
static unsigned first, waiting;
static bool running;

static void *serve(void *unused)
{
	(void)unused;
	for (;;) {
		struct request request;

		pthread_mutex_lock(&lock);
		while (!waiting)
			pthread_cond_wait(&arrived, &lock);
		request = requests[first];
		first = (first + 1) % REQUESTS_MAX;
		waiting--;
		pthread_mutex_unlock(&lock);
		/* Errors stay with the pages, and the next fdatasync of the file reports them. */
		(void)sync_file_range(request.fd, (off_t)request.offset, (off_t)request.length, SYNC_FILE_RANGE_WRITE);
		close(request.fd);
	}
	return NULL;
}

/* The child of a fork has no thread and nobody's requests. */
static void begin_anew(void)
{
	pthread_mutex_init(&lock, NULL);
	pthread_cond_init(&arrived, NULL);
	for (; waiting; waiting--, first = (first + 1) % REQUESTS_MAX)
		close(requests[first].fd);
	running = false;
}

/* With the lock held. */
static bool ensure_thread(void)
{
	static bool registered;
	pthread_t thread;

	if (running)
		return true;
	if (!registered && pthread_atfork(NULL, NULL, begin_anew))
		return false;
	registered = true;
	if (pthread_create(&thread, NULL, serve, NULL))
		return false;
	pthread_detach(thread);
	running = true;
	return true;
}

bool writeback_start(const struct storage_file *file, uint64_t offset, uint64_t length)
{
	struct request request = { .offset = offset, .length = length };
	bool taken = false;

	pthread_mutex_lock(&lock);
	if (waiting < REQUESTS_MAX && ensure_thread() && (request.fd = fcntl(file->fd, F_DUPFD_CLOEXEC, 0)) >= 0) {
		requests[(first + waiting++) % REQUESTS_MAX] = request;
		pthread_cond_signal(&arrived);
		taken = true;
	}
	pthread_mutex_unlock(&lock);
	return taken;
}
