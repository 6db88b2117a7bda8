/* What a board gives to the firmware: about 60 lines each, in boards/. */
#ifndef BARE_BOARD_H
#define BARE_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Clocks, pins, the line's receiver with its interrupt, the console. */
void board_start(void);
/* Milliseconds since then; and nanoseconds, as fine as the board's timer counts, to see what things cost. */
uint64_t board_now_ms(void);
uint64_t board_now_ns(void);
/* What the board's interrupts do: drive the clock, call line_interrupt(). */
void board_interrupt(void);
void board_tick(void);

/* The line's UART: a byte that came; a byte to send, if there is room; its interrupt. */
bool board_line_take(uint8_t *byte);
bool board_line_put(uint8_t byte);
void board_line_interrupt(bool on);

/* True random bytes, or false. */
bool board_random(void *context, uint8_t *out, size_t size);

/* The console. Taking gives -1 when nothing was typed. */
int board_console_take(void);
void board_console_put(char symbol);

#endif
