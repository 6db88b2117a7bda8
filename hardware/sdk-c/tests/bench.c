#include "bench.h"

#include <string.h>

static bool give_random(void *context, uint8_t *out, size_t size)
{
    bench *b = context;
    for (size_t i = 0; i < size; i++) {
        out[i] = b->random++;
    }
    return true;
}

static bool save(void *context, const uint8_t *bytes, size_t size)
{
    bench *b = context;
    if (b->save_fails) {
        return false;
    }
    memcpy(b->flash, bytes, size);
    b->saves++;
    return true;
}

static bool catch_frame(void *context, const uint8_t *bytes, size_t size)
{
    bench *b = context;
    if (b->line_is_full || b->sent_count == sizeof b->sent / sizeof b->sent[0]) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        size_t message = claw_inbox_byte(&b->decoder, bytes[i]);
        if (message > 0) {
            blob *sent = &b->sent[b->sent_count++];
            memcpy(sent->bytes, b->decoder.bytes, message);
            sent->size = message;
        }
    }
    return true;
}

static void note(void *context, claw_event event, uint32_t value)
{
    bench *b = context;
    b->events[event]++;
    b->last_value[event] = value;
}

static claw_status start(bench *b, const uint8_t *flash, uint64_t now_ms)
{
    claw_board board = {b, give_random, save, catch_frame, note};
    return claw_start(&b->sensor, &board, &b->unit, flash, now_ms);
}

void bench_start(bench *b, const char *label)
{
    memset(b, 0, sizeof *b);
    b->unit = (claw_unit){"th-kit", "TH-Kit", "temperature:Cel", "1.0.0", label, CLAW_UART, b->queue, sizeof b->queue, NULL, 0, 0};
    CHECK(start(b, NULL, 0) == CLAW_OK);
    memset(b->sensor.static_secret, 0x22, 32);
    CHECK(claw_flash_save(&b->sensor));
    CHECK(bench_power_cycle(b, 0) == CLAW_OK);
}

claw_status bench_power_cycle(bench *b, uint64_t now_ms)
{
    uint8_t flash[CLAW_FLASH_SIZE];
    memcpy(flash, b->flash, sizeof flash);
    return start(b, flash, now_ms);
}

static void deliver(bench *b, const blob *message, uint64_t now_ms)
{
    static claw_outbox outbox;
    size_t size;
    memcpy(outbox.message, message->bytes, message->size);
    const uint8_t *frame = claw_outbox_frame(&outbox, message->size, &size);
    b->sent_count = 0;
    claw_receive(&b->sensor, frame, size, now_ms);
}

blob bench_say(bench *b, const blob *message, uint64_t now_ms)
{
    blob nothing = {.size = 0};
    deliver(b, message, now_ms);
    return b->sent_count == 0 ? nothing : b->sent[0];
}

static void step(bench *b, const char *section, const char *said, const char *answered, uint64_t now_ms)
{
    blob message = from_page(section, said), wanted = from_page(section, answered);
    blob answer = bench_say(b, &message, now_ms);
    CHECK_SAME(answer.bytes, answer.size, wanted);
    CHECK(b->sent_count == 1);
}

void bench_pair(bench *b, const char *section, uint64_t now_ms)
{
    if (strcmp(section, "Label") == 0) {
        CHECK(claw_button(&b->sensor, now_ms) == CLAW_OK);
    } else {
        CHECK(claw_enter_code(&b->sensor, "k7qf-3m9b", now_ms) == CLAW_OK);
    }
    b->random = 0x80;
    step(b, section, "M1", "M2", now_ms);
    step(b, section, "M3", "M4", now_ms);
    step(b, section, "M5", "M6", now_ms);
}

void bench_record(bench *b, const char *hex, uint64_t now_ms)
{
    claw_sessions *sessions = &b->sensor.sessions;
    claw_session *session = sessions->pending.present ? &sessions->pending : &sessions->live;
    blob text = from_hex(hex), record;
    uint32_t counter = ++b->counter;
    record.size = 6 + text.size + 16;
    record.bytes[0] = CLAW_RECORD;
    record.bytes[1] = session->index;
    for (size_t i = 0; i < 4; i++) {
        record.bytes[2 + i] = (uint8_t)(counter >> (24 - 8 * i));
    }
    memcpy(record.bytes + 6, text.bytes, text.size);
    claw_seal(session->from_gateway, counter, record.bytes, 6, record.bytes + 6, text.size);
    deliver(b, &record, now_ms);
}

blob bench_open(bench *b, size_t n)
{
    blob text = {.size = 0};
    if (n >= b->sent_count || b->sent[n].size < 22 || b->sent[n].bytes[0] != CLAW_RECORD) {
        return text;
    }
    blob record = b->sent[n];
    uint32_t counter = (uint32_t)record.bytes[2] << 24 | (uint32_t)record.bytes[3] << 16 |
                       (uint32_t)record.bytes[4] << 8 | record.bytes[5];
    if (claw_open(b->sensor.sessions.live.to_gateway, counter, record.bytes, 6, record.bytes + 6, record.size - 6)) {
        text.size = record.size - 22;
        memcpy(text.bytes, record.bytes + 6, text.size);
    }
    return text;
}
