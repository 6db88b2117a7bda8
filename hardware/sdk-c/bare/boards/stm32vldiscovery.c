/* ST STM32VLDISCOVERY (STM32F100RB, 24 MHz, 8 KiB of RAM): the console on USART1 (PA9, PA10), the line on USART2 (PA2,
 * PA3). It has no random source: a seed stands in for one, in tests only. */
#include "board.h"
#include "cortex.h"
#include "line.h"
#include "seed.h"
#include "systick.h"

#define CLOCK_HZ 24000000
#define BAUD 115200
#define CONSOLE 0x40013800
#define LINE 0x40004400
#define LINE_IRQ 38

#define RCC_CR REGISTER(0x40021000)
#define RCC_CFGR REGISTER(0x40021004)
#define RCC_APB2ENR REGISTER(0x40021018)
#define RCC_APB1ENR REGISTER(0x4002101c)
#define GPIOA_CRL REGISTER(0x40010800)
#define GPIOA_CRH REGISTER(0x40010804)

#define STATUS(usart) REGISTER((usart) + 0x00)
#define DATA(usart) REGISTER((usart) + 0x04)
#define DIVIDER(usart) REGISTER((usart) + 0x08)
#define CONTROL(usart) REGISTER((usart) + 0x0c)

enum { RX_FULL = 1 << 5, TX_EMPTY = 1 << 7 };                              /* STATUS */
enum { ON = 1 << 13, TX_ON = 1 << 3, RX_ON = 1 << 2, RX_INTERRUPT = 1 << 5 }; /* CONTROL */

/* Waits for a bit of the clocks, but not for ever: the emulator has none of them. */
static void wait_for(volatile uint32_t *state, uint32_t bits)
{
    for (int i = 0; i < 10000 && (*state & bits) != bits; i++) {
    }
}

/* The internal oscillator of 8 MHz, halved and times six. */
static void clock_start(void)
{
    RCC_CFGR = 4u << 18;
    RCC_CR |= 1u << 24;
    wait_for(&RCC_CR, 1u << 25);
    RCC_CFGR |= 2;
    wait_for(&RCC_CFGR, 8);
}

void board_start(void)
{
    clock_start();
    RCC_APB2ENR |= 1u << 14 | 1u << 2; /* USART1, port A */
    RCC_APB1ENR |= 1u << 17;           /* USART2 */
    GPIOA_CRL = (GPIOA_CRL & ~0xff00u) | 0x4b00; /* PA2 alternate output, PA3 input */
    GPIOA_CRH = (GPIOA_CRH & ~0x0ff0u) | 0x04b0; /* PA9, PA10 */
    DIVIDER(CONSOLE) = CLOCK_HZ / BAUD;
    DIVIDER(LINE) = CLOCK_HZ / BAUD;
    CONTROL(CONSOLE) = ON | TX_ON | RX_ON;
    CONTROL(LINE) = ON | TX_ON | RX_ON | RX_INTERRUPT;
    systick_start(CLOCK_HZ);
    irq_enable(LINE_IRQ);
}

void board_interrupt(void)
{
    line_interrupt();
}

bool board_line_take(uint8_t *byte)
{
    if (!(STATUS(LINE) & RX_FULL)) {
        return false;
    }
    *byte = (uint8_t)DATA(LINE);
    return true;
}

bool board_line_put(uint8_t byte)
{
    if (!(STATUS(LINE) & TX_EMPTY)) {
        return false;
    }
    DATA(LINE) = byte;
    return true;
}

void board_line_interrupt(bool on)
{
    (on ? irq_enable : irq_disable)(LINE_IRQ);
}

bool board_random(void *context, uint8_t *out, size_t size)
{
    (void)context;
    return seed_random(out, size);
}

int board_console_take(void)
{
    return STATUS(CONSOLE) & RX_FULL ? (int)(DATA(CONSOLE) & 0xff) : -1;
}

void board_console_put(char symbol)
{
    while (!(STATUS(CONSOLE) & TX_EMPTY)) {
    }
    DATA(CONSOLE) = (uint8_t)symbol;
}
