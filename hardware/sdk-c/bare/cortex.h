/* What all Cortex-M have: interrupts, the system timer, reset. */
#ifndef BARE_CORTEX_H
#define BARE_CORTEX_H

#include <stdint.h>

#define REGISTER(at) (*(volatile uint32_t *)(uintptr_t)(at))

#define SYSTICK_CONTROL REGISTER(0xe000e010)
#define SYSTICK_RELOAD REGISTER(0xe000e014)
#define SYSTICK_VALUE REGISTER(0xe000e018)
#define AIRCR REGISTER(0xe000ed0c)

static inline void irq_enable(unsigned irq)
{
    REGISTER(0xe000e100 + irq / 32 * 4) = UINT32_C(1) << irq % 32;
}

static inline void irq_disable(unsigned irq)
{
    REGISTER(0xe000e180 + irq / 32 * 4) = UINT32_C(1) << irq % 32;
    __asm volatile("dsb\n isb" ::: "memory");
}

static inline _Noreturn void restart(void)
{
    AIRCR = 0x05fa0004;
    for (;;) {
    }
}

#endif
