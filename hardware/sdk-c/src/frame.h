/* Frames of a serial line and fragments of messages: bytes in, messages out, and the other way. */
#ifndef CLAW_FRAME_H
#define CLAW_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clawgate_limits.h"

/* What a frame adds to its payload: address, header, CRC; COBS; two delimiters. */
#define CLAW_FRAME_FIXED 6
#define CLAW_COBS_MAX(size) ((size) / 254 + 1)
#define CLAW_FRAME_MAX (CLAW_MESSAGE_MAX + CLAW_FRAME_FIXED + CLAW_COBS_MAX(CLAW_MESSAGE_MAX + CLAW_FRAME_FIXED))

/* A message that arrives. The pieces that came lie at the start of `bytes`, the frame that comes behind them. */
typedef struct {
    uint8_t bytes[CLAW_FRAME_MAX];
    size_t message; /* bytes of the message so far */
    size_t frame;   /* bytes of the frame so far, still in COBS */
    uint8_t next;   /* index of the fragment that must come next */
    bool inside;    /* a first fragment came */
    bool overrun;   /* the frame is longer than there is room: dropped up to the next delimiter */
} claw_inbox;

/* One byte of a serial line. Gives the size of the message that it completed, at `bytes`, or 0. */
size_t claw_inbox_byte(claw_inbox *inbox, uint8_t byte);
/* One characteristic value of BLE, the same way. */
size_t claw_inbox_value(claw_inbox *inbox, const uint8_t *value, size_t size);

/* A message that goes out is built at `message`; room for the frame around it is left before and behind. */
typedef struct {
    uint8_t ahead[1 + CLAW_COBS_MAX(CLAW_MESSAGE_MAX + CLAW_FRAME_FIXED) + 2];
    uint8_t message[CLAW_MESSAGE_MAX];
    uint8_t behind[4 + 1];
} claw_outbox;

/* Makes the message of `size` bytes one frame, in place; the message is gone after it. Gives where it starts. */
const uint8_t *claw_outbox_frame(claw_outbox *outbox, size_t size, size_t *frame_size);

uint32_t claw_crc32(uint32_t crc, const uint8_t *bytes, size_t size);

#endif
