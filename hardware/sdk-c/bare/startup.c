/* From reset to main: vectors, memory, a painted stack. */
#include <stdint.h>

#include "board.h"
#include "cortex.h"
#include "startup.h"

extern uint32_t stack_end[], stack_top[], data_from[], data_start[], data_end[], bss_start[], bss_end[];

#define PAINT UINT32_C(0xa5a5a5a5)

int main(void);

/* Before main there is no C: the lowest words of the stack are still free when this runs. */
void reset(void)
{
    uint32_t *here = __builtin_frame_address(0);
    for (uint32_t *word = stack_end; word < here - 16; word++) {
        *word = PAINT;
    }
    for (uint32_t *from = data_from, *to = data_start; to < data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end;) {
        *to++ = 0;
    }
    main();
    restart();
}

uint32_t stack_peak(void)
{
    const uint32_t *word = stack_end;
    while (word < stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((const char *)stack_top - (const char *)word);
}

/* A fault is the firmware's: the unit starts again, from its flash. Nobody is asked, and nothing is printed: the stack
 * may be what is broken. */
static void fault(void)
{
    restart();
}

#define IRQ board_interrupt
#define IRQ8 IRQ, IRQ, IRQ, IRQ, IRQ, IRQ, IRQ, IRQ

__attribute__((section(".vectors"), used)) static void (*const vectors[16 + 64])(void) = {
    (void (*)(void))(uintptr_t)stack_top, reset, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, board_tick, IRQ8, IRQ8, IRQ8, IRQ8, IRQ8, IRQ8, IRQ8, IRQ8,
};
