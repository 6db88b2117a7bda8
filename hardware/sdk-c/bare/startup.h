#ifndef BARE_STARTUP_H
#define BARE_STARTUP_H

#include <stdint.h>

/* The most that the stack ever took since reset, in bytes. */
uint32_t stack_peak(void);

#endif
