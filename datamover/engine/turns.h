/* Bringing items from one place to another by two threads that take turns. */
#ifndef TAPEBAY_TURNS_H
#define TAPEBAY_TURNS_H

#include "engine.h"

/* What is brought. take() and give() are each called for one stretch of items after another, in order, never for two at
 * once; check() for any of them at any time between. take() and give() return how many they did: where that is fewer
 * than `count`, nothing behind them is taken or given, and why is their context's business. */
struct turns {
	uint64_t count;        /* items in all */
	uint32_t at_once;      /* items that a buffer holds */
	void *context;
	uint32_t (*take)(void *context, uint64_t first, uint32_t count, unsigned char *buffer);
	void (*check)(void *context, uint64_t first, uint32_t count, const unsigned char *buffer);
	uint32_t (*give)(void *context, uint64_t first, uint32_t count, const unsigned char *buffer);
};

/* Brings the items; returns how many were given. Needs no GIL. */
uint64_t turns_run(const struct turns *turns, unsigned char *buffers[2]);

#endif
