#include "systick.h"

#include "board.h"
#include "cortex.h"

static volatile uint32_t low, high;
static uint32_t hz;

void systick_start(uint32_t clock_hz)
{
    hz = clock_hz;
    SYSTICK_RELOAD = clock_hz / 1000 - 1;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7; /* the clock of the processor, with interrupt, on */
}

void board_tick(void)
{
    if (++low == 0) {
        high++;
    }
}

uint64_t board_now_ms(void)
{
    uint32_t before, now;
    do {
        before = high;
        now = low;
    } while (before != high);
    return (uint64_t)before << 32 | now;
}

uint64_t board_now_ns(void)
{
    uint64_t before, now;
    uint32_t left;
    do {
        before = board_now_ms();
        left = SYSTICK_VALUE;
        now = board_now_ms();
    } while (before != now);
    return now * 1000000 + (hz / 1000 - 1 - left) * (UINT64_C(1000000000) / hz);
}
