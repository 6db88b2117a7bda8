#include "frame.h"

#include <string.h>

#define ADDRESS 0x00
#define FIRST 0x80
#define LAST 0x40
#define INDEX 0x3f

/* CRC-32/ISO-HDLC by half bytes: a table of 64 bytes. Begin with 0. */
uint32_t claw_crc32(uint32_t crc, const uint8_t *bytes, size_t size)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc = table[(crc ^ bytes[i]) & 0x0f] ^ (crc >> 4);
        crc = table[(crc ^ (bytes[i] >> 4)) & 0x0f] ^ (crc >> 4);
    }
    return ~crc;
}

/* Takes COBS off, in place. Gives the size, or 0 when it points past its end. */
static size_t uncobs(uint8_t *bytes, size_t size)
{
    size_t from = 0, to = 0;
    while (from < size) {
        uint8_t code = bytes[from++];
        if (code == 0 || (size_t)(code - 1) > size - from) {
            return 0;
        }
        for (uint8_t i = 1; i < code; i++) {
            bytes[to++] = bytes[from++];
        }
        if (code < 0xff && from < size) {
            bytes[to++] = 0;
        }
    }
    return to;
}

/* A fragment whose payload lies at `payload`, anywhere behind the message so far. */
static size_t take_fragment(claw_inbox *inbox, uint8_t header, const uint8_t *payload, size_t size)
{
    bool first = header & FIRST;
    if (first) {
        inbox->message = 0;
        inbox->next = 0;
    }
    bool follows = (first || inbox->inside) && (header & INDEX) == inbox->next;
    inbox->inside = false;
    if (!follows || size == 0 || size > CLAW_MESSAGE_MAX - inbox->message) {
        inbox->message = 0;
        return 0;
    }
    memmove(inbox->bytes + inbox->message, payload, size);
    inbox->message += size;
    if (header & LAST) {
        size_t whole = inbox->message;
        inbox->message = 0;
        return whole;
    }
    inbox->inside = true;
    inbox->next = (uint8_t)((inbox->next + 1) & INDEX);
    return 0;
}

static size_t take_frame(claw_inbox *inbox)
{
    uint8_t *frame = inbox->bytes + inbox->message;
    size_t size = uncobs(frame, inbox->frame);
    if (size < CLAW_FRAME_FIXED || frame[0] != ADDRESS) {
        return 0;
    }
    const uint8_t *end = frame + size - 4;
    uint32_t crc = end[0] | (uint32_t)end[1] << 8 | (uint32_t)end[2] << 16 | (uint32_t)end[3] << 24;
    if (claw_crc32(0, frame, size - 4) != crc) {
        return 0;
    }
    return take_fragment(inbox, frame[1], frame + 2, size - CLAW_FRAME_FIXED);
}

size_t claw_inbox_byte(claw_inbox *inbox, uint8_t byte)
{
    if (byte != 0) {
        if (inbox->message + inbox->frame >= sizeof inbox->bytes) {
            inbox->overrun = true;
        } else {
            inbox->bytes[inbox->message + inbox->frame++] = byte;
        }
        return 0;
    }
    size_t message = inbox->overrun || inbox->frame == 0 ? 0 : take_frame(inbox);
    inbox->frame = 0;
    inbox->overrun = false;
    return message;
}

size_t claw_inbox_value(claw_inbox *inbox, const uint8_t *value, size_t size)
{
    return size < 2 ? 0 : take_fragment(inbox, value[0], value + 1, size - 1);
}

/* Puts COBS on: from `from` to `to`, which lies far enough before it to never catch up. */
static size_t cobs(uint8_t *to, const uint8_t *from, size_t size)
{
    size_t code_at = 0, used = 1;
    uint8_t code = 1;
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = from[i];
        if (byte != 0) {
            to[used++] = byte;
            code++;
        }
        if (byte == 0 || code == 0xff) {
            to[code_at] = code;
            if (byte != 0 && i + 1 == size) {
                return used; /* a full run at the very end needs no code behind it */
            }
            code_at = used++;
            code = 1;
        }
    }
    to[code_at] = code;
    return used;
}

const uint8_t *claw_outbox_frame(claw_outbox *outbox, size_t size, size_t *frame_size)
{
    uint8_t *whole = (uint8_t *)outbox;
    uint8_t *frame = whole + offsetof(claw_outbox, message) - 2;
    frame[0] = ADDRESS;
    frame[1] = FIRST | LAST;
    uint32_t crc = claw_crc32(0, frame, 2 + size);
    for (size_t i = 0; i < 4; i++) {
        frame[2 + size + i] = (uint8_t)(crc >> (8 * i));
    }
    whole[0] = 0;
    size_t coded = cobs(whole + 1, frame, size + CLAW_FRAME_FIXED);
    whole[1 + coded] = 0;
    *frame_size = coded + 2;
    return whole;
}
