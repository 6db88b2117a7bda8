/* Sessions: answers handshakes, opens and seals records. */
#ifndef CLAW_SESSION_H
#define CLAW_SESSION_H

#include "clawgate_limits.h"
#include "crypto.h"

#define CLAW_HANDSHAKE1_SIZE 58
#define CLAW_HANDSHAKE2_SIZE 50
#define CLAW_RECORD_HEAD 6
#define CLAW_RECORD_TEXT_MAX (CLAW_MESSAGE_MAX - CLAW_RECORD_HEAD - CLAW_TAG_SIZE)
#define CLAW_TAGS_KEPT 16

typedef struct {
    bool present;
    uint8_t index;
    uint8_t slot; /* under which key it was set up */
    uint8_t from_gateway[CLAW_KEY_SIZE];
    uint8_t to_gateway[CLAW_KEY_SIZE];
    uint32_t next_sent;
    uint64_t taken;      /* counters taken: bit 0 is the highest one, bit i the one i below it */
    uint32_t highest;
} claw_session;

typedef struct {
    claw_session live;
    claw_session pending;
    uint64_t pending_since_ms;
    uint8_t heard[CLAW_HANDSHAKE1_SIZE];  /* the pending handshake, and the answer to it */
    uint8_t answer[CLAW_HANDSHAKE2_SIZE];
    uint8_t tags[CLAW_TAGS_KEPT][8];      /* those of the last handshakes taken */
    uint8_t tags_used;
    uint8_t tags_next;
} claw_sessions;

void claw_session_handshake(claw_sensor *sensor, uint8_t *message, size_t size, uint64_t now_ms);
/* Opens a record in place. Gives its text, or NULL. `began`: it made a new session live. */
uint8_t *claw_session_open(claw_sensor *sensor, uint8_t *message, size_t size, size_t *text_size, bool *began);
/* Where the text of the next record is written: CLAW_RECORD_TEXT_MAX bytes. */
uint8_t *claw_session_text(claw_sensor *sensor);
/* Seals and sends that text in the live session. False: not now. */
bool claw_session_send(claw_sensor *sensor, size_t text_size);
void claw_session_end(claw_sensor *sensor);

#endif
