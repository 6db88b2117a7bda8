/* Random bytes from a seed that is new at each power-on. */
#ifndef BARE_SEED_H
#define BARE_SEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* False: there is no seed, and so no randomness. */
bool seed_random(uint8_t *out, size_t size);

#endif
