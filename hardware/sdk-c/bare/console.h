/* What the firmware says, line by line. */
#ifndef BARE_CONSOLE_H
#define BARE_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

void print(const char *text);
void print_number(uint64_t value);
void print_hex(uint64_t value);
/* The next whole order, or NULL. One longer than any order is dropped. */
const char *take_order(void);

#endif
