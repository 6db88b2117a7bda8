/* A sensor on a bench: its board is scripted, what it sends is caught, and the test plays the gateway. */
#ifndef CLAW_BENCH_H
#define CLAW_BENCH_H

#include "check.h"
#include "sensor.h"

typedef struct {
    claw_sensor sensor;
    claw_unit unit;
    uint8_t queue[1024];
    uint8_t random;      /* the next random byte: it counts upwards */
    bool save_fails;
    bool line_is_full;
    uint8_t flash[CLAW_FLASH_SIZE];
    int saves;
    blob sent[32];       /* messages that it sent, frames taken off */
    size_t sent_count;
    claw_inbox decoder;
    uint32_t events[16]; /* how often each came, and with what */
    uint32_t last_value[16];
    uint32_t counter;    /* of the gateway's records */
} bench;

/* The unit of the worked example: static secret 22 x 32, nothing paired. */
void bench_start(bench *b, const char *label);
/* Starts again from what its flash holds. */
claw_status bench_power_cycle(bench *b, uint64_t now_ms);
/* A message to the sensor, framed. Gives the first answer, or an empty blob if there was none. */
blob bench_say(bench *b, const blob *message, uint64_t now_ms);
/* The worked example up to M6. */
void bench_pair(bench *b, const char *section, uint64_t now_ms);
/* A record of the gateway with this text, in the pending session if there is one, else in the live one. */
void bench_record(bench *b, const char *hex, uint64_t now_ms);
/* The text of the n-th message sent since, opened as a record of the sensor. */
blob bench_open(bench *b, size_t n);

#endif
