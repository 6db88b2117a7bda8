/* Readings: queued until the gateway has them safe, sent, sent again, and what stands between. */
#ifndef CLAW_TELEMETRY_H
#define CLAW_TELEMETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "clawgate_limits.h"

typedef enum {
    CLAW_HELLO_NONE, /* no live session */
    CLAW_HELLO_DUE,
    CLAW_HELLO_SENT, /* waits for the Ack that answers it */
    CLAW_HELLO_DONE,
} claw_hello;

/* Readings have numbers from 1. Those up to `safe` are the gateway's; those from `first` to `made` lie in the queue;
 * what is between `safe` and `first` was dropped. `next` is the one to be sent next. */
typedef struct {
    uint64_t epoch;
    uint64_t safe;
    uint64_t first;
    uint64_t made;
    uint64_t next;

    size_t start;   /* of the oldest entry in the queue; entries wrap around its end */
    size_t used;
    size_t next_at; /* of the entry `next`, counted from `start` */

    claw_hello hello;
    uint32_t hello_wait_s;
    uint64_t hello_again_ms;

    uint64_t ack_safe; /* what the last Ack said */
    uint64_t ack_next;
    uint64_t back_to;  /* the last going back, and when the next one to the same number may be */
    uint64_t back_again_ms;
    bool in_flight;    /* something was sent and no news came since */
    bool one_only;     /* ... and it waited too long: nothing more until an Ack */
    uint64_t resend_ms;
    uint64_t wait_ms;
    uint32_t carried;  /* readings in the last record */
    uint32_t most;     /* ... that the next one may have: fewer after a loss; 0: as many as fit */

    bool clock_set;
    int64_t clock_offset_ms; /* unix time less uptime */

    bool reply_due;
    uint32_t reply_id;
    uint8_t reply_status;
    bool unpair_due; /* after the reply is out */
} claw_telemetry;

/* New epoch, empty queue. False: no randomness. */
bool claw_telemetry_reset(claw_sensor *sensor);
/* A session became live. */
void claw_telemetry_begin(claw_sensor *sensor);
/* The text of a record came. */
void claw_telemetry_take(claw_sensor *sensor, const uint8_t *text, size_t size, uint64_t now_ms);
/* Sends what is due. Gives when to come again. */
uint64_t claw_telemetry_poll(claw_sensor *sensor, uint64_t now_ms);

#endif
