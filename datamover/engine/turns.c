/* Two threads, each of which takes a stretch of items into a buffer of its own and gives it away itself: what it took is
 * in its own processor's cache then, and while it gives, the other takes. Handing each buffer to another thread would
 * use both processors too, and would move every byte from one cache to the other.
 */
#include "turns.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

/* How long a thread looks whether its turn has come, giving its processor away between looks, before it sleeps: some of
 * the other's turns. Being woken takes nearly as long as a turn, and would be added to every one. */
#define LOOK_NANOSECONDS 1000000u

struct run {
	const struct turns *turns;
	pthread_mutex_t taking;         /* held by who takes */
	uint64_t next;                  /* the first item that nobody has taken; with `taking` */
	pthread_mutex_t lock;
	pthread_cond_t moved;
	atomic_uint_fast64_t turn;      /* the first item of the stretch that may be given now */
	uint64_t given;                 /* whose turn it is changes it */
	bool over;                      /* nothing more is given; whose turn it is changes it */
};

static uint64_t nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void lock_taking(struct run *run)
{
	uint64_t until = nanoseconds() + LOOK_NANOSECONDS;

	while (nanoseconds() < until) {
		if (!pthread_mutex_trylock(&run->taking))
			return;
		sched_yield();
	}
	pthread_mutex_lock(&run->taking);
}

static bool is_turn(struct run *run, uint64_t first)
{
	return atomic_load_explicit(&run->turn, memory_order_acquire) == first;
}

static void await_turn(struct run *run, uint64_t first)
{
	uint64_t until = nanoseconds() + LOOK_NANOSECONDS;

	while (!is_turn(run, first) && nanoseconds() < until)
		sched_yield();
	if (is_turn(run, first))
		return;
	pthread_mutex_lock(&run->lock);
	while (!is_turn(run, first))
		pthread_cond_wait(&run->moved, &run->lock);
	pthread_mutex_unlock(&run->lock);
}

static void pass_turn(struct run *run, uint64_t next)
{
	pthread_mutex_lock(&run->lock);
	atomic_store_explicit(&run->turn, next, memory_order_release);
	pthread_cond_signal(&run->moved);
	pthread_mutex_unlock(&run->lock);
}

/* Takes the next stretch; 0: there is none. *wanted: how many items it should have had. */
static uint32_t take_next(struct run *run, uint64_t *first, uint32_t *wanted, unsigned char *buffer)
{
	const struct turns *turns = run->turns;
	uint32_t taken = 0;

	lock_taking(run);
	*first = run->next;
	*wanted = turns->count - run->next < turns->at_once ? (uint32_t)(turns->count - run->next) : turns->at_once;
	if (*wanted)
		taken = turns->take(turns->context, *first, *wanted, buffer);
	run->next = taken < *wanted ? turns->count : *first + taken;
	pthread_mutex_unlock(&run->taking);
	return taken;
}

static void take_turns(struct run *run, unsigned char *buffer)
{
	const struct turns *turns = run->turns;
	uint32_t taken, wanted, given;
	uint64_t first;

	while ((taken = take_next(run, &first, &wanted, buffer))) {
		turns->check(turns->context, first, taken, buffer);
		await_turn(run, first);
		given = run->over ? 0 : turns->give(turns->context, first, taken, buffer);
		run->given += given;
		if (given < taken && !run->over) {
			run->over = true;
			pthread_mutex_lock(&run->taking);
			run->next = turns->count;
			pthread_mutex_unlock(&run->taking);
		}
		pass_turn(run, first + taken);
	}
}

struct helper {
	struct run *run;
	unsigned char *buffer;
};

static void *help(void *argument)
{
	const struct helper *helper = argument;

	pthread_setname_np(pthread_self(), "turns"); /* for ps, top and gdb */
	take_turns(helper->run, helper->buffer);
	return NULL;
}

/* False: there is no thread to be had, and one thread does everything. */
static bool start_thread(pthread_t *thread, struct helper *helper)
{
	sigset_t all, before;
	bool started;

	sigfillset(&all); /* signals are for threads that can be interrupted: Python's */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	started = !pthread_create(thread, NULL, help, helper);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return started;
}

uint64_t turns_run(const struct turns *turns, unsigned char *buffers[2])
{
	struct run run = {
		.turns = turns,
		.taking = PTHREAD_MUTEX_INITIALIZER,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.moved = PTHREAD_COND_INITIALIZER,
	};
	struct helper helper = { &run, buffers[1] };
	pthread_t thread;
	bool helped = turns->count > turns->at_once && start_thread(&thread, &helper);

	take_turns(&run, buffers[0]);
	if (helped)
		pthread_join(thread, NULL);
	return run.given;
}
