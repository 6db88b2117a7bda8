/* BBC micro:bit (nRF51822, Cortex-M0, 16 KiB of RAM): its one UART is the line, so the console goes by semihosting. The
 * chip's random source is used: nothing stands in for it. It has no SysTick; TIMER0 is the clock. */
#include "board.h"
#include "cortex.h"
#include "line.h"
#include "semihost.h"

#define UART 0x40002000
#define UART_IRQ 2
#define TIMER 0x40008000
#define TIMER_IRQ 8
#define RNG 0x4000d000

#define START_RX REGISTER(UART + 0x000)
#define START_TX REGISTER(UART + 0x008)
#define RX_READY REGISTER(UART + 0x108)
#define TX_READY REGISTER(UART + 0x11c)
#define UART_INTERRUPTS REGISTER(UART + 0x304)
#define UART_ENABLE REGISTER(UART + 0x500)
#define UART_PIN_TX REGISTER(UART + 0x50c)
#define UART_PIN_RX REGISTER(UART + 0x514)
#define UART_RX REGISTER(UART + 0x518)
#define UART_TX REGISTER(UART + 0x51c)
#define UART_BAUD REGISTER(UART + 0x524)
#define BAUD_115200 0x01d7e000

#define TIMER_START REGISTER(TIMER + 0x000)
#define TIMER_CAPTURE0 REGISTER(TIMER + 0x040)
#define TIMER_REACHED1 REGISTER(TIMER + 0x144)
#define TIMER_INTERRUPTS REGISTER(TIMER + 0x304)
#define TIMER_BITS REGISTER(TIMER + 0x508)
#define TIMER_PRESCALER REGISTER(TIMER + 0x510)
#define TIMER_AT0 REGISTER(TIMER + 0x540)
#define TIMER_AT1 REGISTER(TIMER + 0x544)

#define RNG_START REGISTER(RNG + 0x000)
#define RNG_STOP REGISTER(RNG + 0x004)
#define RNG_READY REGISTER(RNG + 0x100)
#define RNG_CONFIG REGISTER(RNG + 0x504)
#define RNG_VALUE REGISTER(RNG + 0x508)

#define TICK_US 1000

static bool sending;
static uint64_t us; /* since the start */

static uint32_t now_us(void)
{
    TIMER_CAPTURE0 = 1;
    return TIMER_AT0;
}

void board_start(void)
{
    UART_PIN_TX = 24;
    UART_PIN_RX = 25;
    UART_BAUD = BAUD_115200;
    UART_ENABLE = 4;
    UART_INTERRUPTS = 1u << 2;
    START_RX = 1;
    START_TX = 1;
    TIMER_BITS = 3;      /* 32 */
    TIMER_PRESCALER = 4; /* 16 MHz / 2^4 */
    TIMER_AT1 = TICK_US;
    TIMER_INTERRUPTS = 1u << 17;
    TIMER_START = 1;
    irq_enable(UART_IRQ);
    irq_enable(TIMER_IRQ);
}

/* Called far more often than the 71 minutes in which the timer goes round; not from an interrupt. */
uint64_t board_now_ms(void)
{
    us += (uint32_t)(now_us() - (uint32_t)us);
    return us / 1000;
}

uint64_t board_now_ns(void)
{
    board_now_ms();
    return us * UINT64_C(1000);
}

void board_tick(void)
{
}

void board_interrupt(void)
{
    if (TIMER_REACHED1) {
        TIMER_REACHED1 = 0;
        /* Set too late, it would be reached after 71 minutes, and nothing else wakes a unit that nobody talks to. */
        do {
            TIMER_CAPTURE0 = 1;
            TIMER_AT1 = TIMER_AT0 + TICK_US;
            TIMER_CAPTURE0 = 1;
        } while (TIMER_AT1 - TIMER_AT0 - 1 >= TICK_US);
    }
    line_interrupt();
}

bool board_line_take(uint8_t *byte)
{
    if (!RX_READY) {
        return false;
    }
    RX_READY = 0;
    *byte = (uint8_t)UART_RX;
    return true;
}

bool board_line_put(uint8_t byte)
{
    if (sending && !TX_READY) {
        return false;
    }
    TX_READY = 0;
    sending = true;
    UART_TX = byte;
    return true;
}

void board_line_interrupt(bool on)
{
    (on ? irq_enable : irq_disable)(UART_IRQ);
}

bool board_random(void *context, uint8_t *out, size_t size)
{
    (void)context;
    RNG_CONFIG = 1; /* with its correction of bias */
    RNG_START = 1;
    for (size_t i = 0; i < size; i++) {
        while (!RNG_READY) {
        }
        RNG_READY = 0;
        out[i] = (uint8_t)RNG_VALUE;
    }
    RNG_STOP = 1;
    return true;
}

int board_console_take(void)
{
    return semihost_take();
}

void board_console_put(char symbol)
{
    semihost_put(symbol);
}
