#include "queue.h"

#include "clawgate.h"

void claw_queue_copy(const claw_sensor *sensor, size_t at, uint8_t *out, size_t size)
{
    size_t place = (sensor->telemetry.start + at) % sensor->unit.queue_size;
    for (size_t i = 0; i < size; i++) {
        out[i] = sensor->unit.queue[place];
        place = place + 1 == sensor->unit.queue_size ? 0 : place + 1;
    }
}

size_t claw_queue_entry(const claw_sensor *sensor, size_t at, claw_entry *entry)
{
    uint8_t head[CLAW_ENTRY_HEAD];
    claw_queue_copy(sensor, at, head, sizeof head);
    entry->pack_at = at + CLAW_ENTRY_HEAD;
    entry->pack_size = (uint16_t)(head[0] << 8 | head[1]);
    entry->has_time = head[2] != 0;
    entry->uptime_ms = 0;
    for (size_t i = 3; i < CLAW_ENTRY_HEAD; i++) {
        entry->uptime_ms = entry->uptime_ms << 8 | head[i];
    }
    return entry->pack_at + entry->pack_size;
}

static void drop_oldest(claw_sensor *sensor)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    claw_entry entry;
    size_t size = claw_queue_entry(sensor, 0, &entry);
    telemetry->start = (telemetry->start + size) % sensor->unit.queue_size;
    telemetry->used -= size;
    telemetry->first++;
    telemetry->next_at = telemetry->next_at > size ? telemetry->next_at - size : 0;
}

uint32_t claw_queue_put(claw_sensor *sensor, uint16_t size, bool has_time, uint64_t uptime_ms, claw_writer *pack)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    uint32_t dropped = 0;
    while (sensor->unit.queue_size - telemetry->used < CLAW_ENTRY_HEAD + (size_t)size) {
        drop_oldest(sensor);
        dropped++;
    }
    size_t place = telemetry->start + telemetry->used, ring = sensor->unit.queue_size;
    claw_writer entry = claw_write_into_ring(sensor->unit.queue, ring, place % ring, CLAW_ENTRY_HEAD);
    claw_put_byte(&entry, (uint8_t)(size >> 8));
    claw_put_byte(&entry, (uint8_t)size);
    claw_put_byte(&entry, has_time);
    for (size_t i = 0; i < 8; i++) {
        claw_put_byte(&entry, (uint8_t)(uptime_ms >> (56 - 8 * i)));
    }
    *pack = claw_write_into_ring(sensor->unit.queue, ring, (place + CLAW_ENTRY_HEAD) % ring, size);
    telemetry->used += CLAW_ENTRY_HEAD + (size_t)size;
    telemetry->made++;
    return dropped;
}

void claw_queue_forget(claw_sensor *sensor, uint64_t number)
{
    while (sensor->telemetry.first <= number && sensor->telemetry.first <= sensor->telemetry.made) {
        drop_oldest(sensor);
    }
}

void claw_queue_seek(claw_sensor *sensor, uint64_t number)
{
    claw_telemetry *telemetry = &sensor->telemetry;
    uint64_t from = telemetry->next;
    if (number < from || from < telemetry->first) {
        from = telemetry->first;
        telemetry->next_at = 0;
    }
    for (claw_entry entry; from < number; from++) {
        telemetry->next_at = claw_queue_entry(sensor, telemetry->next_at, &entry);
    }
    telemetry->next = number;
}
