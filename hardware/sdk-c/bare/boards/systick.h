#ifndef BARE_SYSTICK_H
#define BARE_SYSTICK_H

#include <stdint.h>

/* The system timer as the clock: one interrupt a millisecond. */
void systick_start(uint32_t clock_hz);

#endif
