/* The readings in memory: a ring of entries in the unit's queue. */
#ifndef CLAW_QUEUE_H
#define CLAW_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cbor.h"
#include "clawgate_limits.h"

/* Entry: size of the pack (2 bytes), clock set (1), uptime at the capture (8), the pack. */
#define CLAW_ENTRY_HEAD 11

typedef struct {
    size_t pack_at; /* counted from the start of the queue */
    uint16_t pack_size;
    bool has_time;  /* the pack carries its time */
    uint64_t uptime_ms;
} claw_entry;

/* Makes a place for a reading at the end, dropping the oldest ones as needed. Gives how many; the pack must fit at all.
 * The caller writes exactly `size` bytes into `pack`. */
uint32_t claw_queue_put(claw_sensor *sensor, uint16_t size, bool has_time, uint64_t uptime_ms, claw_writer *pack);
/* Forgets readings up to this number. */
void claw_queue_forget(claw_sensor *sensor, uint64_t number);
/* Sets which reading is sent next. */
void claw_queue_seek(claw_sensor *sensor, uint64_t number);
/* The entry that lies `at` bytes from the start; gives where the one after it lies. */
size_t claw_queue_entry(const claw_sensor *sensor, size_t at, claw_entry *entry);
void claw_queue_copy(const claw_sensor *sensor, size_t at, uint8_t *out, size_t size);

#endif
