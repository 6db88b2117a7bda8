/* The data line: rings between its UART and the main loop. */
#ifndef BARE_LINE_H
#define BARE_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* To be called by the UART's interrupt. With a full ring it masks itself: what comes then waits at the other end,
 * or is lost, and the protocol sends it again. */
void line_interrupt(void);
/* Up to `size` bytes that came. */
size_t line_take(uint8_t *out, size_t size);
bool line_is_empty(void);
/* The whole of it, or nothing. */
bool line_send(void *context, const uint8_t *bytes, size_t size);
/* Gives the UART what it has room for. The main loop does not sleep while this gives true: something is left. */
bool line_pump(void);

#endif
