#include "console.h"

#include <stdbool.h>

#include "board.h"

void print(const char *text)
{
    while (*text != '\0') {
        board_console_put(*text++);
    }
}

static void print_in(uint64_t value, unsigned base, size_t digits)
{
    char text[21];
    char *at = text + sizeof text - 1;
    *at = '\0';
    do {
        *--at = "0123456789abcdef"[value % base];
        value /= base;
    } while (value > 0 || text + sizeof text - 1 - at < (ptrdiff_t)digits);
    print(at);
}

void print_number(uint64_t value)
{
    print_in(value, 10, 1);
}

void print_hex(uint64_t value)
{
    print_in(value, 16, 16);
}

const char *take_order(void)
{
    static char order[48];
    static uint8_t used;
    static bool too_long;
    for (int symbol; (symbol = board_console_take()) >= 0;) {
        if (symbol != '\n' && symbol != '\r') {
            too_long = too_long || used + 1u == sizeof order;
            if (!too_long) {
                order[used++] = (char)symbol;
            }
            continue;
        }
        order[too_long ? 0 : used] = '\0';
        used = 0;
        too_long = false;
        if (order[0] != '\0') {
            return order;
        }
    }
    return NULL;
}
