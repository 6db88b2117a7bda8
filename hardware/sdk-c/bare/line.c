#include "line.h"

#include "board.h"
#include "clawgate_limits.h"

#define IN_SIZE 256
#define OUT_SIZE 1024 /* three frames of the smallest message size */
#if CLAW_MESSAGE_MAX > 512
#undef OUT_SIZE
#define OUT_SIZE 8192
#elif RAM_SIZE <= 8192
#undef OUT_SIZE
#define OUT_SIZE 512
#endif

/* One end writes `in`, the other `out`; both run on and are cut where they are used. */
static volatile uint16_t in_in, in_out;
static volatile bool masked;
static uint8_t in_bytes[IN_SIZE];

static uint16_t out_in, out_out;
static uint8_t out_bytes[OUT_SIZE];

void line_interrupt(void)
{
    while ((uint16_t)(in_in - in_out) < IN_SIZE) {
        uint8_t byte;
        if (!board_line_take(&byte)) {
            return;
        }
        in_bytes[in_in % IN_SIZE] = byte;
        in_in++;
    }
    masked = true;
    board_line_interrupt(false);
}

size_t line_take(uint8_t *out, size_t size)
{
    size_t taken = 0;
    while (taken < size && in_out != in_in) {
        out[taken++] = in_bytes[in_out % IN_SIZE];
        in_out++;
    }
    if (masked && taken > 0) {
        masked = false;
        board_line_interrupt(true);
    }
    return taken;
}

bool line_is_empty(void)
{
    return in_out == in_in;
}

bool line_pump(void)
{
    while (out_out != out_in && board_line_put(out_bytes[out_out % OUT_SIZE])) {
        out_out++;
    }
    return out_out != out_in;
}

bool line_send(void *context, const uint8_t *bytes, size_t size)
{
    (void)context;
    line_pump();
    if (size > OUT_SIZE - (size_t)(uint16_t)(out_in - out_out)) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        out_bytes[out_in % OUT_SIZE] = bytes[i];
        out_in++;
    }
    line_pump();
    return true;
}
