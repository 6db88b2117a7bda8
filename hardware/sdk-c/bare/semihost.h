/* Files of the machine that runs the emulator, by Arm semihosting: they stand for flash and for a random source, and on a
 * board with a single UART for the console. On silicon without a debugger the first call stops the core: a product has
 * drivers of its own instead of this file. */
#ifndef BARE_SEMIHOST_H
#define BARE_SEMIHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clawgate_pages.h"

/* Two pages in the file `flash.bin`; made, and erased, if it is not there. */
bool semihost_flash(claw_flash *flash);
/* The first bytes of `seed.bin`, new at each power-on. False: there is none, or it is too short. */
bool semihost_seed(uint8_t *out, size_t size);
/* One byte more of `console.in`, or -1. */
int semihost_take(void);
void semihost_put(char symbol);

#endif
