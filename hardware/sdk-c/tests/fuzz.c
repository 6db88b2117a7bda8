/* A gateway that means no good, with and without keys, at random but the same each time: nothing it sends, and nothing
 * that fails meanwhile, may break the unit. The sanitizers look on. CLAWGATE_FUZZ says how many turns. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "cbor.h"

static bench b;
static uint64_t dice_state = 1;
static blob corpus[16];
static size_t corpus_size;

static uint32_t dice(uint32_t below)
{
    dice_state = dice_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(dice_state >> 33) % below;
}

/* Truncates, flips bits, repeats a piece, puts a length that lies; or leaves it as it is. */
static blob bend(blob message)
{
    for (uint32_t bends = dice(4); bends > 0 && message.size > 0; bends--) {
        size_t at = dice((uint32_t)message.size);
        switch (dice(5)) {
        case 0: message.size = at; break;
        case 1: message.bytes[at] ^= (uint8_t)(1u << dice(8)); break;
        case 2: message.bytes[at] = (uint8_t)dice(256); break;
        case 3: message.bytes[at] = (uint8_t)(0x58 + dice(0x68)); break;
        default:
            if (message.size < 600) {
                memmove(message.bytes + at + 8, message.bytes + at, message.size - at);
                message.size += 8;
            }
        }
    }
    return message;
}

/* A map that a gateway with keys might seal: keys and values near what is read. */
static blob make_text(void)
{
    blob text = {.size = 0};
    claw_writer writer = claw_write_into(text.bytes, 200);
    size_t entries = dice(6);
    claw_put_byte(&writer, (uint8_t)(0x40 + dice(9)));
    claw_put_map(&writer, entries);
    for (size_t i = 0; i < entries; i++) {
        claw_put_uint(&writer, i + (dice(20) == 0 ? dice(30) : 0));
        switch (dice(6)) {
        case 0: claw_put_uint(&writer, b.sensor.telemetry.epoch); break;
        case 1: claw_put_uint(&writer, b.sensor.telemetry.made + dice(3)); break;
        case 2: claw_put_uint(&writer, UINT64_MAX >> dice(64)); break;
        case 3: claw_put_bytes(&writer, "abcdefgh", dice(8)); break;
        case 4: claw_put_int(&writer, -1 - (int64_t)dice(1000)); break;
        default: claw_put_uint(&writer, dice(4));
        }
    }
    text.size = writer.used;
    return bend(text);
}

static void send_record(uint64_t now_ms)
{
    char hex[2 * sizeof(blob) + 1];
    blob text = make_text();
    for (size_t i = 0; i < text.size; i++) {
        hex[2 * i] = "0123456789abcdef"[text.bytes[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[text.bytes[i] & 15];
    }
    hex[2 * text.size] = '\0';
    bench_record(&b, hex, now_ms);
}

static void collect(void)
{
    static const char *const named[][2] = {
        {"Label", "M1"},  {"Label", "M3"},  {"Label", "M5"},  {"Issued", "M1"}, {"Issued", "M3"},
        {"Issued", "M5"}, {"The session after it", "Handshake1"}, {"The session after it", "Record"},
    };
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        corpus[corpus_size++] = from_page(named[i][0], named[i][1]);
    }
    corpus[corpus_size++] = from_line("Frames", "Probe");
    corpus[corpus_size++] = from_line("Discovery", "Identify");
    corpus[corpus_size++] = from_hex("1fa0");
}

static void receive_pieces(const blob *message, uint64_t now_ms)
{
    uint8_t raw[64];
    if (b.sensor.unit.link == CLAW_BLE) {
        for (size_t at = 0, size; at < message->size; at += size) {
            size = 1 + dice(60);
            size = size > message->size - at ? message->size - at : size;
            raw[0] = (uint8_t)(dice(8) == 0 ? dice(256) : (at == 0) << 7 | (at + size == message->size) << 6 | at / 60);
            memcpy(raw + 1, message->bytes + at, size < 63 ? size : 63);
            claw_receive(&b.sensor, raw, 1 + (size < 63 ? size : 63), now_ms);
        }
    } else {
        bench_say(&b, message, now_ms);
        for (size_t i = dice(64); i > 0; i--) {
            raw[i - 1] = (uint8_t)dice(256);
        }
        claw_receive(&b.sensor, raw, dice(64), now_ms);
    }
}

static void turn(uint64_t *now_ms)
{
    claw_value value = {"t", dice(2) ? "Cel" : NULL, dice(100)};
    blob message;
    b.save_fails = dice(20) == 0;
    b.line_is_full = dice(20) == 0;
    b.sent_count = 0;
    *now_ms += dice(4) == 0 ? dice(100000) : dice(10);
    switch (dice(24)) {
    case 0: claw_button(&b.sensor, *now_ms); break;
    case 1: claw_enter_code(&b.sensor, "K7QF-3M9B", *now_ms); break;
    case 2: bench_power_cycle(&b, *now_ms = 0); break;
    case 3: claw_bye(&b.sensor); break;
    case 4: dice(10) == 0 ? (void)claw_factory_reset(&b.sensor, *now_ms) : (void)0; break;
    case 5: b.random = 0x80; break;
    case 6: b.random = 0xc0; break;
    case 7: case 8: claw_report(&b.sensor, &value, 1, *now_ms); break;
    case 9: claw_connected(&b.sensor, (uint16_t)dice(600)); break;
    case 10: case 11: case 12: case 13: send_record(*now_ms); break;
    default:
        message = bend(corpus[dice((uint32_t)corpus_size)]);
        receive_pieces(&message, *now_ms);
    }
    claw_poll(&b.sensor, *now_ms);
}

static void nothing_breaks_it(claw_link link, uint32_t turns)
{
    uint64_t now_ms = 0;
    bench_start(&b, "K7QF-3M9B");
    bench_pair(&b, "Label", 0);
    b.unit.link = link; /* from the next power cycle on */
    for (uint32_t i = 0; i < turns; i++) {
        turn(&now_ms);
        if (i % 1000 == 0) { /* a session to talk in */
            b.save_fails = b.line_is_full = false;
            bench_start(&b, "K7QF-3M9B");
            bench_pair(&b, "Label", 0);
            b.random = 0xc0;
            bench_say(&b, &corpus[6], 0);
            bench_say(&b, &corpus[7], 0);
            CHECK(b.sensor.sessions.live.present);
            b.unit.link = link;
            now_ms = 0;
        }
        CHECK(b.sensor.telemetry.used <= b.unit.queue_size && b.sensor.telemetry.safe <= b.sensor.telemetry.made);
        CHECK(b.sensor.telemetry.next <= b.sensor.telemetry.made + 1);
    }
    b.save_fails = b.line_is_full = false;
    CHECK(claw_factory_reset(&b.sensor, now_ms) == CLAW_OK && !claw_is_paired(&b.sensor));
    bench_start(&b, "K7QF-3M9B");
    bench_pair(&b, "Label", now_ms);
    CHECK(claw_is_paired(&b.sensor));
}

void test_fuzz(void)
{
    const char *wanted = getenv("CLAWGATE_FUZZ");
    uint32_t turns = wanted == NULL ? 20000 : (uint32_t)strtoul(wanted, NULL, 10);
    collect();
    nothing_breaks_it(CLAW_UART, turns);
    nothing_breaks_it(CLAW_BLE, turns);
}
