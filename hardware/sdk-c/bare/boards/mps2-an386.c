/* Arm MPS2 with the Cortex-M4 image AN386 (an385 is the same with a Cortex-M3): CMSDK UARTs, the console on UART0, the
 * line on UART1. It has no random source: a seed stands in for one, in tests only. */
#include "board.h"
#include "cortex.h"
#include "line.h"
#include "seed.h"
#include "systick.h"

#define CLOCK_HZ 25000000
#define BAUD 115200
#define CONSOLE 0x40004000
#define LINE 0x40005000
#define LINE_IRQ 2

#define DATA(uart) REGISTER((uart) + 0x00)
#define STATE(uart) REGISTER((uart) + 0x04)
#define CONTROL(uart) REGISTER((uart) + 0x08)
#define INTERRUPT(uart) REGISTER((uart) + 0x0c)
#define DIVIDER(uart) REGISTER((uart) + 0x10)

enum { TX_FULL = 1, RX_FULL = 2 };                 /* STATE */
enum { TX_ON = 1, RX_ON = 2, RX_INTERRUPT_ON = 8 }; /* CONTROL */
enum { RX_INTERRUPT = 2 };                         /* INTERRUPT: writing it clears it */

void board_start(void)
{
    DIVIDER(CONSOLE) = CLOCK_HZ / BAUD;
    DIVIDER(LINE) = CLOCK_HZ / BAUD;
    CONTROL(CONSOLE) = TX_ON | RX_ON;
    CONTROL(LINE) = TX_ON | RX_ON | RX_INTERRUPT_ON;
    systick_start(CLOCK_HZ);
    irq_enable(LINE_IRQ);
}

void board_interrupt(void)
{
    INTERRUPT(LINE) = RX_INTERRUPT;
    line_interrupt();
}

bool board_line_take(uint8_t *byte)
{
    if (!(STATE(LINE) & RX_FULL)) {
        return false;
    }
    *byte = (uint8_t)DATA(LINE);
    return true;
}

bool board_line_put(uint8_t byte)
{
    if (STATE(LINE) & TX_FULL) {
        return false;
    }
    DATA(LINE) = byte;
    return true;
}

/* The interrupt's state is an edge: what came while it was off must be asked for. */
void board_line_interrupt(bool on)
{
    if (on) {
        REGISTER(0xe000e200) = 1u << LINE_IRQ; /* pending: board_interrupt() looks */
        irq_enable(LINE_IRQ);
    } else {
        irq_disable(LINE_IRQ);
    }
}

bool board_random(void *context, uint8_t *out, size_t size)
{
    (void)context;
    return seed_random(out, size);
}

int board_console_take(void)
{
    return STATE(CONSOLE) & RX_FULL ? (int)(DATA(CONSOLE) & 0xff) : -1;
}

void board_console_put(char symbol)
{
    while (STATE(CONSOLE) & TX_FULL) {
    }
    DATA(CONSOLE) = (uint8_t)symbol;
}
